(** Statements of the tensor IR, the accesses that [meet.rs] collects of them, and that these are all: a statement changes
    nothing but what some write access is to at some moment, and depends on nothing but what some access is to. So
    iterations whose accesses are to different elements, whenever one of two writes, commute, which is what the rules of
    [meet.rs], [distribute.rs], [join.rs] and [obligations.rs] ask for.

    Buffers that nobody writes are functions ([Op]). What is read of others may be anything at a moment: indices, extents
    and conditions count for every store. *)

From Coq Require Import ZArith List Lia.
From Lathe Require Import Calculus Storage.
Import ListNotations.
Open Scope Z_scope.

Section Statements.
Context {buffer value : Type}.
Context (buffer_eq : forall b c : buffer, {b = c} + {b <> c}) (value_eq : forall v w : value, {v = w} + {v <> w}).
(** Iterations as values, values as numbers of iterations, and as conditions. *)
Context (of_Z : Z -> value) (to_Z : value -> Z) (truth : value -> bool).

(** An element of a buffer; a tuple of indices is one value. *)
Notation loc := (buffer * value)%type.
Notation store := (@store loc value).

(** A loop's variable is known by its place among the loops around. *)
Inductive expr :=
| Const (v : value)
| Var (depth : nat)
| Load (b : buffer) (index : expr)
| Op (f : value -> value -> value) (x y : expr).

(** A block overwrites an element, or combines it with the value by a reducer. *)
Inductive stmt :=
| Skip
| Store (b : buffer) (index : expr) (reducer : option (value -> value -> value)) (val : expr)
| Seq (x y : stmt)
| If (c : expr) (body : stmt)
| For (extent : expr) (body : stmt).

Definition env := list value.

Fixpoint eval (at_ : env) (s : store) (e : expr) : value :=
  match e with
  | Const v => v
  | Var n => nth n at_ (of_Z 0)
  | Load b i => s (b, eval at_ s i)
  | Op f x y => f (eval at_ s x) (eval at_ s y)
  end.

Definition loc_eq (k l : loc) : {k = l} + {k <> l}.
Proof. decide equality. Defined.

(** What a statement does, as the interpreter has it. *)
Fixpoint exec (x : stmt) (at_ : env) (s : store) : store :=
  match x with
  | Skip => s
  | Store b i r e => fun l =>
      if loc_eq l (b, eval at_ s i) then
        match r with None => eval at_ s e | Some f => f (s l) (eval at_ s e) end
      else s l
  | Seq x y => exec y at_ (exec x at_ s)
  | If c x => if truth (eval at_ s c) then exec x at_ s else s
  | For n x => fold_left (fun s i => exec x (at_ ++ [of_Z i]) s) (upto (to_Z (eval at_ s n))) s
  end.

(** * Accesses *)

Inductive around := Loop (extent : expr) | Cond (c : expr).
Record access := Access { inside_of : list around; buffer_of : buffer; index_of : expr; is_write : bool }.

Definition under (a : around) (x : access) : access := Access (a :: inside_of x) (buffer_of x) (index_of x) (is_write x).

Fixpoint loads (e : expr) : list access :=
  match e with
  | Const _ | Var _ => []
  | Load b i => Access [] b i false :: loads i
  | Op _ x y => loads x ++ loads y
  end.

Fixpoint accesses (x : stmt) : list access :=
  match x with
  | Skip => []
  | Store b i _ e => loads e ++ loads i ++ [Access [] b i true]
  | Seq x y => accesses x ++ accesses y
  | If c x => loads c ++ map (under (Cond c)) (accesses x)
  | For n x => loads n ++ map (under (Loop n)) (accesses x)
  end.

(** Some iteration of the loops around an access, under the conditions around it ([Access::moment]). *)
Fixpoint moment (a : list around) (from to : env) : Prop :=
  match a with
  | [] => to = from
  | Loop n :: a => exists (s : store) i, 0 <= i < to_Z (eval from s n) /\ moment a (from ++ [of_Z i]) to
  | Cond c :: a => (exists s : store, truth (eval from s c) = true) /\ moment a from to
  end.

Definition touches (at_ : env) (a : access) (l : loc) : Prop :=
  exists to (s : store), moment (inside_of a) at_ to /\ l = (buffer_of a, eval to s (index_of a)).

Definition written_by (x : stmt) (at_ : env) (l : loc) : Prop :=
  exists a, In a (accesses x) /\ is_write a = true /\ touches at_ a l.
(** An accumulation reads what it writes, so what is written counts as read. *)
Definition read_by (x : stmt) (at_ : env) (l : loc) : Prop := exists a, In a (accesses x) /\ touches at_ a l.

(** * They are all *)

Definition covered (F : store -> store) (R W : loc -> Prop) : Prop :=
  (forall s l, W l \/ F s l = s l) /\
  (forall s t, (forall l, R l -> s l = t l) -> forall l, F s l = F t l \/ (F s l = s l /\ F t l = t l)).

Lemma covered_less F (R W R' W' : loc -> Prop) : covered F R W -> (forall l, R l -> R' l) -> (forall l, W l -> W' l) -> covered F R' W'.
Proof.
  intros [A B] HR HW. split; [intros s l; destruct (A s l); auto | intros s t E; apply B; auto].
Qed.

Lemma covered_seq F G (R W : loc -> Prop) : covered F R W -> covered G R W -> covered (fun s => G (F s)) R W.
Proof.
  intros [A B] [C D]. split.
  - intros s l. destruct (C (F s) l) as [|E]; [auto|]. destruct (A s l) as [|E']; [auto|]. right. congruence.
  - intros s t E l. assert (K : forall k, R k -> F s k = F t k)
      by (intros k Rk; destruct (B s t E k) as [H|[H H']]; [exact H | rewrite H, H'; auto]).
    destruct (D _ _ K l) as [H|[H H']]; [left; exact H|]. destruct (B s t E l) as [I|[I I']]; [left; congruence | right; split; congruence].
Qed.

Lemma covered_fold {T} (F : T -> store -> store) (R W : loc -> Prop) ts :
  (forall t, In t ts -> covered (F t) R W) -> covered (fun s => fold_left (fun s t => F t s) ts s) R W.
Proof.
  induction ts as [|t ts IH]; simpl; intros H; [split; auto|].
  apply (covered_seq (F t) (fun s => fold_left (fun s t => F t s) ts s)); auto.
Qed.

Lemma loads_all e : forall at_ s t, (forall a, In a (loads e) -> forall l, touches at_ a l -> s l = t l) ->
  eval at_ s e = eval at_ t e.
Proof.
  induction e as [v|n|b i IH|f x IHx y IHy]; simpl; intros at_ s t H; auto.
  - rewrite (IH at_ s t) by (intros a A; apply H; right; exact A).
    apply (H (Access [] b i false)); [left; reflexivity|]. exists at_, t. simpl. auto.
  - f_equal; [apply IHx | apply IHy]; intros a I; apply H, in_or_app; auto.
Qed.

(** A statement touches nothing but its accesses. *)
Theorem accesses_are_all : forall x at_, covered (exec x at_) (read_by x at_) (written_by x at_).
Proof.
  induction x as [|b i r e|x IHx y IHy|c x IHx|n x IHx]; intros at_.
  - split; auto.
  - assert (W : forall s, written_by (Store b i r e) at_ (b, eval at_ s i)).
    { intros s. exists (Access [] b i true). split; [simpl; rewrite !in_app_iff; simpl; auto|]. split; [reflexivity|].
      exists at_, s. simpl. auto. }
    split.
    + intros s l. simpl. destruct (loc_eq l (b, eval at_ s i)) as [->|]; auto.
    + intros s t E l. simpl.
      assert (I : eval at_ s i = eval at_ t i).
      { apply loads_all. intros a A k K. apply E. exists a. simpl. rewrite !in_app_iff. auto. }
      assert (V : eval at_ s e = eval at_ t e).
      { apply loads_all. intros a A k K. apply E. exists a. simpl. rewrite !in_app_iff. auto. }
      rewrite <- I, <- V. destruct (loc_eq l (b, eval at_ s i)) as [->|]; [|auto]. left.
      destruct r as [f|]; [|reflexivity]. rewrite E; [reflexivity|].
      destruct (W s) as (a & A & _ & T). exists a. auto.
  - apply (covered_seq (exec x at_) (exec y at_));
      [apply (covered_less _ _ _ _ _ (IHx at_)) | apply (covered_less _ _ _ _ _ (IHy at_))];
      intros l (a & A & T); exists a; simpl; rewrite in_app_iff; auto.
  - assert (C : forall s, truth (eval at_ s c) = true ->
      covered (exec x at_) (read_by (If c x) at_) (written_by (If c x) at_)).
    { intros s T. assert (K : forall a l, touches at_ a l -> touches at_ (under (Cond c) a) l)
        by (intros a l (to & u & M & Q); exists to, u; simpl; eauto).
      apply (covered_less _ _ _ _ _ (IHx at_)).
      - intros l (a & A & Q). exists (under (Cond c) a). simpl. rewrite in_app_iff. auto using in_map.
      - intros l (a & A & X & Q). exists (under (Cond c) a). simpl. rewrite in_app_iff. auto using in_map. }
    split.
    + intros s l. simpl. destruct (truth (eval at_ s c)) eqn:T; [apply (C s T) | auto].
    + intros s t E l. simpl.
      assert (I : eval at_ s c = eval at_ t c).
      { apply loads_all. intros a A k K. apply E. exists a. simpl. rewrite in_app_iff. auto. }
      rewrite <- I. destruct (truth (eval at_ s c)) eqn:T; [apply (C s T), E | auto].
  - assert (C : forall s, covered (fun r => fold_left (fun s i => exec x (at_ ++ [of_Z i]) s) (upto (to_Z (eval at_ s n))) r)
      (read_by (For n x) at_) (written_by (For n x) at_)).
    { intros s. apply (covered_fold (fun i => exec x (at_ ++ [of_Z i]))). intros i Ii. apply in_upto in Ii.
      assert (K : forall a l, touches (at_ ++ [of_Z i]) a l -> touches at_ (under (Loop n) a) l)
        by (intros a l (to & u & M & Q); exists to, u; simpl; eauto 6).
      apply (covered_less _ _ _ _ _ (IHx (at_ ++ [of_Z i]))).
      - intros l (a & A & Q). exists (under (Loop n) a). simpl. rewrite in_app_iff. auto using in_map.
      - intros l (a & A & X & Q). exists (under (Loop n) a). simpl. rewrite in_app_iff. auto using in_map. }
    split.
    + intros s l. apply (C s).
    + intros s t E l. simpl.
      assert (I : eval at_ s n = eval at_ t n).
      { apply loads_all. intros a A k K. apply E. exists a. simpl. rewrite in_app_iff. auto. }
      rewrite <- I. apply (C s), E.
Qed.

Definition command_of (x : stmt) (at_ : env) : command :=
  Command (exec x at_) (read_by x at_) (written_by x at_)
    (proj1 (accesses_are_all x at_)) (proj2 (accesses_are_all x at_)).

(** What [Walk::apart] and [Walk::separate] demand: two accesses of which one writes are to different elements, at any two
    moments. *)
Theorem distinct_commute : forall x y i j,
  (forall p q l, In p (accesses x) -> In q (accesses y) -> is_write p = true \/ is_write q = true ->
     touches i p l -> touches j q l -> False) ->
  commute (command_of x i) (command_of y j).
Proof.
  intros x y i j D. apply apart_commute. repeat split; simpl.
  - intros l (p & P & W & T) (q & Q & _ & U). eauto.
  - intros l (p & P & W & T) (q & Q & U). eauto.
  - intros l (p & P & T) (q & Q & W & U). eauto.
Qed.

(** Rules follow for programs: a loop whose iterations do not meet runs them in any order. *)
Theorem any_order : forall x n at_ is, Permutation.Permutation (upto n) is ->
  (forall i j, 0 <= i < j -> j < n -> forall p q l, In p (accesses x) -> In q (accesses x) ->
     is_write p = true \/ is_write q = true -> touches (at_ ++ [of_Z i]) p l -> touches (at_ ++ [of_Z j]) q l -> False) ->
  forall s, same (fold_left (fun s i => exec x (at_ ++ [of_Z i]) s) is s)
    (fold_left (fun s i => exec x (at_ ++ [of_Z i]) s) (upto n) s).
Proof.
  intros x n at_ is P D s l. symmetry.
  apply (reorder (fun i => command_of x (at_ ++ [of_Z i])) (upto n) is P).
  intros i j B _. pose proof (before_in _ _ _ B) as [I J]. apply in_upto in I, J. apply before_upto in B.
  apply distinct_commute. apply D; lia.
Qed.

(** * Instances of blocks *)

(** What no written buffer decides, and values whose elements none decides: the rules of [Storage.v] refuse others. *)
Fixpoint fixed (e : expr) : Prop :=
  match e with
  | Load _ _ => False
  | Op _ x y => fixed x /\ fixed y
  | _ => True
  end.
Fixpoint plain (e : expr) : Prop :=
  match e with
  | Load _ i => fixed i
  | Op _ x y => plain x /\ plain y
  | _ => True
  end.
Fixpoint steady (x : stmt) : Prop :=
  match x with
  | Skip => True
  | Store _ i _ e => fixed i /\ plain e
  | Seq x y => steady x /\ steady y
  | If c x => fixed c /\ steady x
  | For n x => fixed n /\ steady x
  end.

Definition pick (at_ : env) (e : expr) : value := eval at_ (fun _ => of_Z 0) e.

Lemma fixed_eval e at_ s : fixed e -> eval at_ s e = pick at_ e.
Proof.
  unfold pick. induction e as [v|n|b i IH|f x IHx y IHy]; simpl; try tauto. intros [X Y]. rewrite IHx, IHy; auto.
Qed.

Fixpoint sources_of (at_ : env) (e : expr) : list loc :=
  match e with
  | Load b i => [(b, pick at_ i)]
  | Op _ x y => sources_of at_ x ++ sources_of at_ y
  | _ => []
  end.

(** The value, from what was read. *)
Fixpoint from (at_ : env) (e : expr) (read : list value) : value :=
  match e with
  | Const v => v
  | Var n => nth n at_ (of_Z 0)
  | Load _ _ => hd (of_Z 0) read
  | Op f x y => let n := length (sources_of at_ x) in f (from at_ x (firstn n read)) (from at_ y (skipn n read))
  end.

Lemma plain_eval e at_ s : plain e -> eval at_ s e = from at_ e (map s (sources_of at_ e)).
Proof.
  induction e as [v|n|b i IH|f x IHx y IHy]; simpl; auto.
  - intros F. rewrite (fixed_eval i at_ s F). reflexivity.
  - intros [X Y]. rewrite map_app, IHx, IHy by auto.
    assert (L : length (map s (sources_of at_ x)) = length (sources_of at_ x)) by apply map_length.
    rewrite <- L at 1 2. rewrite firstn_app, skipn_app, Nat.sub_diag, firstn_all, skipn_all, firstn_O, app_nil_r.
    reflexivity.
Qed.

(** The blocks that a statement runs, in their order. *)
Fixpoint instances (x : stmt) (at_ : env) : list (@block loc value) :=
  match x with
  | Skip => []
  | Store b i r e =>
      let l := (b, pick at_ i) in
      match r with
      | None => [Block (sources_of at_ e) [(l, from at_ e)]]
      | Some f => [Block (l :: sources_of at_ e) [(l, fun read => f (hd (of_Z 0) read) (from at_ e (tl read)))]]
      end
  | Seq x y => instances x at_ ++ instances y at_
  | If c x => if truth (pick at_ c) then instances x at_ else []
  | For n x => flat_map (fun i => instances x (at_ ++ [of_Z i])) (upto (to_Z (pick at_ n)))
  end.

Lemma do_all_same bs : forall s t : store, same s t -> same (do_all loc_eq bs s) (do_all loc_eq bs t).
Proof.
  induction bs as [|b bs IH]; intros s t E; [exact E|]. apply (IH (do loc_eq b s) (do loc_eq b t)).
  intros l. unfold do. rewrite E, (map_ext s t E). reflexivity.
Qed.

(** So the theorems of [Storage.v], about sequences of blocks, are about statements. *)
Theorem instances_are_all : forall x at_, steady x -> forall s, same (exec x at_ s) (do_all loc_eq (instances x at_) s).
Proof.
  induction x as [|b i r e|x IHx y IHy|c x IHx|n x IHx]; intros at_ S s l; simpl in S.
  - reflexivity.
  - destruct S as [I E]. simpl. rewrite (fixed_eval i at_ s I), (plain_eval e at_ s E).
    unfold do_all. destruct r as [f|]; simpl; unfold do; simpl; destruct (loc_eq l (b, pick at_ i)) as [->|]; reflexivity.
  - destruct S as [X Y]. simpl. unfold do_all. rewrite fold_left_app. fold (do_all loc_eq (instances x at_) s).
    change (exec y at_ (exec x at_ s) l = do_all loc_eq (instances y at_) (do_all loc_eq (instances x at_) s) l).
    rewrite (IHy at_ Y (exec x at_ s) l). apply do_all_same, IHx, X.
  - destruct S as [C X]. simpl. rewrite (fixed_eval c at_ s C). destruct (truth (pick at_ c)); [apply IHx, X | reflexivity].
  - destruct S as [N X]. simpl. rewrite (fixed_eval n at_ s N). generalize (upto (to_Z (pick at_ n))). intros is.
    revert s. induction is as [|i is IH]; intros s; [reflexivity|]. simpl. unfold do_all. rewrite fold_left_app.
    rewrite IH. apply do_all_same. apply IHx, X.
Qed.
End Statements.

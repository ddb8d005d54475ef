(** Stores, commands that say what they touch, sequences of them, and nests of loops: what programs of the tensor IR mean,
    as far as the rules of [lathe-verify] need it. A location is an element of a buffer; equal stores are equal at each
    location, so nothing here needs an axiom. Indices and extents that no written buffer decides are functions of the
    iteration. *)

From Coq Require Import ZArith List Lia Permutation.
Import ListNotations.

Section Commands.
Context {loc value : Type}.

Definition store := loc -> value.
Definition same (s t : store) : Prop := forall l, s l = t l.

(** What changes a store, with all that it may read and write: the accesses that [meet.rs] collects, at all moments. *)
Record command := Command {
  run : store -> store;
  reads : loc -> Prop;
  writes : loc -> Prop;
  (** What is not written stays. *)
  frame : forall s l, writes l \/ run s l = s l;
  (** What is written depends on what is read alone. *)
  depends : forall s t, (forall l, reads l -> s l = t l) ->
    forall l, run s l = run t l \/ (run s l = s l /\ run t l = t l)
}.

Lemma run_same c s t : same s t -> same (run c s) (run c t).
Proof.
  intros E l. destruct (depends c s t (fun l _ => E l) l) as [H|[H K]]; [exact H|]. rewrite H, K. apply E.
Qed.

(** Both in any order do the same. *)
Definition commute (x y : command) : Prop := forall s, same (run x (run y s)) (run y (run x s)).

(** They do not meet: neither writes what the other touches. *)
Definition apart (x y : command) : Prop :=
  (forall l, writes x l -> writes y l -> False) /\
  (forall l, writes x l -> reads y l -> False) /\
  (forall l, reads x l -> writes y l -> False).

Lemma commute_sym x y : commute x y -> commute y x.
Proof. intros C s l. symmetry. apply C. Qed.

Theorem apart_commute : forall x y, apart x y -> commute x y.
Proof.
  intros x y (WW & WR & RW) s l.
  assert (rx : forall k, reads x k -> s k = run y s k)
    by (intros k R; destruct (frame y s k) as [W|E]; [destruct (RW k R W) | auto]).
  assert (ry : forall k, reads y k -> s k = run x s k)
    by (intros k R; destruct (frame x s k) as [W|E]; [destruct (WR k W R) | auto]).
  assert (first : writes x l -> run x (run y s) l = run y (run x s) l).
  { intros X. destruct (frame y s l) as [W|E]; [destruct (WW l X W)|].
    destruct (frame y (run x s) l) as [W|F]; [destruct (WW l X W)|].
    destruct (depends x _ _ rx l) as [A|[A B]]; congruence. }
  destruct (frame x s l) as [W|E]; [auto|]. destruct (frame x (run y s) l) as [W|F]; [auto|].
  destruct (depends y _ _ ry l) as [A|[A B]]; congruence.
Qed.

(** A block that writes one element: which, and what value, are decided by what is read. *)
Definition assign (eq_dec : forall k l : loc, {k = l} + {k <> l}) (target : store -> loc) (val : store -> value)
  (R W : loc -> Prop) (inside : forall s, W (target s))
  (picks : forall s t, (forall l, R l -> s l = t l) -> target s = target t)
  (takes : forall s t, (forall l, R l -> s l = t l) -> val s = val t) : command.
Proof.
  refine (Command (fun s l => if eq_dec l (target s) then val s else s l) R W _ _).
  - intros s l. destruct (eq_dec l (target s)) as [->|]; auto.
  - intros s t E l. rewrite <- (picks s t E). destruct (eq_dec l (target s)); auto.
Defined.

Definition skip : command.
Proof. refine (Command (fun s => s) (fun _ => False) (fun _ => False) _ _); auto. Defined.

(** One after the other touches what both touch. *)
Definition seq (x y : command) : command.
Proof.
  refine (Command (fun s => run y (run x s)) (fun l => reads x l \/ reads y l) (fun l => writes x l \/ writes y l) _ _).
  - intros s l. destruct (frame y (run x s) l) as [W|E]; [auto|].
    destruct (frame x s l) as [W|F]; [auto|]. right. congruence.
  - intros s t E l. assert (X := depends x s t (fun k R => E k (or_introl R))).
    assert (Y : forall k, reads y k -> run x s k = run x t k)
      by (intros k R; destruct (X k) as [H|[H K]]; [exact H | rewrite H, K; auto]).
    destruct (depends y _ _ Y l) as [H|[H K]]; [auto|].
    destruct (X l) as [F|[F G]]; [left | right; split]; congruence.
Defined.

(** A block under a condition, which reads what decides it too. *)
Definition guarded (b : store -> bool) (R : loc -> Prop) (x : command)
  (decides : forall s t, (forall l, R l -> s l = t l) -> b s = b t) : command.
Proof.
  refine (Command (fun s => if b s then run x s else s) (fun l => R l \/ reads x l) (writes x) _ _).
  - intros s l. destruct (b s); [apply frame | auto].
  - intros s t E l. rewrite <- (decides s t) by auto. destruct (b s); [|auto]. apply depends. auto.
Defined.

(** Commands by name, one after the other. *)
Definition runs {T} (c : T -> command) (ts : list T) (s : store) : store := fold_left (fun s x => run (c x) s) ts s.

Lemma runs_app {T} (c : T -> command) a b s : runs c (a ++ b) s = runs c b (runs c a s).
Proof. apply fold_left_app. Qed.

Lemma runs_same {T} (c : T -> command) ts : forall s t, same s t -> same (runs c ts s) (runs c ts t).
Proof. induction ts as [|x ts IH]; simpl; auto. intros s t E. apply IH, run_same, E. Qed.

Lemma runs_equal {T U} (c : T -> command) (d : U -> command) (f : T -> U) ts :
  (forall x, In x ts -> forall s, same (run (c x) s) (run (d (f x)) s)) ->
  forall s, same (runs c ts s) (runs d (map f ts) s).
Proof.
  induction ts as [|x ts IH]; simpl; intros H s; [intros l; reflexivity|].
  intros l. rewrite IH by auto. apply runs_same. apply H. auto.
Qed.

Lemma runs_commute {T} (c : T -> command) x ts : (forall y, In y ts -> commute (c x) (c y)) ->
  forall s, same (runs c (ts ++ [x]) s) (runs c (x :: ts) s).
Proof.
  induction ts as [|y ts IH]; simpl; intros H s; [intros l; reflexivity|].
  intros l. rewrite IH by auto. simpl. apply runs_same. apply H. auto.
Qed.

(** One thing stands before another in a list. *)
Fixpoint before {T} (ts : list T) (x y : T) : Prop :=
  match ts with
  | [] => False
  | t :: ts => (t = x /\ In y ts) \/ before ts x y
  end.

Lemma before_in {T} (ts : list T) x y : before ts x y -> In x ts /\ In y ts.
Proof. induction ts as [|t ts IH]; simpl; [tauto|]. intros [[-> I]|B]; [auto|]. destruct (IH B); auto. Qed.

Lemma before_insert {T} (t : T) a b x y : before (a ++ b) x y -> before (a ++ t :: b) x y.
Proof.
  induction a as [|w a IH]; simpl; [auto|]. intros [[-> I]|B]; [left|right; auto].
  split; auto. rewrite in_app_iff in *. simpl. tauto.
Qed.

Lemma before_middle {T} (x : T) a b y : In y a -> before (a ++ x :: b) y x.
Proof.
  induction a as [|w a IH]; simpl; [tauto|]. intros [->|I]; [left|right; auto].
  split; auto. rewrite in_app_iff. simpl. auto.
Qed.

Lemma before_app {T} a b (x y : T) : before (a ++ b) x y <-> before a x y \/ before b x y \/ (In x a /\ In y b).
Proof. induction a as [|w a IH]; simpl; [tauto|]. rewrite IH, in_app_iff. intuition (subst; auto). Qed.

Lemma before_map {T U} (f : T -> U) ts x y :
  before (map f ts) x y -> exists u v, before ts u v /\ f u = x /\ f v = y.
Proof.
  induction ts as [|t ts IH]; simpl; [tauto|]. intros [[E I]|B].
  - apply in_map_iff in I as (v & V & I). exists t, v. auto.
  - destruct (IH B) as (u & v & B' & U1 & V1). exists u, v. auto.
Qed.

(** What every rule that moves iterations stands on: the same commands in another order do the same where those that
    change places commute. *)
Theorem reorder : forall {T} (c : T -> command) ts us, Permutation ts us ->
  (forall x y, before ts x y -> before us y x -> commute (c x) (c y)) ->
  forall s, same (runs c ts s) (runs c us s).
Proof.
  intros T c. induction ts as [|x ts IH]; intros us P H s.
  - apply Permutation_nil in P as ->. intros l. reflexivity.
  - assert (I : In x us) by (apply (Permutation_in _ P); simpl; auto).
    destruct (in_split _ _ I) as (a & b & ->). apply Permutation_cons_app_inv in P.
    assert (M : forall y, In y a -> commute (c x) (c y)).
    { intros y Y. apply H; [|apply before_middle; auto]. simpl. left. split; auto.
      apply (Permutation_in y (Permutation_sym P)). apply in_or_app. auto. }
    intros l. change (x :: b) with ([x] ++ b). rewrite app_assoc, runs_app.
    rewrite (runs_same c b _ _ (runs_commute c x a M s) l). simpl. rewrite <- runs_app.
    apply IH; auto. intros y z B C. apply H; simpl; auto using before_insert.
Qed.
End Commands.

(** * Loops *)

(** The iterations of a loop: 0, 1, ... below the extent. *)
Definition upto (n : Z) : list Z := map Z.of_nat (List.seq 0 (Z.to_nat n)).

Lemma in_upto n i : In i (upto n) <-> (0 <= i < n)%Z.
Proof.
  unfold upto. rewrite in_map_iff. split.
  - intros (k & <- & K). apply in_seq in K. lia.
  - intros H. exists (Z.to_nat i). rewrite in_seq. lia.
Qed.

Lemma upto_succ n : (0 <= n)%Z -> upto (n + 1) = upto n ++ [n].
Proof.
  intros H. unfold upto. replace (Z.to_nat (n + 1)) with (S (Z.to_nat n)) by lia.
  rewrite seq_S, map_app. simpl. rewrite Z2Nat.id by lia. reflexivity.
Qed.

Lemma upto_plus n m : (0 <= n)%Z -> (0 <= m)%Z -> upto (n + m) = upto n ++ map (fun j => (n + j)%Z) (upto m).
Proof.
  intros H K. unfold upto. rewrite Z2Nat.inj_add, seq_app, map_app by lia. f_equal.
  rewrite map_map. rewrite <- (Nat.add_0_r (Z.to_nat n)) at 1.
  generalize 0 at 2 3. induction (Z.to_nat m) as [|k IH]; intros z; simpl; [reflexivity|].
  f_equal; [lia|]. rewrite <- IH. f_equal. f_equal. lia.
Qed.

Lemma before_seq a : forall n x y, before (List.seq a n) x y -> x < y.
Proof.
  intros n. revert a. induction n as [|n IH]; simpl; [tauto|]. intros a x y [[-> I]|B]; [|eauto].
  apply in_seq in I. lia.
Qed.

Lemma before_upto n x y : before (upto n) x y -> (x < y)%Z.
Proof. intros B. apply before_map in B as (u & v & B & <- & <-). apply before_seq in B. lia. Qed.

Lemma nodup_upto n : NoDup (upto n).
Proof. apply FinFun.Injective_map_NoDup; [intros x y; lia | apply seq_NoDup]. Qed.

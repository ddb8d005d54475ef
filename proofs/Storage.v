(** Rules of temporaries: their storage ([Walk::storage] of [obligations.rs]: [align], [skew], [set_memory]), a temporary
    contracted ([contract.rs]) or given a dimension ([distribute.rs], for [sink]), a cache ([cache.rs]), a copy filled
    ([fill.rs], for [cache_read]), and an element held ([hold.rs], for [stage]). In all of them a program uses other elements in the place of some, and what
    is demanded is that the two sets of elements stand for each other while it does. *)

From Coq Require Import ZArith List Lia.
From Lathe Require Import Calculus.
Import ListNotations.

Section Blocks.
Context {loc value : Type}.
Context (loc_eq : forall k l : loc, {k = l} + {k <> l}).
Notation store := (@store loc value).

(** An instance of a block: it reads some elements and writes some, each a function of what is read. Which they are is
    decided by the iteration, not by what is written: the rules refuse other blocks. An accumulation reads what it writes. *)
Record block := Block {
  sources : list loc;
  targets : list (loc * (list value -> value))
}.

Fixpoint written (ts : list (loc * (list value -> value))) (read : list value) (old : value) (l : loc) : value :=
  match ts with
  | [] => old
  | (k, f) :: ts => if loc_eq l k then f read else written ts read old l
  end.

Definition do (b : block) (s : store) : store := fun l => written (targets b) (map s (sources b)) (s l) l.
Definition do_all (bs : list block) (s : store) : store := fold_left (fun s b => do b s) bs s.

(** What a block writes. *)
Definition wrote (b : block) (l : loc) : Prop := In l (map fst (targets b)).
Definition wrote_any (bs : list block) (l : loc) : Prop := exists b, In b bs /\ wrote b l.

Lemma written_not ts read old l : ~ In l (map fst ts) -> written ts read old l = old.
Proof.
  induction ts as [|[k f] ts IH]; simpl; intros H; [reflexivity|].
  destruct (loc_eq l k) as [->|]; [destruct H; auto | auto].
Qed.

Lemma do_not b s l : ~ wrote b l -> do b s l = s l.
Proof. apply written_not. Qed.

Lemma do_all_not bs : forall s l, ~ wrote_any bs l -> do_all bs s l = s l.
Proof.
  induction bs as [|b bs IH]; simpl; intros s l H; [reflexivity|]. unfold do_all in *. simpl. rewrite IH.
  - apply do_not. intros W. apply H. exists b. simpl. auto.
  - intros (c & I & W). apply H. exists c. simpl. auto.
Qed.

Lemma wrote_dec b l : wrote b l \/ ~ wrote b l.
Proof. destruct (in_dec loc_eq l (map fst (targets b))); auto. Qed.

(** The block with other elements in the place of its own. *)
Definition renamed (f : loc -> loc) (b : block) : block :=
  Block (map f (sources b)) (map (fun t => (f (fst t), snd t)) (targets b)).

(** Each of some elements is held by the one that it is called in the other store. *)
Definition held (f : loc -> loc) (live : loc -> Prop) (s t : store) : Prop := forall l, live l -> s l = t (f l).

(** Two elements that are touched are the same after exactly where they were before ([Walk::same_elements]). *)
Definition apart_on (f : loc -> loc) (touched : loc -> Prop) : Prop :=
  forall k l, touched k -> touched l -> f k = f l -> k = l.

Lemma do_renamed f (live touched : loc -> Prop) b s t :
  apart_on f touched -> (forall l, live l -> touched l) -> (forall l, wrote b l -> touched l) ->
  (forall l, In l (sources b) -> live l) ->
  held f live s t -> held f (fun l => live l \/ wrote b l) (do b s) (do (renamed f b) t).
Proof.
  intros A L W R H l D. unfold do. simpl.
  assert (E : map t (map f (sources b)) = map s (sources b)).
  { rewrite map_map. apply map_ext_in. intros k K. symmetry. apply H, R, K. }
  rewrite E. generalize (map s (sources b)). intros read.
  assert (T : touched l) by (destruct D; auto).
  assert (G : forall ts, (forall k, In k (map fst ts) -> touched k) -> (live l \/ In l (map fst ts)) ->
    written ts read (s l) l = written (map (fun t => (f (fst t), snd t)) ts) read (t (f l)) (f l)).
  { induction ts as [|[k g] ts IH]; simpl; intros K O.
    - destruct O as [O|[]]. apply H, O.
    - destruct (loc_eq l k) as [e|n], (loc_eq (f l) (f k)) as [e'|n']; try congruence.
      + destruct n. apply A; auto.
      + apply IH; [auto|]. destruct O as [O|[O|O]]; auto. congruence. }
  apply G; [exact W | exact D].
Qed.

(** What is written before it is read: the elements that may be read grow with each block. *)
Fixpoint written_first (live : loc -> Prop) (bs : list block) : Prop :=
  match bs with
  | [] => True
  | b :: bs => (forall l, In l (sources b) -> live l) /\ written_first (fun l => live l \/ wrote b l) bs
  end.

Lemma written_first_more bs : forall p q : loc -> Prop, (forall l, p l -> q l) -> written_first p bs -> written_first q bs.
Proof.
  induction bs as [|b bs IH]; simpl; auto. intros p q H [A B]. split; [auto|].
  apply (IH (fun l => p l \/ wrote b l)); [intros l [P|W]; auto | exact B].
Qed.

(** The rule of storage: blocks do the same to elements that are called otherwise, if different ones stay different and
    nothing is read that is not written before. *)
Theorem elsewhere : forall f (touched : loc -> Prop), apart_on f touched ->
  forall bs (live : loc -> Prop), (forall l, live l -> touched l) -> (forall l, wrote_any bs l -> touched l) ->
  written_first live bs ->
  forall s t, held f live s t -> held f (fun l => live l \/ wrote_any bs l) (do_all bs s) (do_all (map (renamed f) bs) t).
Proof.
  intros f touched A. induction bs as [|b bs IH]; intros live L W F s t H.
  - intros l [D|(b & [] & _)]. apply H, D.
  - destruct F as [R F]. unfold do_all. simpl.
    assert (Wb : forall l, wrote b l -> touched l) by (intros l K; apply W; exists b; simpl; auto).
    pose proof (do_renamed f live touched b s t A L Wb R H) as Hb.
    assert (G : held f (fun l => (live l \/ wrote b l) \/ wrote_any bs l) (do_all bs (do b s))
      (do_all (map (renamed f) bs) (do (renamed f b) t))).
    { apply IH; auto.
      - intros l [D|D]; auto.
      - intros l (c & I & C). apply W. exists c. simpl. auto. }
    intros l D. apply G. destruct D as [D|(c & [->|I] & C)]; [auto | auto |]. right. exists c. auto.
Qed.

(** A temporary contracted: in each iteration of the loops that it moves into, elements are called by a map of that
    iteration. The map is nothing to what is [outside] of the temporary, keeps apart what the iteration touches, and the
    iteration reads nothing of the temporary that it has not written. Then all that is outside is the same. Read from
    right to left, it is the rule of a temporary that gets a dimension. *)
Theorem contract : forall (outside : loc -> Prop) (iterations : list (list block * (loc -> loc))),
  (forall bs f, In (bs, f) iterations ->
     (forall l, outside l -> f l = l) /\
     apart_on f (fun l => outside l \/ wrote_any bs l) /\
     written_first outside bs) ->
  forall s t, (forall l, outside l -> s l = t l) ->
  forall l, outside l ->
    do_all (flat_map fst iterations) s l =
    do_all (flat_map (fun i => map (renamed (snd i)) (fst i)) iterations) t l.
Proof.
  intros outside. induction iterations as [|[bs f] is IH]; intros H s t E l O; [apply E, O|].
  simpl. unfold do_all. rewrite !fold_left_app. fold (do_all bs s) (do_all (map (renamed f) bs) t).
  apply IH; [intros b g I; apply H; simpl; auto| |exact O].
  destruct (H bs f (or_introl eq_refl)) as (own & A & F). intros k K.
  assert (G := elsewhere f _ A bs outside (fun l D => or_introl D) (fun l D => or_intror D) F s t).
  rewrite (G (fun l D => eq_trans (E l D) (f_equal t (eq_sym (own l D)))) k (or_introl K)). rewrite own; auto.
Qed.

(** Where iterations touch different elements ([Walk::others_elements]), and the program reads nothing that it has not
    written, an iteration reads nothing but what itself has written. *)
Theorem others_elements : forall (outside : loc -> Prop) earlier bs,
  written_first (fun l => outside l \/ wrote_any earlier l) bs ->
  (forall b l, In b bs -> In l (sources b) -> ~ wrote_any earlier l) ->
  written_first outside bs.
Proof.
  intros outside earlier bs F D.
  assert (G : forall bs (mine : loc -> Prop), (forall b l, In b bs -> In l (sources b) -> ~ wrote_any earlier l) ->
    written_first (fun l => mine l \/ wrote_any earlier l) bs -> written_first mine bs).
  { clear. induction bs as [|b bs IH]; simpl; auto. intros mine D [A B]. split.
    - intros l L. destruct (A l L) as [M|W]; [exact M | destruct (D b l); auto].
    - apply IH; [intros c l C; apply D; auto|]. eapply written_first_more; [|exact B]. intros l [[?|?]|?]; auto. }
  apply G; auto.
Qed.

(** [cache_write]: what an iteration does to elements of a buffer is done to those of a cache that stand for them ([f]),
    none of which exists before, and each is copied [home] at the end. No two go to one place; all are written first. *)
Theorem cache : forall (f home : loc -> loc) (cached : list loc) (copied : loc -> Prop) bs,
  (* [copied] elements of the buffer are those that the cache's are copied to, and each of the cache stands for one *)
  (forall u, In u cached -> copied (home u) /\ f (home u) = u) ->
  (forall l, copied l -> In (f l) cached /\ home (f l) = l) ->
  (forall u, In u cached -> ~ copied u) ->
  (* whatever else is touched is itself, and no element of the cache *)
  (forall l, ~ copied l -> f l = l) ->
  (forall b l, In b bs -> In l (sources b) \/ wrote b l -> ~ In l cached) ->
  (* all of the cache is written, and before it is read *)
  (forall l, copied l -> wrote_any bs l) ->
  written_first (fun l => ~ copied l /\ ~ In l cached) bs ->
  forall s l, ~ In l cached ->
    fold_left (fun t u => fun k => if loc_eq k (home u) then t u else t k) cached (do_all (map (renamed f) bs) s) l =
    do_all bs s l.
Proof.
  intros f home cached copied bs Home Back Apart Own Clear All First s l L.
  assert (Dec : forall l, copied l \/ ~ copied l).
  { intros k. destruct (in_dec loc_eq k (map home cached)) as [I|N].
    - apply in_map_iff in I as (u & <- & U). left. apply Home, U.
    - right. intros C. destruct (Back k C) as [I E]. apply N. rewrite <- E. apply in_map, I. }
  assert (A : apart_on f (fun l => ~ In l cached)).
  { intros k m K M E. destruct (Dec k) as [C|C], (Dec m) as [D|D].
    - rewrite <- (proj2 (Back k C)), <- (proj2 (Back m D)). f_equal. exact E.
    - rewrite (Own m D) in E. destruct M. rewrite <- E. apply Back, C.
    - rewrite (Own k C) in E. destruct K. rewrite E. apply Back, D.
    - rewrite (Own k C), (Own m D) in E. exact E. }
  assert (G := elsewhere f (fun l => ~ In l cached) A bs (fun l => ~ copied l /\ ~ In l cached) (fun l D => proj2 D)).
  assert (W : forall l, wrote_any bs l -> ~ In l cached) by (intros k (b & I & C); apply (Clear b k I); auto).
  specialize (G W First s s).
  assert (H : held f (fun l => ~ copied l /\ ~ In l cached) s s) by (intros k [K _]; rewrite Own; auto).
  specialize (G H). clear H. set (t := do_all (map (renamed f) bs) s) in *.
  (* The copies, one after the other. *)
  assert (Out : forall us (t : store), (forall u, In u us -> In u cached) -> forall k,
    let r := fold_left (fun t u => fun k => if loc_eq k (home u) then t u else t k) us t in
    (In k cached -> r k = t k) /\
    ((exists u, In u us /\ k = home u /\ r k = t u) \/ ((forall u, In u us -> k <> home u) /\ r k = t k))).
  { induction us as [|u us IH]; simpl; intros q I k; [split; [auto | right; auto]|].
    set (q' := fun k => if loc_eq k (home u) then q u else q k).
    assert (same : forall v, In v cached -> q' v = q v).
    { intros v V. unfold q'. destruct (loc_eq v (home u)) as [->|]; [|reflexivity].
      destruct (Apart _ V). apply Home. auto. }
    destruct (IH q' (fun v V => I v (or_intror V)) k) as [X Y]. split.
    - intros K. rewrite X; auto.
    - destruct Y as [(v & V & -> & E)|[N E]].
      + left. exists v. rewrite E, same; auto.
      + rewrite E. unfold q'. destruct (loc_eq k (home u)) as [->|n]; [left; exists u; auto|].
        right. split; auto. intros v [->|V]; auto. }
  destruct (Out cached t (fun u U => U) l) as [_ [(u & U & -> & E)|[N E]]]; rewrite E.
  - destruct (Home u U) as [C F]. rewrite (G (home u)) by (right; apply All, C). rewrite F. reflexivity.
  - destruct (Dec l) as [C|C].
    + destruct (Back l C) as [I F]. destruct (N (f l) I). auto.
    + rewrite (G l) by auto. rewrite Own; auto.
Qed.

(** [cache_read]: elements of a copy stand for elements of a buffer, [from] where they were copied. Nobody
    writes to either while the copy lives. What reads the copy does what it did. *)
Theorem fill : forall (from : loc -> loc) (copy : list loc) bs,
  NoDup copy ->
  (* the copy is new, and is made of what is no part of it *)
  (forall u, In u copy -> ~ In (from u) copy) ->
  (* whatever else is read is read where it was *)
  (forall l, ~ In l copy -> from l = l) ->
  (* neither changes *)
  (forall u, In u copy -> ~ wrote_any bs u /\ ~ wrote_any bs (from u)) ->
  forall s, let filled := fold_left (fun t u => fun k => if loc_eq k u then t (from u) else t k) copy s in
  forall l, ~ In l copy ->
    do_all bs filled l = do_all (map (fun b => Block (map from (sources b)) (targets b)) bs) s l.
Proof.
  intros from copy bs N New Else Same s filled l L.
  assert (F : forall us (r : store), (forall u, In u us -> In u copy) -> NoDup us ->
    let q := fold_left (fun t u => fun k => if loc_eq k u then t (from u) else t k) us r in
    (forall u, In u us -> q u = r (from u)) /\ (forall k, ~ In k us -> q k = r k)).
  { induction us as [|u us IH]; simpl; intros r I D; [tauto|]. inversion D; subst.
    destruct (IH (fun k => if loc_eq k u then r (from u) else r k)) as [A B]; auto. split.
    - intros v [->|V].
      + rewrite B by auto. destruct (loc_eq v v); congruence.
      + rewrite A by auto. destruct (loc_eq (from v) u) as [E|]; [|reflexivity].
        destruct (New v); [auto | rewrite E; auto].
    - intros k K. rewrite B by auto. destruct (loc_eq k u); [subst; tauto | reflexivity]. }
  destruct (F copy s (fun u U => U) N) as [A B]. fold filled in A, B. clear F.
  assert (G : forall cs (r t : store), (forall b, In b cs -> In b bs) ->
    (forall k, ~ In k copy -> r k = t k) -> (forall u, In u copy -> r u = t (from u)) ->
    do_all cs r l = do_all (map (fun b => Block (map from (sources b)) (targets b)) cs) t l).
  { induction cs as [|b cs IH]; intros r t I O C; [apply O, L|]. unfold do_all. simpl.
    assert (read : map r (sources b) = map t (map from (sources b))).
    { rewrite map_map. apply map_ext. intros k. destruct (in_dec loc_eq k copy) as [K|K]; [auto|].
      rewrite (Else k K). auto. }
    assert (clean : forall u, In u copy -> ~ wrote b u /\ ~ wrote b (from u)).
    { intros u U. destruct (Same u U) as [P Q]. split; intros W; [apply P | apply Q]; exists b; split; auto; apply I; simpl; auto. }
    apply (IH (do b r) (do (Block (map from (sources b)) (targets b)) t)); [intros c J; apply I; simpl; auto| |].
    - intros k K. unfold do. simpl. rewrite read, O; auto.
    - intros u U. destruct (clean u U) as [P Q]. rewrite (do_not b r u P), do_not by exact Q. auto. }
  apply G; auto.
Qed.

(** [stage]: a block uses an element, and it is read into a temporary right before. What is written may pick the element,
    and may change it: the block looks at the temporary in no other way and leaves it alone, and does with the value what it
    did. *)
Theorem hold : forall (t : loc) (pick : store -> loc) (body : value -> store -> store),
  (forall v r s, (forall l, l <> t -> r l = s l) -> forall l, l <> t -> body v r l = body v s l) ->
  forall s, let held := fun l => if loc_eq l t then s (pick s) else s l in
  forall l, l <> t -> body (held t) held l = body (s (pick s)) s l.
Proof.
  intros t pick body Blind s held l L.
  assert (V : held t = s (pick s)) by (unfold held; destruct (loc_eq t t); congruence).
  rewrite V. apply Blind; [|exact L]. intros k K. unfold held. destruct (loc_eq k t); congruence.
Qed.

(** [pad], [overrun] and [prefetch]: some blocks are more. What they write is looked at by nobody else, so all else is the
    same. *)
Theorem more : forall (unseen : loc -> Prop) (marked : list (bool * block)),
  (* those that are more write what is not seen *)
  (forall b l, In (true, b) marked -> wrote b l -> unseen l) ->
  (* the others read nothing of it *)
  (forall b l, In (false, b) marked -> In l (sources b) -> ~ unseen l) ->
  forall s t, (forall l, ~ unseen l -> s l = t l) ->
  forall l, ~ unseen l ->
    do_all (map snd marked) s l = do_all (map snd (filter (fun m => negb (fst m)) marked)) t l.
Proof.
  intros unseen. induction marked as [|[extra b] ms IH]; intros W R s t E l L; [apply E, L|].
  assert (W' : forall c k, In (true, c) ms -> wrote c k -> unseen k) by (intros c k C; apply W; simpl; auto).
  assert (R' : forall c k, In (false, c) ms -> In k (sources c) -> ~ unseen k) by (intros c k C; apply R; simpl; auto).
  unfold do_all in *. destruct extra; simpl.
  - apply IH; auto. intros k K. rewrite do_not; [auto|]. intros X. apply K, (W b); simpl; auto.
  - apply IH; auto. intros k K. unfold do. rewrite E by exact K. f_equal.
    apply map_ext_in. intros m M. apply E, (R b m); simpl; auto.
Qed.
End Blocks.

(** * Layouts *)

Open Scope Z_scope.

(** An index is inside of a shape. *)
Fixpoint in_shape (shape index : list Z) : Prop :=
  match shape, index with
  | [], [] => True
  | n :: shape, i :: index => 0 <= i < n /\ in_shape shape index
  | _, _ => False
  end.

(** The place of an element of a dense buffer, in elements: the last dimension is next to each other. *)
Fixpoint address (shape index : list Z) (sum : Z) : Z :=
  match shape, index with
  | n :: shape, i :: index => address shape index (sum * n + i)
  | _, _ => sum
  end.

Lemma address_apart : forall shape i j a b, in_shape shape i -> in_shape shape j ->
  address shape i a = address shape j b -> a = b /\ i = j.
Proof.
  induction shape as [|n shape IH]; intros [|x i] [|y j] a b; simpl; try tauto.
  intros [X I] [Y J] E. destruct (IH _ _ _ _ I J E) as [F ->].
  assert (a = b) by nia. subst. split; [reflexivity|]. f_equal. nia.
Qed.

(** [align] and [skew]: dimensions that are at least as long have a place for all, and keep elements apart, which is what
    [elsewhere] asks of storage. *)
Theorem wider_apart : forall shape wider i j, Forall2 Z.le shape wider -> in_shape shape i -> in_shape shape j ->
  address wider i 0 = address wider j 0 -> i = j.
Proof.
  intros shape wider i j W I J E.
  assert (G : forall k, in_shape shape k -> in_shape wider k).
  { induction W as [|n m shape wider le W IH]; intros [|x k]; simpl; try tauto. clear I J E.
    intros [X K]. split; [lia|]. clear IH X. revert k K. induction W as [|a b p q ab W IH]; intros [|y k]; simpl; try tauto.
    intros [Y K]. split; [lia | auto]. }
  apply (address_apart wider i j 0 0 (G i I) (G j J) E).
Qed.

(** A layout with an inverse keeps elements apart: the witness of a bijection is one. *)
Theorem inverse_apart : forall {A B} (f : A -> B) (g : B -> A) (P : A -> Prop), (forall a, P a -> g (f a) = a) ->
  forall a b, P a -> P b -> f a = f b -> a = b.
Proof. intros A B f g P H a b Pa Pb E. rewrite <- (H a Pa), <- (H b Pb), E. reflexivity. Qed.

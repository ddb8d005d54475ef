(** Accumulations: those of one block by a commutative reducer commute (the exception in [Walk::apart] of [meet.rs]), and
    a sum over loops is the sum of partial sums ([partial.rs], for [rfactor]). The laws are those of real numbers; of
    floats they hold up to rounding, so steps that use them are tagged [reassociates]. *)

From Coq Require Import ZArith List Lia Permutation.
From Lathe Require Import Calculus Nests.
Import ListNotations.
Open Scope Z_scope.

Section Accumulations.
(** A reducer may have several accumulators: one element of each of some buffers, at one index. *)
Context {buffer index value : Type}.
Context (index_eq : forall i j : index, {i = j} + {i <> j}).
Context (accumulators : buffer -> bool).
Definition tuple := buffer -> value.
Context (op : tuple -> tuple -> tuple).
(** It looks at nothing but the accumulators. *)
Definition local := forall a b x y, (forall t, accumulators t = true -> a t = b t) ->
  (forall t, accumulators t = true -> x t = y t) -> forall t, accumulators t = true -> op a x t = op b y t.
Context (op_local : local).

Notation loc := (buffer * index)%type.
Notation store := (@store loc value).

(** A block that accumulates at an index; its values depend on what [R] holds. *)
Definition accumulate (at_ : index) (R : loc -> Prop) (val : store -> tuple)
  (takes : forall s t, (forall l, R l -> s l = t l) -> forall b, val s b = val t b) : @command loc value.
Proof.
  refine (Command
    (fun s l => if accumulators (fst l) then
       if index_eq (snd l) at_ then op (fun b => s (b, at_)) (val s) (fst l) else s l else s l)
    (fun l => R l \/ (accumulators (fst l) = true /\ snd l = at_))
    (fun l => accumulators (fst l) = true /\ snd l = at_) _ _).
  - intros s [b i]. simpl. destruct (accumulators b); [|auto]. destruct (index_eq i at_); auto.
  - intros s t E [b i]. simpl. destruct (accumulators b) eqn:A; [|auto]. destruct (index_eq i at_) as [->|]; [|auto].
    left. apply op_local; auto.
Defined.

(** The law of a commutative reducer: terms may be added in any order. *)
Definition commutative := forall a x y t, op (op a x) y t = op (op a y) x t.

(** Accumulations of one block commute, whether they meet or not: when neither reads what the other accumulates. *)
Theorem accumulations_commute : commutative ->
  forall (i : index) (R : loc -> Prop) (u : store -> tuple) hu (j : index) (Q : loc -> Prop) (v : store -> tuple) hv,
  (forall l, R l -> ~ (accumulators (fst l) = true /\ snd l = j)) ->
  (forall l, Q l -> ~ (accumulators (fst l) = true /\ snd l = i)) ->
  commute (accumulate i R u hu) (accumulate j Q v hv).
Proof.
  intros law i R u hu j Q v hv NR NQ s.
  set (x := accumulate i R u hu). set (y := accumulate j Q v hv).
  assert (U : forall b, u (run y s) b = u s b).
  { apply hu. intros l L. destruct (frame y s l) as [W|E]; [destruct (NR l L W) | exact E]. }
  assert (V : forall b, v (run x s) b = v s b).
  { apply hv. intros l L. destruct (frame x s l) as [W|E]; [destruct (NQ l L W) | exact E]. }
  intros [b k]. simpl in *. destruct (accumulators b) eqn:A; [|reflexivity].
  destruct (index_eq k i) as [E|ki], (index_eq k j) as [F|kj]; try reflexivity.
  - subst i j. transitivity (op (op (fun t => s (t, k)) (v s)) (u s) b).
    + apply op_local; auto. intros t T. rewrite T. destruct (index_eq k k); [reflexivity | congruence].
    + rewrite law. symmetry. apply op_local; auto. intros t T. rewrite T.
      destruct (index_eq k k); [reflexivity | congruence].
  - subst i. apply op_local; auto. intros t T. rewrite T. destruct (index_eq k j); [congruence | reflexivity].
  - subst j. symmetry. apply op_local; auto. intros t T. rewrite T.
    destruct (index_eq k i); [congruence | reflexivity].
Qed.
End Accumulations.

(** * Sums in parts *)

Section Sums.
Context {value : Type}.
Context (op : value -> value -> value) (neutral : value).
(** A commutative monoid; a value may be a tuple of accumulators. *)
Definition monoid :=
  (forall a b c, op (op a b) c = op a (op b c)) /\ (forall a b, op a b = op b a) /\ (forall a, op neutral a = a).

Definition sum {T} (term : T -> value) (ts : list T) (from : value) : value :=
  fold_left (fun a t => op a (term t)) ts from.

Lemma sum_from {T} : monoid -> forall (term : T -> value) ts from, sum term ts from = op from (sum term ts neutral).
Proof.
  intros (assoc & comm & unit) term. unfold sum. induction ts as [|t ts IH]; simpl; intros from.
  - rewrite comm. symmetry. apply unit.
  - rewrite IH, (IH (op neutral (term t))), unit. apply assoc.
Qed.

Lemma sum_pointwise {T} : monoid -> forall (f g : T -> value) ts,
  sum (fun t => op (f t) (g t)) ts neutral = op (sum f ts neutral) (sum g ts neutral).
Proof.
  intros M f g ts. pose proof M as (assoc & comm & unit). induction ts as [|t ts IH].
  - symmetry. apply unit.
  - change (sum (fun t => op (f t) (g t)) ts (op neutral (op (f t) (g t))) =
      op (sum f ts (op neutral (f t))) (sum g ts (op neutral (g t)))).
    rewrite (sum_from M), (sum_from M f), (sum_from M g), !unit, IH.
    rewrite !assoc. f_equal. rewrite <- !assoc. f_equal. apply comm.
Qed.

(** [rfactor L]: the sum over loops ([outer] around [parts], with further loops inside as part of a term's sum) is that of
    one accumulator for each iteration of the second loop, each begun with the neutral element. *)
Theorem partial_sums : monoid ->
  forall {T U} (term : T -> U -> value) (outer : list T) (parts : list U) from,
  sum (fun t => sum (term t) parts neutral) outer from =
  sum (fun u => sum (fun t => term t u) outer neutral) parts from.
Proof.
  intros M T U term outer parts from. pose proof M as (assoc & comm & unit).
  rewrite (sum_from M), (sum_from M _ parts from). f_equal.
  induction outer as [|t outer IH].
  - change (neutral = sum (fun _ => neutral) parts neutral). induction parts as [|u parts IH]; [reflexivity|].
    change (neutral = sum (fun _ => neutral) parts (op neutral neutral)). rewrite unit. exact IH.
  - change (sum (fun t => sum (term t) parts neutral) outer (op neutral (sum (term t) parts neutral)) =
      sum (fun u => sum (fun t => term t u) outer (op neutral (term t u))) parts neutral).
    rewrite (sum_from M), IH, unit, <- (sum_pointwise M). unfold sum at 1 3.
    assert (E : forall (f g : U -> value) ts a, (forall u, f u = g u) ->
      fold_left (fun a u => op a (f u)) ts a = fold_left (fun a u => op a (g u)) ts a).
    { intros f g ts. induction ts as [|u ts I]; simpl; auto. intros a H. rewrite H. apply I. auto. }
    apply E. intros u. rewrite (sum_from M _ outer (op neutral _)), unit. reflexivity.
Qed.

(** The nested loops of the program add term by term, which is the same. *)
Lemma flat_sum {T U} : forall (term : T -> U -> value) (outer : list T) (parts : list U) from, monoid ->
  sum (fun p => term (fst p) (snd p)) (flat_map (fun t => map (pair t) parts) outer) from =
  sum (fun t => sum (term t) parts neutral) outer from.
Proof.
  intros term outer parts from M. revert from. induction outer as [|t outer IH]; intros from; [reflexivity|].
  assert (E : forall from, sum (fun p => term (fst p) (snd p)) (map (pair t) parts) from = sum (term t) parts from).
  { unfold sum. clear. induction parts as [|u parts IH]; intros from; simpl; auto. }
  change (flat_map (fun t => map (pair t) parts) (t :: outer)) with
    (map (pair t) parts ++ flat_map (fun t => map (pair t) parts) outer).
  unfold sum at 1. rewrite fold_left_app. fold (sum (fun p => term (fst p) (snd p)) (map (pair t) parts) from).
  rewrite E, (sum_from M (term t) parts from). apply IH.
Qed.
End Sums.

(** * In a store *)

Section Stored.
Context {loc value : Type}.
Context (loc_eq : forall k l : loc, {k = l} + {k <> l}).
Context (op : value -> value -> value) (neutral : value).
Notation store := (@store loc value).

Definition set (l : loc) (v : value) (s : store) : store := fun k => if loc_eq k l then v else s k.

Lemma set_here l v s : set l v s l = v.
Proof. unfold set. destruct (loc_eq l l); congruence. Qed.
Lemma set_there l v s k : k <> l -> set l v s k = s k.
Proof. unfold set. destruct (loc_eq k l); congruence. Qed.

(** A loop over a block that accumulates at the element that an iteration picks. *)
Definition accumulating {T} (at_ : T -> loc) (term : store -> T -> value) (ts : list T) (s : store) : store :=
  fold_left (fun s t => set (at_ t) (op (s (at_ t)) (term s t)) s) ts s.

(** Terms that depend on nothing but what is visible. *)
Definition sees {T} (visible : loc -> Prop) (term : store -> T -> value) :=
  forall s r, (forall l, visible l -> s l = r l) -> forall t, term s t = term r t.

(** At one element, that leaves the sum there, and nothing else. *)
Lemma accumulated {T} (at_ : loc) (term : store -> T -> value) s (visible : loc -> Prop) :
  sees visible term -> ~ visible at_ ->
  forall ts r, (forall l, visible l -> r l = s l) ->
  accumulating (fun _ => at_) term ts r at_ = sum op (term s) ts (r at_) /\
  forall l, l <> at_ -> accumulating (fun _ => at_) term ts r l = r l.
Proof.
  intros own here. unfold accumulating, sum. induction ts as [|t ts IH]; simpl; intros r H; [auto|].
  destruct (IH (set at_ (op (r at_) (term r t)) r)) as [A B].
  - intros l V. rewrite set_there; [auto | intros ->; auto].
  - rewrite A, set_here. split; [|intros l n; rewrite B by auto; apply set_there; auto].
    rewrite (own r s) by exact H. reflexivity.
Qed.

(** At an element for each part: each of them gets its term. *)
Lemma accumulated_apart {U} (part : U -> loc) (term : store -> U -> value) s (visible : loc -> Prop) :
  sees visible term -> (forall u v, part u = part v -> u = v) ->
  forall us r, (forall u, In u us -> ~ visible (part u)) -> NoDup us -> (forall l, visible l -> r l = s l) ->
  (forall u, In u us -> accumulating part term us r (part u) = op (r (part u)) (term s u)) /\
  (forall l, (forall u, In u us -> l <> part u) -> accumulating part term us r l = r l).
Proof.
  intros own inj. unfold accumulating. induction us as [|v us IH]; simpl; intros r V N H; [tauto|].
  inversion N as [|? ? NI N']; subst.
  destruct (IH (set (part v) (op (r (part v)) (term r v)) r)) as [A B]; auto.
  { intros l L. rewrite set_there; [auto | intros ->; apply (V v); auto]. }
  split.
  - intros u [->|I].
    + rewrite B by (intros w W E; apply inj in E; subst; auto). rewrite set_here, (own r s) by exact H. reflexivity.
    + rewrite A, set_there by (auto; intros E; apply inj in E; subst; auto). reflexivity.
  - intros l L. rewrite B by auto. apply set_there. auto.
Qed.

Lemma begins {U} (part : U -> loc) : forall us r,
  let q := fold_left (fun s u => set (part u) neutral s) us r in
  (forall u, In u us \/ r (part u) = neutral -> q (part u) = neutral) /\
  (forall l, (forall u, In u us -> l <> part u) -> q l = r l).
Proof.
  induction us as [|v us IH]; simpl; intros r; [split; [tauto | auto]|].
  destruct (IH (set (part v) neutral r)) as [A B]. split.
  - intros u H. apply A. destruct H as [[->|I]|E]; [right; apply set_here | auto |].
    right. unfold set. destruct (loc_eq (part u) (part v)); auto.
  - intros l H. rewrite B by auto. apply set_there. auto.
Qed.

Lemma sum_ext {T} (f g : T -> value) : forall ts a, (forall t, In t ts -> f t = g t) -> sum op f ts a = sum op g ts a.
Proof. unfold sum. induction ts as [|t ts IH]; simpl; auto. intros a H. rewrite H by auto. apply IH. auto. Qed.

Lemma rfactor_all : monoid op neutral ->
  forall {T U} (at_ : loc) (part : U -> loc) (term : store -> T * U -> value) (outer : list T) (parts : list U),
  NoDup parts -> (forall u v, part u = part v -> u = v) -> (forall u, part u <> at_) ->
  sees (fun l => l <> at_ /\ forall u, In u parts -> l <> part u) term ->
  forall s,
  let pairs := flat_map (fun t => map (pair t) parts) outer in
  let begun := fold_left (fun s u => set (part u) neutral s) parts s in
  let added := accumulating (fun p => part (snd p)) term pairs begun in
  let after := accumulating (fun _ => at_) (fun s u => s (part u)) parts added in
  forall l, (forall u, In u parts -> l <> part u) -> after l = accumulating (fun _ => at_) term pairs s l.
Proof.
  intros M T U at_ part term outer parts N inj away own s pairs begun added after l L.
  set (visible := fun l => l <> at_ /\ forall u, In u parts -> l <> part u) in *.
  destruct (begins part parts s) as [B1 B2]. fold begun in B1, B2.
  assert (A : (forall u, In u parts -> added (part u) = sum op (fun t => term s (t, u)) outer neutral) /\
              (forall l, (forall u, In u parts -> l <> part u) -> added l = s l)).
  { assert (G : forall ts r, (forall l, visible l -> r l = s l) ->
        let q := accumulating (fun p => part (snd p)) term (flat_map (fun t => map (pair t) parts) ts) r in
        (forall u, In u parts -> q (part u) = sum op (fun t => term s (t, u)) ts (r (part u))) /\
        (forall l, (forall u, In u parts -> l <> part u) -> q l = r l)).
    { induction ts as [|t ts IH]; intros r R; [split; reflexivity|].
      assert (E : forall us r, fold_left (fun s p => set (part (snd p)) (op (s (part (snd p))) (term s p)) s) (map (pair t) us) r =
        accumulating part (fun s u => term s (t, u)) us r).
      { unfold accumulating. clear. induction us as [|u us IH]; simpl; auto. }
      simpl. unfold accumulating in *. rewrite fold_left_app, E. unfold accumulating.
      assert (own' : sees visible (fun s u => term s (t, u))) by (intros x y H u; apply own; exact H).
      destruct (accumulated_apart part (fun s u => term s (t, u)) s visible own' inj parts r) as [X Y]; auto.
      { intros u I V. apply (proj2 V u I). reflexivity. }
      unfold accumulating in X, Y. edestruct IH as [P Q]; [|split].
      - intros k K. rewrite Y by apply K. apply R, K.
      - intros u I. rewrite P, X by auto. reflexivity.
      - intros k K. rewrite Q, Y by auto. reflexivity. }
    destruct (G outer begun) as [X Y]; [intros k K; apply B2, K|]. fold pairs added in X, Y. split.
    - intros u I. rewrite X, B1 by auto. reflexivity.
    - intros k K. rewrite Y by auto. apply B2, K. }
  destruct A as [A1 A2].
  destruct (accumulated at_ (fun s u => s (part u)) added (fun l => exists u, l = part u)) with (ts := parts) (r := added)
    as [T1 T2].
  { intros x y H u. apply H. eauto. }
  { intros [u E]. exact (away u (eq_sym E)). }
  { auto. }
  destruct (accumulated at_ term s visible own) with (ts := pairs) (r := s) as [S1 S2]; [intros [K _]; auto | auto |].
  fold after in T1, T2. destruct (loc_eq l at_) as [->|n].
  - rewrite T1, S1, A2 by auto.
    rewrite (sum_ext _ (fun u => sum op (fun t => term s (t, u)) outer neutral)) by (intros u I; apply A1, I).
    rewrite <- (partial_sums op neutral M (fun t u => term s (t, u))).
    unfold pairs. rewrite <- (flat_sum op neutral (fun t u => term s (t, u)) outer parts (s at_) M).
    apply sum_ext. intros [t u] _. reflexivity.
  - rewrite T2, S2 by auto. apply A2. exact L.
Qed.

(** Stores that hold the same lead to such. *)
Lemma alike {T} (at_ : T -> loc) (term : store -> T -> value) : sees (fun _ => True) term ->
  forall ts s r, (forall l, s l = r l) -> forall l, accumulating at_ term ts s l = accumulating at_ term ts r l.
Proof.
  intros own. unfold accumulating. induction ts as [|t ts IH]; simpl; auto. intros s r E l. apply IH. intros k.
  unfold set. rewrite (own s r), E by auto. destruct (loc_eq k (at_ t)); auto.
Qed.

(** Terms that are left out count as neutral. *)
Lemma left_out {T} (at_ : T -> loc) (term : store -> T -> value) (runs : T -> bool) : monoid op neutral ->
  sees (fun _ => True) term -> forall ts s r, (forall l, s l = r l) -> forall l,
  accumulating at_ (fun s t => if runs t then term s t else neutral) ts s l = accumulating at_ term (filter runs ts) r l.
Proof.
  intros (assoc & comm & unit) own. unfold accumulating. induction ts as [|t ts IH]; simpl; auto. intros s r E l.
  destruct (runs t); simpl; apply IH; intros k; unfold set; destruct (loc_eq k (at_ t)); auto.
  - rewrite (own s r), E by auto. reflexivity.
  - subst k. rewrite comm, unit. apply E.
Qed.

(** [rfactor L], in a store: the loops [outer] and [parts] accumulate at one element, in the iterations that there are ([runs]: the second
    loop may be shorter in some iterations of the first); or the accumulators of the parts begin with the neutral element, get the
    terms, and are summed. Nothing but these accumulators differs. That no term reads an accumulator, that no loop picks one, and that
    each iteration has one, is what [Walk::sum_split] demands. *)
Theorem rfactor : monoid op neutral ->
  forall {T U} (at_ : loc) (part : U -> loc) (term : store -> T * U -> value) (runs : T * U -> bool) (outer : list T) (parts : list U),
  NoDup parts -> (forall u v, part u = part v -> u = v) -> (forall u, part u <> at_) ->
  sees (fun l => l <> at_ /\ forall u, In u parts -> l <> part u) term ->
  forall s,
  let pairs := filter runs (flat_map (fun t => map (pair t) parts) outer) in
  let begun := fold_left (fun s u => set (part u) neutral s) parts s in
  let added := accumulating (fun p => part (snd p)) term pairs begun in
  let after := accumulating (fun _ => at_) (fun s u => s (part u)) parts added in
  forall l, (forall u, In u parts -> l <> part u) -> after l = accumulating (fun _ => at_) term pairs s l.
Proof.
  intros M T U at_ part term runs outer parts N inj away own s pairs begun added after l L.
  assert (all : sees (fun _ => True) term) by (intros x y E t; apply own; intros k _; apply E; exact I).
  set (padded := fun s p => if runs p then term s p else neutral).
  assert (own' : sees (fun l => l <> at_ /\ forall u, In u parts -> l <> part u) padded).
  { intros x y E t. unfold padded. rewrite (own x y E t). reflexivity. }
  pose proof (rfactor_all M at_ part padded outer parts N inj away own' s l L) as R. cbv zeta in R. fold begun in R.
  rewrite (left_out (fun _ => at_) term runs M all) with (r := s) in R by auto. fold pairs in R. rewrite <- R.
  unfold after. apply alike.
  - intros x y E u. apply E. exact I.
  - intros k. symmetry. apply (left_out (fun p => part (snd p)) term runs M all). reflexivity.
Qed.
End Stored.

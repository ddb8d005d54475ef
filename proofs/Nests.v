(** The rule of loops renamed ([Walk::band] of [obligations.rs]): nested loops before and after run the same body once for
    each other's iterations, by an index map and its inverse, and those pairs that are exchanged commute. Then [split],
    [fuse], [interchange] and [reorder], whose witnesses are shown to be right for all extents, and loops peeled
    ([peel.rs]). *)

From Coq Require Import ZArith List Lia Permutation.
From Lathe Require Import Calculus.
Import ListNotations.
Open Scope Z_scope.

(** An extent is a function of the iterations of the loops around it. *)
Definition extent := list Z -> Z.

(** An iteration is one of each loop. *)
Fixpoint inside (es : list extent) (outer t : list Z) : Prop :=
  match es, t with
  | [], [] => True
  | e :: es, i :: t => 0 <= i < e outer /\ inside es (outer ++ [i]) t
  | _, _ => False
  end.

(** All iterations in their order. *)
Fixpoint nest (es : list extent) (outer : list Z) : list (list Z) :=
  match es with
  | [] => [[]]
  | e :: es => flat_map (fun i => map (cons i) (nest es (outer ++ [i]))) (upto (e outer))
  end.

(** The first comes before the second, in the order of nested loops: [Scope::precedes]. *)
Fixpoint precedes (a b : list Z) : Prop :=
  match a, b with
  | x :: a, y :: b => x < y \/ (x = y /\ precedes a b)
  | _, _ => False
  end.

Lemma in_nest es : forall outer t, In t (nest es outer) <-> inside es outer t.
Proof.
  induction es as [|e es IH]; intros outer t; simpl.
  - destruct t; simpl; intuition discriminate.
  - rewrite in_flat_map. split.
    + intros (i & I & M). apply in_map_iff in M as (u & <- & U). apply in_upto in I. apply IH in U. auto.
    + destruct t as [|i t]; [tauto|]. intros [I U]. exists i. rewrite in_upto. split; auto.
      apply in_map. apply IH. auto.
Qed.

Lemma before_flat_map {T U} (f : T -> list U) ts x y : before (flat_map f ts) x y ->
  (exists t, In t ts /\ before (f t) x y) \/ (exists t u, before ts t u /\ In x (f t) /\ In y (f u)).
Proof.
  induction ts as [|t ts IH]; simpl; [tauto|]. rewrite before_app. intros [B|[B|[I J]]].
  - left. exists t. auto.
  - destruct (IH B) as [(u & I & C)|(u & v & C & I)]; [left; exists u | right; exists u, v]; auto.
  - apply in_flat_map in J as (u & J & K). right. exists t, u. auto.
Qed.

Lemma nest_order es : forall outer x y, before (nest es outer) x y -> precedes x y.
Proof.
  induction es as [|e es IH]; simpl; [intuition|]. intros outer x y B.
  apply before_flat_map in B as [(i & I & B)|(i & j & B & I & J)].
  - apply before_map in B as (u & v & B & <- & <-). simpl. right. eauto.
  - apply in_map_iff in I as (u & <- & _). apply in_map_iff in J as (v & <- & _).
    apply before_upto in B. simpl. auto.
Qed.

Lemma precedes_not_itself a : ~ precedes a a.
Proof. induction a as [|x a IH]; simpl; [tauto|]. intros [H|[_ H]]; [lia | auto]. Qed.

Lemma nodup_by {T} (ts : list T) : (forall x, ~ before ts x x) -> NoDup ts.
Proof.
  induction ts as [|t ts IH]; simpl; intros H; constructor.
  - intros I. apply (H t). auto.
  - apply IH. intros x B. apply (H x). auto.
Qed.

Lemma nodup_nest es outer : NoDup (nest es outer).
Proof. apply nodup_by. intros x B. apply (precedes_not_itself x), (nest_order _ _ _ _ B). Qed.

Section Programs.
Context {loc value : Type}.
Notation command := (@command loc value).
Notation store := (@store loc value).

(** What nested loops do. *)
Fixpoint loops (es : list extent) (outer : list Z) (body : list Z -> command) (s : store) : store :=
  match es with
  | [] => run (body []) s
  | e :: es => fold_left (fun s i => loops es (outer ++ [i]) (fun t => body (i :: t)) s) (upto (e outer)) s
  end.

Lemma runs_map {T U} (f : T -> U) (c : U -> command) ts : forall s, runs c (map f ts) s = runs (fun t => c (f t)) ts s.
Proof. induction ts as [|t ts IH]; simpl; auto. Qed.

(** They run their body for each iteration, in order. *)
Theorem loops_nest es : forall outer body s, loops es outer body s = runs body (nest es outer) s.
Proof.
  induction es as [|e es IH]; intros outer body s; simpl; [reflexivity|].
  revert s. induction (upto (e outer)) as [|i is IHi]; intros s; simpl; [reflexivity|].
  rewrite runs_app, runs_map, <- IH, <- IHi. reflexivity.
Qed.

(** The rule. [outer] is the iteration of the loops around both. *)
Theorem band : forall before_es after_es outer (to_before to_after : list Z -> list Z) (b a : list Z -> command),
  (* an iteration after is one before, and the way back leads to it *)
  (forall t, inside after_es outer t -> inside before_es outer (to_before t) /\ to_after (to_before t) = t) ->
  (* an iteration before is one after, and the way back leads to it *)
  (forall t, inside before_es outer t -> inside after_es outer (to_after t) /\ to_before (to_after t) = t) ->
  (* the body is the same *)
  (forall t, inside after_es outer t -> forall s, same (run (a t) s) (run (b (to_before t)) s)) ->
  (* two iterations after whose order before was the other one commute; there are none where the order is kept *)
  (forall x y, inside after_es outer x -> inside after_es outer y ->
     precedes x y -> precedes (to_before y) (to_before x) -> commute (b (to_before x)) (b (to_before y))) ->
  forall s, same (loops after_es outer a s) (loops before_es outer b s).
Proof.
  intros be ae outer tb ta b a Land Back Body Order s l. rewrite !loops_nest.
  rewrite (runs_equal a b tb) by (intros t I; apply Body, in_nest, I).
  symmetry. apply reorder.
  - apply NoDup_Permutation; [apply nodup_nest| |].
    + assert (F : forall ts, (forall t, In t ts -> inside ae outer t) -> NoDup ts -> NoDup (map tb ts)).
      { induction ts as [|t ts IH]; intros H N; simpl; constructor; inversion N; subst.
        - intros M. apply in_map_iff in M as (u & E & U).
          assert (u = t); [|subst; auto].
          rewrite <- (proj2 (Land u (H u (or_intror U)))), E. apply Land, H. simpl. auto.
        - apply IH; auto. intros u U. apply H. simpl. auto. }
      apply F; [intros t; apply in_nest | apply nodup_nest].
    + intros t. rewrite in_map_iff, in_nest. split.
      * intros I. exists (ta t). rewrite in_nest. split; apply (Back t I).
      * intros (u & <- & U). apply in_nest in U. apply Land, U.
  - intros x y B A. apply before_map in A as (v & u & A & <- & <-).
    pose proof (before_in _ _ _ A) as [V U]. apply in_nest in V. apply in_nest in U.
    apply commute_sym. apply Order; eauto using nest_order.
Qed.

(** [split L f]: the extents and the witness of [split.rs], for any extent and any factor that is positive, whether it
    divides or not. The order is kept. *)
Theorem split : forall n f (b a : list Z -> command), 0 < f ->
  (forall o i, 0 <= o -> 0 <= i < f -> o * f + i < n -> forall s, same (run (a [o; i]) s) (run (b [o * f + i]) s)) ->
  forall s, same
    (loops [fun _ => (n + f - 1) / f; fun t => Z.min (n - hd 0 t * f) f] [] a s)
    (loops [fun _ => n] [] b s).
Proof.
  intros n f b a F Body.
  apply (band _ _ _ (fun t => [hd 0 t * f + hd 0 (tl t)]) (fun t => [hd 0 t / f; hd 0 t mod f])).
  - intros [|o [|i [|]]]; simpl; try tauto. intros (O & I & _).
    assert (0 <= o * f) by nia.
    replace ((o * f + i) / f) with o by (apply Z.div_unique with i; lia).
    replace ((o * f + i) mod f) with i by (apply Z.mod_unique with o; lia).
    intuition; lia.
  - intros [|x [|]]; simpl; try tauto. intros (X & _).
    pose proof (Z.div_mod x f ltac:(lia)) as D. pose proof (Z.mod_pos_bound x f F) as M.
    assert (0 <= x / f) by (apply Z.div_pos; lia).
    assert (x / f < (n + f - 1) / f) by (apply Z.lt_le_trans with (x / f + 1); [lia|];
      rewrite <- (Z.div_add x 1 f) by lia; apply Z.div_le_mono; lia).
    repeat split; try lia; try nia. f_equal. lia.
  - intros [|o [|i [|]]]; simpl; try tauto. intros (O & I & _). apply Body; lia.
  - intros [|o [|i [|]]] [|p [|j [|]]]; simpl; try tauto. intros (O & I & _) (P & J & _) H K. exfalso.
    destruct H as [H|[-> [H|[_ []]]]], K as [K|[K []]]; nia.
Qed.

(** Where the factor divides the extent, blocks are full. *)
Theorem split_exact : forall k f (b a : list Z -> command), 0 < f ->
  (forall o i, 0 <= o < k -> 0 <= i < f -> forall s, same (run (a [o; i]) s) (run (b [o * f + i]) s)) ->
  forall s, same (loops [fun _ => k; fun _ => f] [] a s) (loops [fun _ => k * f] [] b s).
Proof.
  intros k f b a F Body.
  apply (band _ _ _ (fun t => [hd 0 t * f + hd 0 (tl t)]) (fun t => [hd 0 t / f; hd 0 t mod f])).
  - intros [|o [|i [|]]]; simpl; try tauto. intros (O & I & _).
    replace ((o * f + i) / f) with o by (apply Z.div_unique with i; lia).
    replace ((o * f + i) mod f) with i by (apply Z.mod_unique with o; lia).
    intuition; nia.
  - intros [|x [|]]; simpl; try tauto. intros (X & _).
    pose proof (Z.div_mod x f ltac:(lia)) as D. pose proof (Z.mod_pos_bound x f F) as M.
    assert (0 <= x / f) by (apply Z.div_pos; lia).
    assert (x / f < k) by (apply Z.div_lt_upper_bound; lia).
    repeat split; try lia; try nia. f_equal. lia.
  - intros [|o [|i [|]]]; simpl; try tauto. intros (O & I & _). apply Body; lia.
  - intros [|o [|i [|]]] [|p [|j [|]]]; simpl; try tauto. intros (O & I & _) (P & J & _) H K. exfalso.
    destruct H as [H|[-> [H|[_ []]]]], K as [K|[K []]]; nia.
Qed.

(** [fuse A B]: one loop over the iterations of both, in their order. *)
Theorem fuse : forall n m (b a : list Z -> command), 0 < m ->
  (forall x, 0 <= x < n * m -> forall s, same (run (a [x]) s) (run (b [x / m; x mod m]) s)) ->
  forall s, same (loops [fun _ => n * m] [] a s) (loops [fun _ => n; fun _ => m] [] b s).
Proof.
  intros n m b a M Body s l. symmetry. apply split_exact; auto. intros o i O I t k. symmetry.
  rewrite Body by nia.
  replace ((o * m + i) / m) with o by (apply Z.div_unique with i; lia).
  replace ((o * m + i) mod m) with i by (apply Z.mod_unique with o; lia). reflexivity.
Qed.

(** [interchange A] and [reorder A]: two loops exchanged, where iterations that change places commute: because they do not
    meet ([apart_commute]), or because they accumulate ([accumulations_commute]). *)
Theorem interchange : forall n m (b a : list Z -> command),
  (forall i j, 0 <= i < n -> 0 <= j < m -> forall s, same (run (a [j; i]) s) (run (b [i; j]) s)) ->
  (forall i j k l, 0 <= i < n -> 0 <= k < n -> 0 <= j < m -> 0 <= l < m -> i < k -> l < j ->
     commute (b [i; j]) (b [k; l])) ->
  forall s, same (loops [fun _ => m; fun _ => n] [] a s) (loops [fun _ => n; fun _ => m] [] b s).
Proof.
  intros n m b a Body Order.
  apply (band _ _ _ (fun t => [hd 0 (tl t); hd 0 t]) (fun t => [hd 0 (tl t); hd 0 t])).
  - intros [|j [|i [|]]]; simpl; tauto.
  - intros [|j [|i [|]]]; simpl; tauto.
  - intros [|j [|i [|]]]; simpl; try tauto. intros (J & I & _). auto.
  - intros [|j [|i [|]]] [|q [|p [|]]]; simpl; try tauto. intros (J & I & _) (Q & P & _) H G.
    apply commute_sym. apply Order; auto; destruct H as [H|[H [H'|[_ []]]]], G as [G|[G [G'|[_ []]]]]; lia.
Qed.

(** A loop peeled: its first iterations, and the others in a copy of it. *)
Theorem peel : forall n whole rest (b first last : Z -> command),
  0 <= whole -> 0 <= rest -> n = whole + rest ->
  (forall i, 0 <= i < whole -> forall s, same (run (first i) s) (run (b i) s)) ->
  (forall i, 0 <= i < rest -> forall s, same (run (last i) s) (run (b (whole + i)) s)) ->
  forall s, same (runs last (upto rest) (runs first (upto whole) s)) (runs b (upto n) s).
Proof.
  intros n whole rest b first last W R -> F L s l. rewrite upto_plus, runs_app by auto.
  rewrite (runs_equal last b (fun j => whole + j)) by (intros i I; apply L, in_upto, I).
  apply runs_same. intros k. rewrite (runs_equal first b id) by (intros i I; apply F, in_upto, I).
  rewrite map_id. reflexivity.
Qed.
End Programs.

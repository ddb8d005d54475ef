(** Rules of [lathe-select] that are about shapes and indices, and the laws that its other rules use. A tensor is a
    function of its index; changes of place are relations between the index of the result and that of the argument. *)

From Coq Require Import ZArith List Bool Lia.
From Lathe Require Import Calculus Nests Storage Reductions.
Import ListNotations.
Open Scope Z_scope.

(** * Changes of place *)

(** [permute]: axis [k] of the result is axis [axes[k]] of the argument. *)
Definition permutes (axes : list nat) (result argument : list Z) : Prop :=
  forall k, (k < length axes)%nat -> nth (nth k axes 0%nat) argument 0 = nth k result 0.

(** [permute-permute]: one order of axes for two. *)
Theorem permute_permute : forall outer inner i m j,
  (forall d, In d outer -> (d < length inner)%nat) ->
  permutes outer i m -> permutes inner m j -> permutes (map (fun d => nth d inner 0%nat) outer) i j.
Proof.
  intros outer inner i m j B O I k K. rewrite map_length in K.
  rewrite (nth_indep _ 0%nat (nth 0 inner 0%nat)) by (rewrite map_length; exact K).
  rewrite (map_nth (fun d => nth d inner 0%nat)). rewrite I by (apply B, nth_In, K). apply O, K.
Qed.

(** [reshape]: an element is the one at the same place. *)
Definition reshapes (to from : list Z) (result argument : list Z) : Prop :=
  in_shape to result /\ in_shape from argument /\ address to result 0 = address from argument 0.

(** There is one element at a place. *)
Theorem reshape_one : forall to from i j k, reshapes to from i j -> reshapes to from i k -> j = k.
Proof.
  intros to from i j k (_ & J & E) (_ & K & F). apply (address_apart from j k 0 0); auto. congruence.
Qed.

(** [reshape-reshape]: the last of two shapes. *)
Theorem reshape_reshape : forall to between from i m j,
  reshapes to between i m -> reshapes between from m j -> reshapes to from i j.
Proof. intros to between from i m j (I & _ & E) (_ & J & F). repeat split; auto. congruence. Qed.

(** [reshape-none]: the shape is the argument's own. *)
Theorem reshape_none : forall shape i j, reshapes shape shape i j -> i = j.
Proof. intros shape i j (I & J & E). apply (address_apart shape i j 0 0 I J E). Qed.

(** Axes of one position do not count for a place. *)
Lemma address_units : forall (axes : list (Z * Z)) sum,
  (forall n i, In (n, i) axes -> n = 1 -> i = 0) ->
  address (map fst axes) (map snd axes) sum =
  address (map fst (filter (fun a => negb (fst a =? 1)) axes)) (map snd (filter (fun a => negb (fst a =? 1)) axes)) sum.
Proof.
  induction axes as [|[n i] axes IH]; intros sum U; [reflexivity|]. simpl.
  destruct (Z.eqb_spec n 1) as [->|N]; simpl.
  - rewrite (U 1 i) by (simpl; auto). rewrite Z.mul_1_r, Z.add_0_r. apply IH. intros m k M. apply U. simpl. auto.
  - apply IH. intros m k M. apply U. simpl. auto.
Qed.

(** [permute-reshape]: an order of axes in which none but those of one position move keeps each element in its place.
    [axes] are the argument's extents with an index. *)
Theorem permute_reshape : forall (axes : list (Z * Z)) (order : list nat),
  (forall n i, In (n, i) axes -> 0 <= i < n) ->
  (forall d, In d order -> (d < length axes)%nat) ->
  let moved := map (fun d => nth d axes (1, 0)) order in
  filter (fun a => negb (fst a =? 1)) moved = filter (fun a => negb (fst a =? 1)) axes ->
  address (map fst moved) (map snd moved) 0 = address (map fst axes) (map snd axes) 0.
Proof.
  intros axes order I B moved E.
  assert (U : forall l, (forall a, In a l -> In a axes) -> forall n i, In (n, i) l -> n = 1 -> i = 0).
  { intros l L n i A ->. specialize (I 1 i (L _ A)). lia. }
  rewrite (address_units moved), (address_units axes), E; [reflexivity | |].
  - apply U. auto.
  - apply U. intros a A. apply in_map_iff in A as (d & <- & D). apply nth_In, B, D.
Qed.

(** [windows-none]: windows of one position, one apart, are the elements in another shape: their new axes have one
    position. *)
Theorem windows_none : forall axes (window : list (Z * Z)), (forall n i, In (n, i) window -> n = 1 /\ i = 0) ->
  forall sum, address (map fst (axes ++ window)) (map snd (axes ++ window)) sum = address (map fst axes) (map snd axes) sum.
Proof.
  induction axes as [|[n i] axes IH]; intros window W sum; simpl.
  - revert sum. induction window as [|[n i] window IH]; intros sum; [reflexivity|]. simpl.
    destruct (W n i (or_introl eq_refl)) as [-> ->]. rewrite Z.mul_1_r, Z.add_0_r. apply IH. intros m k M. apply W. simpl. auto.
  - apply IH. exact W.
Qed.

Section Elements.
Context {A B : Type}.

(** A view: each element of the result is one of the argument, or what is put around. *)
Definition view {A} (from : list Z -> option (list Z)) (around : A) (x : list Z -> A) (i : list Z) : A :=
  match from i with Some j => x j | None => around end.

(** [view-cast], [view-scale], [view-offset]: elements are moved before each is changed, where what is put around becomes
    what was. *)
Theorem view_pointwise : forall (f : A -> B) from a b (x : list Z -> A), f a = b ->
  forall i, view from b (fun j => f (x j)) i = f (view from a x i).
Proof. intros f from a b x E i. unfold view. destruct (from i); auto. Qed.
End Elements.

(** * Products *)

(** [dot-merge], [dot-block]: several axes of steps are one, in the same order, so that sums stay what they are bit by
    bit. *)
Theorem merged_steps : forall k n, 0 <= k -> 0 < n ->
  map (fun x => [x / n; x mod n]) (upto (k * n)) = nest [fun _ => k; fun _ => n] [].
Proof.
  intros k n K N. pattern k. apply natlike_ind; [reflexivity | | exact K]. clear k K. intros k K IH.
  rewrite <- Z.add_1_r. simpl in *. rewrite (upto_succ k) by exact K. rewrite flat_map_app, <- IH.
  replace ((k + 1) * n) with (k * n + n) by ring. rewrite upto_plus, map_app by nia. f_equal.
  simpl. rewrite app_nil_r.
  assert (E : forall l, (forall i, In i l -> 0 <= i < n) ->
    map (fun x => [x / n; x mod n]) (map (fun j => k * n + j) l) = map (cons k) (flat_map (fun i => map (cons i) [[]]) l)).
  { induction l as [|i l IHl]; intros H; [reflexivity|]. simpl. rewrite IHl by (intros j J; apply H; simpl; auto).
    assert (I : 0 <= i < n) by (apply H; simpl; auto). f_equal.
    replace ((k * n + i) / n) with k by (apply Z.div_unique with i; lia).
    replace ((k * n + i) mod n) with i by (apply Z.mod_unique with k; lia). reflexivity. }
  apply E. intros i. apply in_upto.
Qed.

Section Sums.
Context {value : Type}.
Context (zero : value) (add mul : value -> value -> value).
Notation sum := (@sum value add Z).

(** [dot-pad]: steps whose product is 0 change no sum. *)
Theorem padded_steps : (forall a, add a zero = a) -> forall (term : Z -> value) k m, 0 <= k <= m ->
  (forall x, k <= x < m -> term x = zero) -> sum term (upto m) zero = sum term (upto k) zero.
Proof.
  intros unit term k m K Z. replace m with (k + (m - k)) by lia. rewrite upto_plus by lia.
  unfold Reductions.sum. rewrite fold_left_app. generalize (fold_left (fun a t => add a (term t)) (upto k) zero). intros a.
  assert (E : forall l, (forall x, In x l -> term x = zero) -> fold_left (fun a t => add a (term t)) l a = a).
  { induction l as [|x l IH]; intros H; [reflexivity|]. simpl. rewrite H, unit by (simpl; auto). apply IH. intros y Y. apply H. simpl. auto. }
  apply E. intros x X. apply in_map_iff in X as (j & <- & J). apply in_upto in J. apply Z. lia.
Qed.

(** [dot-scale-left], [dot-scale-right], [conv-scale]: a factor that is the same for all steps is one of their sum. *)
Theorem scaled : (forall a b c, mul (add a b) c = add (mul a c) (mul b c)) -> (forall a, mul zero a = zero) ->
  forall (term : Z -> value) s ts, sum (fun t => mul (term t) s) ts zero = mul (sum term ts zero) s.
Proof.
  intros distr none term s ts. unfold Reductions.sum.
  assert (G : forall a, fold_left (fun a t => add a (mul (term t) s)) ts (mul a s) = mul (fold_left (fun a t => add a (term t)) ts a) s).
  { induction ts as [|t ts IH]; intros a; simpl; [reflexivity|]. rewrite <- distr. apply IH. }
  rewrite <- (none s) at 1. apply G.
Qed.
End Sums.

Notation sum := (Reductions.sum Z.add).

(** [dot-offset-left], [dot-offset-right]: a number taken off all of one factor is so many sums of the other. *)
Theorem offset : forall (x y : Z -> Z) z ts,
  sum (fun t => (x t - z) * y t) ts 0 = sum (fun t => x t * y t) ts 0 - sum y ts 0 * z.
Proof.
  intros x y z ts. assert (G : forall a b c, a = b - c * z ->
    sum (fun t => (x t - z) * y t) ts a = sum (fun t => x t * y t) ts b - sum y ts c * z).
  { unfold Reductions.sum. induction ts as [|t ts IH]; simpl; intros a b c E; [exact E|]. apply IH. rewrite E. ring. }
  apply G. reflexivity.
Qed.

(** [dot-bytes]: sums of fewer than 2^15 products of bytes, and of bytes with a number of a byte taken off, stay in 32
    bits. *)
Theorem bytes_fit : forall (x y : Z -> Z) ts, (Z.of_nat (length ts) < 2 ^ 15) ->
  (forall t, In t ts -> Z.abs (x t) <= 255 /\ Z.abs (y t) <= 255) ->
  - 2 ^ 31 < sum (fun t => x t * y t) ts 0 < 2 ^ 31.
Proof.
  intros x y ts L H.
  assert (G : forall l a, (forall t, In t l -> Z.abs (x t) <= 255 /\ Z.abs (y t) <= 255) ->
    Z.abs (sum (fun t => x t * y t) l a - a) <= 65025 * Z.of_nat (length l)).
  { unfold Reductions.sum. induction l as [|t l IH]; intros a K; [simpl; lia|].
    specialize (IH (a + x t * y t) (fun u U => K u (or_intror U))). destruct (K t (or_introl eq_refl)) as [X Y].
    assert (P : Z.abs (x t * y t) <= 65025) by (rewrite Z.abs_mul; nia).
    cbn [fold_left length]. rewrite Nat2Z.inj_succ. lia. }
  specialize (G ts 0 H). lia.
Qed.

(** Rules of [lathe-select] that are about shapes and indices, and the laws that its other rules use. A tensor is a
    function of its index; changes of place are relations between the index of the result and that of the argument. *)

From Coq Require Import ZArith List Bool Lia Permutation.
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

(** [place]: an element of the result. The instruction adds its own steps to what the steps of tiles before left, one tile after the
    other; that is the sum over axes of tiles and of steps in them, in the order of the product, so that it is the same bit by bit.
    Other tiles are other elements. *)
Theorem placed : forall (tiles steps : list Z) (term : list Z -> value) from,
  let all := map (fun n (_ : list Z) => n) in
  fold_left (fun a j => Reductions.sum add (fun t => term (j ++ t)) (nest (all steps) []) a) (nest (all tiles) []) from =
  Reductions.sum add term (nest (all (tiles ++ steps)) []) from.
Proof.
  intros tiles steps term from all.
  assert (C : forall l outer other, nest (all l) outer = nest (all l) other).
  { induction l as [|n l IH]; intros outer other; [reflexivity|]. simpl. apply flat_map_ext. intros i. rewrite (IH _ (other ++ [i])). reflexivity. }
  unfold Reductions.sum.
  assert (M : forall (i : Z) ts t a, fold_left (fun a u => add a (t u)) (map (cons i) ts) a = fold_left (fun a u => add a (t (i :: u))) ts a).
  { intros i. induction ts as [|u ts IH]; intros t a; simpl; [reflexivity | apply IH]. }
  revert term from. induction tiles as [|n tiles IH]; intros term from; [reflexivity|]. simpl.
  generalize from. induction (upto n) as [|i is IHi]; intros a; [reflexivity|]. simpl. rewrite !fold_left_app.
  rewrite (M i (nest (all (tiles ++ steps)) [i]) term), (C (tiles ++ steps) [i] []).
  rewrite <- (IH (fun u => term (i :: u)) a), IHi. f_equal.
  rewrite (C tiles [i] []). clear. revert a. induction (nest (all tiles) []) as [|j js IH]; intros a; [reflexivity|]. simpl. apply IH.
Qed.

(** [place-converted]: the instruction converts what it reads, and may add its own steps in another order. *)
Theorem placed_converted : (forall a b c, add (add a b) c = add (add a c) b) ->
  forall {code : Type} (left right : code -> value) (x y : list Z -> code) (tiles steps : list Z) (order : list (list Z)) from,
  let all := map (fun n (_ : list Z) => n) in
  Permutation (nest (all steps) []) order ->
  fold_left (fun a j => Reductions.sum add (fun t => mul (left (x (j ++ t))) (right (y (j ++ t)))) order a) (nest (all tiles) []) from =
  Reductions.sum add (fun t => mul ((fun i => left (x i)) t) ((fun i => right (y i)) t)) (nest (all (tiles ++ steps)) []) from.
Proof.
  intros law code left right x y tiles steps order from all P. subst all. cbv zeta. rewrite <- placed.
  assert (O : forall (term : list Z -> value) ts us, Permutation ts us -> forall a, Reductions.sum add term us a = Reductions.sum add term ts a).
  { unfold Reductions.sum. intros term ts us Q. induction Q as [|t ts us Q IH|t u ts|ts us vs Q IH R IH']; intros a; simpl; auto.
    - rewrite law. reflexivity.
    - rewrite IH'. apply IH. }
  revert from. induction (nest (map (fun n (_ : list Z) => n) tiles) []) as [|j js IH]; intros from; simpl; [reflexivity|].
  rewrite (O _ _ _ P). apply IH.
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

(** * Axes of products *)

(** The element of a factor at a row [i] of a batch [b] and a step [t]: attributes of [dot] say which axes are which. *)
Definition takes (batch free steps : list nat) (b i t element : list Z) : Prop :=
  permutes batch b element /\ permutes free i element /\ permutes steps t element.

Lemma permutes_app : forall a1 a2 r1 r2 e, length a1 = length r1 ->
  permutes (a1 ++ a2) (r1 ++ r2) e <-> permutes a1 r1 e /\ permutes a2 r2 e.
Proof.
  intros a1 a2 r1 r2 e L. unfold permutes. split.
  - intros H. split; intros k K.
    + specialize (H k). rewrite app_length, !app_nth1 in H by lia. apply H. lia.
    + specialize (H (length a1 + k)%nat). rewrite app_length, !app_nth2 in H by lia.
      replace (length a1 + k - length a1)%nat with k in H by lia.
      replace (length a1 + k - length r1)%nat with k in H by lia. apply H. lia.
  - intros [H1 H2] k K. rewrite app_length in K. destruct (Nat.lt_ge_cases k (length a1)) as [I|I].
    + rewrite !app_nth1 by lia. apply H1, I.
    + rewrite (app_nth2 a1), (app_nth2 r1) by lia. rewrite <- L. apply H2. lia.
Qed.

(** Axes in their own order. *)
Lemma permutes_seq : forall r from e, permutes (List.seq from (length r)) r e <-> forall k, (k < length r)%nat -> nth (from + k) e 0 = nth k r 0.
Proof.
  intros r from e. unfold permutes. rewrite seq_length. split; intros H k K; specialize (H k K); rewrite seq_nth in * by lia; exact H.
Qed.

(** [dot-order]: axes in order, [batch], then rows, then steps (or steps, then columns), after the factor was permuted so. The
    steps stay what they are, so that sums are the same bit by bit. *)
Theorem ordered_axes : forall batch first second b i t m e,
  length batch = length b -> length first = length i -> length second = length t ->
  permutes (batch ++ first ++ second) m e ->
  permutes (List.seq 0 (length b)) b m -> permutes (List.seq (length b) (length i)) i m ->
  permutes (List.seq (length b + length i) (length t)) t m ->
  permutes batch b e /\ permutes first i e /\ permutes second t e.
Proof.
  intros batch first second b i t m e LB LI LT P B I T.
  rewrite permutes_seq in B, I, T.
  assert (N : forall k, (k < length batch + length first + length second)%nat ->
    nth (nth k (batch ++ first ++ second) 0%nat) e 0 = nth k m 0).
  { intros k K. apply P. rewrite !app_length. lia. }
  split; [|split]; intros k K.
  - specialize (N k). rewrite app_nth1 in N by exact K. rewrite N by lia. apply B. lia.
  - specialize (N (length batch + k)%nat). rewrite app_nth2, app_nth1 in N by lia.
    replace (length batch + k - length batch)%nat with k in N by lia. rewrite N, LB by lia. apply I. lia.
  - specialize (N (length batch + length first + k)%nat). rewrite app_nth2, app_nth2 in N by lia.
    replace (length batch + length first + k - length batch - length first)%nat with k in N by lia.
    rewrite N, LB, LI by lia. apply T. lia.
Qed.

(** [dot-swap]: what was at the columns and rows of the exchanged product is at the rows and columns. *)
Theorem swapped_axes : forall b i j : list Z,
  permutes (List.seq 0 (length b) ++ List.seq (length b + length j) (length i) ++ List.seq (length b) (length j))
    (b ++ i ++ j) (b ++ j ++ i).
Proof.
  intros b i j. apply permutes_app; [apply seq_length|]. split; [|apply permutes_app; [apply seq_length|]; split];
    apply permutes_seq; intros k K.
  - apply app_nth1, K.
  - rewrite app_nth2, app_nth2 by lia. f_equal. lia.
  - rewrite app_nth2, app_nth1 by lia. f_equal. lia.
Qed.

(** [matmul-rows]: rows of both factors are axis 0 and steps axis 1, as [matmul] has them. *)
Theorem rows_of_both : forall m n k x y, takes [] [0%nat] [1%nat] [] [m] [k] x -> takes [] [0%nat] [1%nat] [] [n] [k] y ->
  length x = 2%nat -> length y = 2%nat -> x = [m; k] /\ y = [n; k].
Proof.
  assert (G : forall m k x, takes [] [0%nat] [1%nat] [] [m] [k] x -> length x = 2%nat -> x = [m; k]).
  { intros m k x (_ & R & S) L. specialize (R 0%nat). specialize (S 0%nat). simpl in R, S.
    destruct x as [|a [|c [|]]]; try discriminate. simpl in *. rewrite R, S by lia. reflexivity. }
  intros m n k x y X Y LX LY. split; eauto.
Qed.

(** * Convolutions *)

Section Convolutions.
Context {value : Type}.
Context (zero : value) (add mul : value -> value -> value).
Notation sum := (@Reductions.sum value add (list Z)).

(** Where the element [e] of the window at [o] lies, along the axes of space. *)
Fixpoint window (strides dilations o e : list Z) : list Z :=
  match strides, dilations, o, e with
  | s :: strides, d :: dilations, o1 :: o, e1 :: e => o1 * s + e1 * d :: window strides dilations o e
  | _, _, _, _ => []
  end.

(** All positions of a filter, channels first. *)
Definition positions (channels : Z) (filter : list Z) : list (list Z) :=
  nest (map (fun n _ => n) (channels :: filter)) [].

(** [conv]: of filter [m] at the place [o] of image [b]; the channels of its group begin at [m / filters * channels]. *)
Definition conv (filters channels : Z) (filter strides dilations : list Z) (x w : list Z -> value) (b m : Z) (o : list Z) : value :=
  sum (fun t => mul (w (m :: t)) (x (b :: m / filters * channels + hd 0 t :: window strides dilations o (tl t))))
    (positions channels filter) zero.

(** [windows] of the [n] last axes, behind [lead] others. *)
Definition windows (lead n : nat) (strides dilations : list Z) (x : list Z -> value) (i : list Z) : value :=
  x (firstn lead i ++ window strides dilations (firstn n (skipn lead i)) (skipn (lead + n) i)).

Lemma windows_at : forall lead n strides dilations x l o e, length l = lead -> length o = n ->
  windows lead n strides dilations x (l ++ o ++ e) = x (l ++ window strides dilations o e).
Proof.
  intros lead n strides dilations x l o e <- <-. unfold windows.
  rewrite firstn_app, Nat.sub_diag, firstn_all. simpl. rewrite app_nil_r.
  rewrite skipn_app, skipn_all, Nat.sub_diag. simpl.
  rewrite firstn_app, Nat.sub_diag, firstn_all. simpl. rewrite app_nil_r.
  rewrite app_assoc, <- app_length, skipn_app, skipn_all, Nat.sub_diag. reflexivity.
Qed.

Lemma sum_equal : forall (f g : list Z -> value) ts, (forall t, In t ts -> f t = g t) -> forall a, sum f ts a = sum g ts a.
Proof.
  unfold Reductions.sum. intros f g ts. induction ts as [|t ts IH]; intros E a; simpl; [reflexivity|].
  rewrite (E t) by (simpl; auto). apply IH. intros u U. apply E. simpl. auto.
Qed.

(** [conv-windows]: without groups it is the product of filters and windows, step by step. *)
Theorem conv_windows : forall filters channels filter strides dilations x w b m o,
  0 <= m < filters -> length o = length filter ->
  conv filters channels filter strides dilations x w b m o =
  sum (fun t => mul (w (m :: t))
    (windows 2 (length filter) strides dilations x (b :: hd 0 t :: o ++ tl t))) (positions channels filter) zero.
Proof.
  intros filters channels filter strides dilations x w b m o M O. apply sum_equal. intros t T. f_equal.
  rewrite (Z.div_small m) by exact M. simpl (0 * _ + _).
  symmetry. apply (windows_at 2 (length filter) strides dilations x [b; hd 0 t] o (tl t)); [reflexivity | exact O].
Qed.

(** [conv-groups]: filter [m] of group [g] is one of a batch of products, over windows of the channels of its group; places in
    shapes with axes of groups are those of the shapes without, by [grouped]. *)
Theorem conv_groups : forall filters channels filter strides dilations x w b g m o,
  0 <= m < filters -> length o = length filter ->
  conv filters channels filter strides dilations x w b (g * filters + m) o =
  sum (fun t => mul ((fun i => w (nth 0 i 0 * filters + nth 1 i 0 :: skipn 2 i)) (g :: m :: t))
    (windows 3 (length filter) strides dilations
      (fun i => x (nth 0 i 0 :: nth 1 i 0 * channels + nth 2 i 0 :: skipn 3 i)) (b :: g :: hd 0 t :: o ++ tl t)))
    (positions channels filter) zero.
Proof.
  intros filters channels filter strides dilations x w b g m o M O. apply sum_equal. intros t T. simpl nth. simpl skipn. f_equal.
  replace ((g * filters + m) / filters) with g by (apply Z.div_unique with m; lia).
  symmetry. exact (windows_at 3 (length filter) strides dilations
    (fun i => x (nth 0 i 0 :: nth 1 i 0 * channels + nth 2 i 0 :: skipn 3 i)) [b; g; hd 0 t] o (tl t) eq_refl O).
Qed.

(** An axis of [g] groups of [n] is one axis: [reshape] keeps the place. *)
Theorem grouped : forall front n g k i behind j sum, length front = length i -> n <> 0 ->
  address (front ++ g :: n :: behind) (i ++ k / n :: k mod n :: j) sum = address (front ++ g * n :: behind) (i ++ k :: j) sum.
Proof.
  intros front n g k i behind j sum L N. revert i L sum. induction front as [|a front IH]; intros [|c i] L sum; try discriminate; simpl.
  - f_equal. rewrite (Z.div_mod k n N) at 3. ring.
  - apply IH. simpl in L. lia.
Qed.

(** A filter of one position has no others. *)
Lemma ones : forall n outer, nest (map (fun n _ => n) (repeat 1 n)) outer = [repeat 0 n].
Proof. induction n as [|n IH]; intros outer; [reflexivity|]. simpl. rewrite IH. reflexivity. Qed.

Lemma window_zeros : forall strides dilations o, length dilations = length strides -> length o = length strides ->
  window strides dilations o (repeat 0 (length strides)) = map (fun p => fst p * snd p) (combine o strides).
Proof.
  induction strides as [|s strides IH]; intros [|d dilations] [|c o] D O; try discriminate; [reflexivity|]. simpl in *.
  rewrite IH by lia. f_equal. ring.
Qed.

(** [conv-pointwise]: filters of one position are rows of a matrix, and places are [strides] apart, as [slice] takes them. *)
Theorem conv_pointwise : forall filters channels strides dilations x w b m o,
  0 <= m < filters -> length dilations = length strides -> length o = length strides ->
  conv filters channels (repeat 1 (length strides)) strides dilations x w b m o =
  @Reductions.sum value add Z (fun c => mul (w (m :: c :: repeat 0 (length strides)))
    (x (b :: c :: map (fun p => fst p * snd p) (combine o strides)))) (upto channels) zero.
Proof.
  intros filters channels strides dilations x w b m o M D O. unfold conv, positions. simpl nest.
  rewrite <- (window_zeros strides dilations o D O).
  replace (flat_map (fun i => map (cons i) (nest (map (fun n _ => n) (repeat 1 (length strides))) [i])) (upto channels))
    with (map (fun c => c :: repeat 0 (length strides)) (upto channels)).
  - unfold Reductions.sum. rewrite (Z.div_small m) by exact M. generalize zero.
    induction (upto channels) as [|c cs IH]; intros a; [reflexivity|]. simpl in *. apply IH.
  - induction (upto channels) as [|c cs IH]; [reflexivity|]. simpl. rewrite IH, ones. reflexivity.
Qed.

(** [dot-swap]: factors commute, in floats too. *)
Theorem swapped_factors : (forall a b, mul a b = mul b a) -> forall (f g : list Z -> value) ts,
  sum (fun t => mul (f t) (g t)) ts zero = sum (fun t => mul (g t) (f t)) ts zero.
Proof. intros C f g ts. apply sum_equal. intros t _. apply C. Qed.
End Convolutions.

(** * Single numbers *)

(** [sub-zero]: of integers that wrap. *)
Theorem sub_zero : forall bits x, (x - 0) mod 2 ^ bits = x mod 2 ^ bits.
Proof. intros bits x. rewrite Z.sub_0_r. reflexivity. Qed.

(** The bits of an [f32] that is no NaN, rounded to those of a [bf16], halves to even. *)
Definition rounded (bits : Z) : Z := (bits + 32767 + (bits / 2 ^ 16) mod 2) / 2 ^ 16.

(** [cast-back]: a [bf16] is the first half of an [f32], and is rounded to itself. *)
Theorem cast_back : forall half, rounded (half * 2 ^ 16) = half.
Proof.
  intros half. unfold rounded. rewrite Z.div_mul by lia. symmetry.
  pose proof (Z.mod_pos_bound half 2 ltac:(lia)). apply Z.div_unique with (32767 + half mod 2); lia.
Qed.

(** What is behind the point of an [f32], with the bit that is not stored, times the power of its exponent: its size, for numbers that
    are not below the smallest power (in units of 2^-150). *)
Definition size (bits : Z) : Z := (2 ^ 23 + bits mod 2 ^ 23) * 2 ^ (bits / 2 ^ 23).

(** [dot-rounded]: a number that is not below 2^-126, nor rounded to infinity, changes by 2^-8 of itself at most. *)
Theorem rounded_near : forall bits, 2 ^ 23 <= bits < 255 * 2 ^ 23 - 2 ^ 15 ->
  2 ^ 8 * Z.abs (size (rounded bits * 2 ^ 16) - size bits) <= size bits.
Proof.
  intros bits B. unfold rounded.
  set (h := bits / 2 ^ 16). set (m := bits mod 2 ^ 16).
  assert (E : bits = h * 2 ^ 16 + m) by (subst h m; rewrite Z.mul_comm; apply Z.div_mod; lia).
  assert (M : 0 <= m < 2 ^ 16) by (apply Z.mod_pos_bound; lia).
  pose proof (Z.mod_pos_bound h 2 ltac:(lia)) as O.
  (* the half before or the one behind, whichever is nearer *)
  assert (R : exists h', (bits + 32767 + h mod 2) / 2 ^ 16 = h' /\ (h' = h \/ h' = h + 1) /\ Z.abs (h' * 2 ^ 16 - bits) <= 2 ^ 15).
  { destruct (Z.lt_ge_cases (m + 32767 + h mod 2) (2 ^ 16)) as [L|G].
    - exists h. split; [symmetry; apply Z.div_unique with (m + 32767 + h mod 2); lia|]. lia.
    - exists (h + 1). split; [symmetry; apply Z.div_unique with (m + 32767 + h mod 2 - 2 ^ 16); lia|]. lia. }
  destruct R as (h' & -> & H' & D).
  set (e := bits / 2 ^ 23). set (s := bits mod 2 ^ 23).
  assert (F : bits = e * 2 ^ 23 + s) by (subst e s; rewrite Z.mul_comm; apply Z.div_mod; lia).
  assert (S : 0 <= s < 2 ^ 23) by (apply Z.mod_pos_bound; lia).
  assert (E0 : 0 <= e) by (apply Z.div_pos; lia).
  unfold size at 2 3. fold e s.
  pose proof (Z.pow_pos_nonneg 2 e ltac:(lia) E0) as P.
  (* in a step of its exponent, or the first number of the next *)
  assert (C : size (h' * 2 ^ 16) = (2 ^ 23 + (h' * 2 ^ 16 - e * 2 ^ 23)) * 2 ^ e).
  { unfold size. assert (W : e * 2 ^ 23 <= h' * 2 ^ 16 <= (e + 1) * 2 ^ 23).
    { assert (h / 2 ^ 7 = e) by (subst h e; rewrite Z.div_div by lia; reflexivity).
      pose proof (Z.div_mod h (2 ^ 7) ltac:(lia)). pose proof (Z.mod_pos_bound h (2 ^ 7) ltac:(lia)). nia. }
    destruct (Z.eq_dec (h' * 2 ^ 16) ((e + 1) * 2 ^ 23)) as [->|N].
    - rewrite Z.div_mul, Z.mod_mul by lia. rewrite Z.pow_add_r by lia. ring.
    - replace (h' * 2 ^ 16 / 2 ^ 23) with e by (apply Z.div_unique with (h' * 2 ^ 16 - e * 2 ^ 23); lia).
      replace ((h' * 2 ^ 16) mod 2 ^ 23) with (h' * 2 ^ 16 - e * 2 ^ 23) by (apply Z.mod_unique with e; lia). reflexivity. }
  rewrite C. rewrite <- Z.mul_sub_distr_r, Z.abs_mul, (Z.abs_eq (2 ^ e)) by lia. rewrite Z.mul_assoc.
  apply Z.mul_le_mono_nonneg_r; lia.
Qed.

(** [dot-rounded]: a sum of products of factors that change by 2^-8 of themselves changes by 513 / 2^16 of the sizes' sum. *)
Theorem rounded_sum : forall (x y x' y' : Z -> Z) ts,
  (forall t, In t ts -> 2 ^ 8 * Z.abs (x' t - x t) <= Z.abs (x t) /\ 2 ^ 8 * Z.abs (y' t - y t) <= Z.abs (y t)) ->
  2 ^ 16 * Z.abs (sum (fun t => x' t * y' t) ts 0 - sum (fun t => x t * y t) ts 0) <= 513 * sum (fun t => Z.abs (x t * y t)) ts 0.
Proof.
  intros x y x' y' ts. unfold Reductions.sum.
  assert (G : forall l a b c, (forall t, In t l -> 2 ^ 8 * Z.abs (x' t - x t) <= Z.abs (x t) /\ 2 ^ 8 * Z.abs (y' t - y t) <= Z.abs (y t)) ->
    2 ^ 16 * Z.abs (a - b) <= 513 * c ->
    2 ^ 16 * Z.abs (fold_left (fun a t => a + x' t * y' t) l a - fold_left (fun a t => a + x t * y t) l b) <=
    513 * fold_left (fun a t => a + Z.abs (x t * y t)) l c).
  { induction l as [|t l IH]; intros a b c N D; simpl; [exact D|].
    apply IH; [intros u U; apply N; simpl; auto|]. destruct (N t (or_introl eq_refl)) as [X Y].
    set (p := x' t - x t) in *. set (q := y' t - y t) in *.
    assert (T : x' t * y' t - x t * y t = p * y t + x t * q + p * q) by (subst p q; ring).
    assert (2 ^ 16 * Z.abs (x' t * y' t - x t * y t) <= 513 * Z.abs (x t * y t)).
    { rewrite T. rewrite Z.abs_mul.
      assert (Z.abs (p * y t + x t * q + p * q) <= Z.abs p * Z.abs (y t) + Z.abs (x t) * Z.abs q + Z.abs p * Z.abs q).
      { rewrite <- !Z.abs_mul. lia. }
      pose proof (Z.abs_nonneg p). pose proof (Z.abs_nonneg q). pose proof (Z.abs_nonneg (x t)). pose proof (Z.abs_nonneg (y t)).
      assert (2 ^ 8 * Z.abs p * Z.abs (y t) <= Z.abs (x t) * Z.abs (y t)) by (apply Z.mul_le_mono_nonneg_r; lia).
      assert (2 ^ 8 * Z.abs q * Z.abs (x t) <= Z.abs (y t) * Z.abs (x t)) by (apply Z.mul_le_mono_nonneg_r; lia).
      assert ((2 ^ 8 * Z.abs p) * (2 ^ 8 * Z.abs q) <= Z.abs (x t) * Z.abs (y t)) by (apply Z.mul_le_mono_nonneg; lia).
      nia. }
    lia. }
  intros N. apply G; [exact N | simpl; lia].
Qed.

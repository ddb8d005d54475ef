(** What [scope.rs] and [obligations.rs] put into obligations is true of every run: quotients and remainders, the lesser
    and the greater of two, the order of iterations, elements of a buffer that nobody writes, and elements that share
    storage. A hypothesis that was false of some run would make a proof of nothing. *)

From Coq Require Import ZArith NArith List Bool Lia.
From Lathe Require Import Calculus Nests Checker.
Import ListNotations.
Open Scope Z_scope.

(** * Division ([Scope::divide]) *)

(** The quotient and the remainder satisfy what is said of the unknowns that stand for them, and nothing else does. *)
Theorem quotient : forall x m q r, 0 < m -> (q * m + r = x /\ 0 <= r /\ r + 1 <= m <-> q = x / m /\ r = x mod m).
Proof.
  intros x m q r M. split.
  - intros (E & L & U). split; [apply Z.div_unique with r | apply Z.mod_unique with q]; lia.
  - intros [-> ->]. pose proof (Z.div_mod x m ltac:(lia)). pose proof (Z.mod_pos_bound x m M). lia.
Qed.

(** Whole multiples come out of a quotient. *)
Theorem whole_multiples : forall w x c, 0 < c -> (c * w + x) / c = w + x / c /\ (c * w + x) mod c = x mod c.
Proof.
  intros w x c C. replace (c * w + x) with (x + w * c) by ring. rewrite Z.div_add, Z.mod_add by lia. lia.
Qed.

(** A digit below a common factor does not change a quotient, and is left over. *)
Theorem digit : forall x d g c, 0 < g -> 0 < c -> 0 <= d < g ->
  (g * x + d) / (g * c) = x / c /\ (g * x + d) mod (g * c) = g * (x mod c) + d.
Proof.
  intros x d g c G C D. apply and_comm.
  assert (M : 0 <= x mod c < c) by (apply Z.mod_pos_bound; lia).
  assert (E : g * x + d = (g * c) * (x / c) + (g * (x mod c) + d)) by (rewrite (Z.div_mod x c) at 1 by lia; ring).
  split; symmetry; [apply Z.mod_unique with (x / c) | apply Z.div_unique with (g * (x mod c) + d)]; auto; left; nia.
Qed.

(** * The lesser and the greater ([Scope::extreme]) *)

Theorem extremes : forall x y,
  (Z.min x y <= x /\ Z.min x y <= y /\ (x <= Z.min x y \/ y <= Z.min x y)) /\
  (x <= Z.max x y /\ y <= Z.max x y /\ (Z.max x y <= x \/ Z.max x y <= y)).
Proof. lia. Qed.

(** * Choices, as polynomials *)

Definition minus (x y : term) : option term := add_scaled x y (-1).

Lemma minus_eval a x y t : minus x y = Some t -> eval a t = eval a x - eval a y.
Proof. unfold minus. intros H. rewrite (add_scaled_eval _ _ _ _ _ H). ring. Qed.

(** That two differ, either way ([Walk::equal]: refuted, they are equal). *)
Definition differ (x y : term) : option (list (list term)) :=
  bind (minus x y) (fun d => bind (plus d 1) (fun less => bind (neg d) (fun n => bind (plus n 1) (fun greater =>
  Some [[less]; [greater]])))).

Theorem differ_means : forall x y c a, differ x y = Some c -> (one_holds a c <-> eval a x <> eval a y).
Proof.
  intros x y c a H. unfold differ in H.
  apply bind_some in H as (d & D & H). apply bind_some in H as (l & L & H).
  apply bind_some in H as (n & N & H). apply bind_some in H as (g & G & H). injection H as <-.
  apply (minus_eval a) in D. apply (plus_eval a) in L. apply (neg_eval a) in N. apply (plus_eval a) in G.
  assert (one : forall t, Forall (holds a) [t] <-> eval a t <= 0).
  { intros t. split; [intros F; inversion F; auto | intros F; constructor; auto]. }
  unfold one_holds. rewrite !Exists_cons, Exists_nil, !one. lia.
Qed.

(** The first tuple comes before the second ([Scope::precedes]): equal up to some place, and less there. *)
Fixpoint precedes_from (equal : list term) (x y : list term) : option (list (list term)) :=
  match x, y with
  | t :: x, u :: y =>
      bind (minus t u) (fun d => bind (plus d 1) (fun less => bind (minus u t) (fun e =>
      bind (precedes_from (equal ++ [d; e]) x y) (fun cases => Some ((less :: equal) :: cases)))))
  | _, _ => Some []
  end.
Definition precedes_choice := precedes_from [].

Lemma precedes_from_means a : forall x y equal c, precedes_from equal x y = Some c ->
  (one_holds a c <-> Forall (holds a) equal /\ precedes (map (eval a) x) (map (eval a) y)).
Proof.
  unfold one_holds. induction x as [|t x IH]; intros y equal c H.
  - injection H as <-. rewrite Exists_nil. simpl. tauto.
  - destruct y as [|u y]; [injection H as <-; rewrite Exists_nil; simpl; tauto|].
    simpl in H. apply bind_some in H as (d & D & H). apply bind_some in H as (l & L & H).
    apply bind_some in H as (e & E & H). apply bind_some in H as (cs & C & H). injection H as <-.
    apply (minus_eval a) in D. apply (minus_eval a) in E. apply (plus_eval a) in L.
    rewrite Exists_cons, (IH _ _ _ C), Forall_app, Forall_cons_iff. simpl.
    assert (S : Forall (holds a) [d; e] <-> eval a t = eval a u).
    { unfold holds. rewrite !Forall_cons_iff. split; [intros (A & B & _); lia | intros Q; repeat split; auto; lia]. }
    rewrite S. unfold holds at 1. intuition lia.
Qed.

Theorem precedes_means : forall x y c a, precedes_choice x y = Some c ->
  (one_holds a c <-> precedes (map (eval a) x) (map (eval a) y)).
Proof.
  intros x y c a H. rewrite (precedes_from_means a x y [] c H). split; [tauto|]. intros P. split; [constructor | exact P].
Qed.

(** * What a certificate gives

    The three ways in which [Walk] states an obligation, each the negation of what is to hold, beside hypotheses that are
    true of a run; for [t <= 0] it is [goal_follows]. *)

(** [Walk::equal]. *)
Theorem equal_follows : forall fs cs x y c p, differ x y = Some c ->
  check (Obligation fs (cs ++ [c])) p = true ->
  forall a, Forall (holds a) fs -> Forall (one_holds a) cs -> eval a x = eval a y.
Proof.
  intros fs cs x y c p D H a F C. destruct (Z.eq_dec (eval a x) (eval a y)) as [|n]; [assumption|]. exfalso.
  apply (check_sound _ _ H a). split; [exact F|]. simpl. apply Forall_app. split; [exact C|]. constructor; [|constructor].
  apply (differ_means x y c a D). exact n.
Qed.

(** The order in [Walk::band]: no iteration comes before another one after which it came. *)
Theorem order_follows : forall fs cs x y old_x old_y c d p,
  precedes_choice x y = Some c -> precedes_choice old_y old_x = Some d ->
  check (Obligation fs (cs ++ [c; d])) p = true ->
  forall a, Forall (holds a) fs -> Forall (one_holds a) cs ->
  precedes (map (eval a) x) (map (eval a) y) -> ~ precedes (map (eval a) old_y) (map (eval a) old_x).
Proof.
  intros fs cs x y ox oy c d p X Y H a F C P Q. apply (check_sound _ _ H a). split; [exact F|]. simpl.
  apply Forall_app. split; [exact C|]. constructor; [|constructor; [|constructor]].
  - apply (precedes_means x y c a X), P.
  - apply (precedes_means oy ox d a Y), Q.
Qed.

(** Two accesses in [Walk::distinct]: beside the hypothesis that they share an element, indices that are equal in each
    dimension. *)
Theorem distinct_follows : forall fs cs shared p,
  check (Obligation (fs ++ shared) cs) p = true ->
  forall a, Forall (holds a) fs -> Forall (one_holds a) cs -> ~ Forall (holds a) shared.
Proof.
  intros fs cs shared p H a F C S. apply (check_sound _ _ H a). split; [|exact C]. simpl. apply Forall_app. auto.
Qed.

(** * Elements of a buffer that nobody writes ([Scope::promised]) *)

(** Two elements that are there are the same one, or their indices differ in some dimension; those of an injective buffer
    then differ too. *)
Theorem promised : forall (of : list Z -> Z) (there : list Z -> Prop) i j, there i -> there j -> length i = length j ->
  (of i = of j /\ i = j) \/
  (exists d, (nth d i 0 + 1 <= nth d j 0 \/ nth d j 0 + 1 <= nth d i 0) /\
    ((forall k l, there k -> there l -> of k = of l -> k = l) -> of i + 1 <= of j \/ of j + 1 <= of i)).
Proof.
  intros of there i j I J L. destruct (list_eq_dec Z.eq_dec i j) as [->|n]; [auto|]. right.
  assert (G : exists d, nth d i 0 <> nth d j 0).
  { clear of there I J. revert j L n. induction i as [|x i IH]; intros [|y j] L n; try discriminate; [congruence|].
    destruct (Z.eq_dec x y) as [->|d]; [|exists 0%nat; exact d].
    destruct (IH j) as [d D]; [simpl in L; lia | congruence |]. exists (S d). exact D. }
  destruct G as [d D]. exists d. split; [lia|]. intros inj.
  destruct (Z.eq_dec (of i) (of j)) as [E|]; [destruct (n (inj i j I J E)) | lia].
Qed.

(** Those of a monotone one do not fall where the index is greater. *)
Theorem promised_monotone : forall (of : Z -> Z) (there : Z -> Prop),
  (forall i j, there i -> there j -> i <= j -> of i <= of j) ->
  forall i j, there i -> there j ->
  (i = j /\ of i = of j) \/ (i + 1 <= j /\ of i <= of j) \/ (j + 1 <= i /\ of j <= of i).
Proof.
  intros of there M i j I J.
  destruct (Z.lt_trichotomy i j) as [L|[->|L]]; [right; left | auto | right; right]; split; try lia; apply M; auto; lia.
Qed.

(** * Storage *)

(** Two elements share a bit when each begins before the other ends ([Walk::same_bits]). *)
Theorem same_bits : forall i w j v, 0 < w -> 0 < v ->
  ((exists bit, i <= bit < i + w /\ j <= bit < j + v) <-> (i <= j + v - 1 /\ j <= i + w - 1)).
Proof.
  intros i w j v W V. split; [intros (b & B & C); lia|]. intros [A B]. exists (Z.max i j). lia.
Qed.

(** Digits with their strides, the least first, and how many values each has where that is known. The strides are those of
    a mixed radix ([is_mixed_radix] of [meet.rs]): each is at least as long as all that is below it. The last may have any
    number of values. *)
Fixpoint radix (reach : Z) (terms : list (Z * option Z)) : Prop :=
  match terms with
  | [] => True
  | (s, count) :: rest =>
      reach <= s /\ match count with Some c => radix (s * (c - 1) + reach) rest | None => rest = [] end
  end.

Fixpoint counted (terms : list (Z * option Z)) (values : list Z) : Prop :=
  match terms, values with
  | [], [] => True
  | (_, count) :: terms, v :: values => 0 <= v /\ match count with Some c => v < c | None => True end /\ counted terms values
  | _, _ => False
  end.

Fixpoint summed (terms : list (Z * option Z)) (values : list Z) : Z :=
  match terms, values with
  | (s, _) :: terms, v :: values => s * v + summed terms values
  | _, _ => 0
  end.

Lemma radix_apart : forall terms bits low low' reach u v, 0 < bits -> 0 <= low -> 0 <= low' ->
  low + bits <= reach -> low' + bits <= reach -> radix reach terms -> counted terms u -> counted terms v ->
  - bits < (low + summed terms u) - (low' + summed terms v) < bits -> u = v /\ - bits < low - low' < bits.
Proof.
  induction terms as [|[s count] terms IH]; intros bits low low' reach [|x u] [|y v] B L L' R R' M U V D;
    simpl in *; try tauto; [split; [reflexivity | lia]|].
  destruct M as [S M], U as (X & Cx & U), V as (Y & Cy & V).
  destruct count as [c|].
  - destruct (IH bits (low + s * x) (low' + s * y) (s * (c - 1) + reach) u v) as [E F]; auto; try nia.
    subst v. assert (x = y) by nia. subst. split; [reflexivity | lia].
  - subst terms. destruct u, v; simpl in *; try tauto. assert (x = y) by nia. subst. split; [reflexivity | lia].
Qed.

(** Different digits lie apart: elements that share a bit have the same. *)
Theorem mixed_radix : forall terms bits u v, 0 < bits -> radix bits terms -> counted terms u -> counted terms v ->
  (exists bit, summed terms u <= bit < summed terms u + bits /\ summed terms v <= bit < summed terms v + bits) -> u = v.
Proof.
  intros terms bits u v B M U V (b & D & E).
  apply (radix_apart terms bits 0 0 bits u v); auto; lia.
Qed.

(** The digits of a dimension, whose divisors are the products of the moduli before, determine the index: up to the
    product of all moduli, which the extent does not exceed, or fully where the last has no modulus. *)
Fixpoint same_digits (div : Z) (moduli : list Z) (i j : Z) : Prop :=
  match moduli with
  | [] => True
  | m :: moduli => (i / div) mod m = (j / div) mod m /\ same_digits (div * m) moduli i j
  end.

Lemma digits_below : forall moduli div i j, 0 < div -> Forall (Z.lt 0) moduli -> i mod div = j mod div ->
  same_digits div moduli i j -> let n := fold_left Z.mul moduli div in i mod n = j mod n.
Proof.
  induction moduli as [|m ms IH]; simpl; intros div i j D P E S; [exact E|].
  inversion P; subst. destruct S as [A S]. apply IH; auto; [nia|].
  rewrite !Z.rem_mul_r, E, A by lia. reflexivity.
Qed.

Theorem digits_determine : forall moduli i j, Forall (Z.lt 0) moduli -> same_digits 1 moduli i j ->
  let n := fold_left Z.mul moduli 1 in
  (0 <= i < n /\ 0 <= j < n) \/ i / n = j / n -> i = j.
Proof.
  intros ms i j P S n H.
  assert (E : i mod n = j mod n) by (apply digits_below; auto; [lia | rewrite !Z.mod_1_r; reflexivity]).
  assert (N : 0 < n).
  { assert (G : forall l d, Forall (Z.lt 0) l -> 0 < d -> 0 < fold_left Z.mul l d).
    { induction l as [|m l IH]; simpl; intros d F D; [exact D|]. inversion F; subst. apply IH; auto. nia. }
    apply G; auto. lia. }
  destruct H as [[I J]|D]; [rewrite !Z.mod_small in E by auto; exact E|].
  rewrite (Z.div_mod i n), (Z.div_mod j n), D, E by lia. reflexivity.
Qed.

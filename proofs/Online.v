(** One pass in place of two ([online.rs]), and a pass in parts ([parts.rs]), in real numbers: a maximum [m], and sums of
    [g * exp (x - m)]. All that is used of the exponential is [exp (a - b) * exp (b - c) = exp (a - c)], and of numbers
    the laws of a semiring. Floats have these up to rounding, so steps that use them are tagged [approximates]. One
    element of a sum is looked at; others are the same with terms of their own. *)

From Coq Require Import List.
Import ListNotations.

Section Passes.
Context {number : Type}.
Context (zero : number) (add mul max : number -> number -> number).
(** [factor a b] is [exp (a - b)]. *)
Context (factor : number -> number -> number).

Definition laws :=
  (forall a b c, add (add a b) c = add a (add b c)) /\ (forall a, add zero a = a) /\ (forall a, add a zero = a) /\
  (forall a b c, mul (mul a b) c = mul a (mul b c)) /\
  (forall a b c, mul (add a b) c = add (mul a c) (mul b c)) /\ (forall a, mul zero a = zero) /\
  (forall a b c, mul (factor a b) (factor b c) = factor a c).

(** Iterations: what the maximum is of, and what is multiplied by the exponential. *)
Notation term := (number * number)%type.

Definition maximum (ts : list term) (from : number) : number := fold_left (fun m t => max m (fst t)) ts from.
(** The second pass: all terms on the scale of one maximum. *)
Definition sum_at (m : number) (ts : list term) (from : number) : number :=
  fold_left (fun s t => add s (mul (snd t) (factor (fst t) m))) ts from.

(** One iteration of the one pass: the maximum grows, the sum is brought to its scale, and the term is added. *)
Definition step (state : number * number) (t : term) : number * number :=
  let m := max (fst state) (fst t) in
  (m, add (mul (snd state) (factor (fst state) m)) (mul (snd t) (factor (fst t) m))).
Definition pass (ts : list term) (state : number * number) : number * number := fold_left step ts state.

Lemma rescaled : laws -> forall ts a b s, mul (sum_at a ts s) (factor a b) = sum_at b ts (mul s (factor a b)).
Proof.
  intros (_ & _ & _ & assoc & distr & _ & chain) ts a b. unfold sum_at.
  induction ts as [|t ts IH]; simpl; intros s; [reflexivity|]. rewrite IH, distr, assoc, chain. reflexivity.
Qed.

Lemma pass_from : laws -> forall ts m done, pass ts (m, sum_at m done zero) =
  (maximum ts m, sum_at (maximum ts m) (done ++ ts) zero).
Proof.
  intros L. pose proof L as (_ & _ & _ & _ & _ & none & _).
  induction ts as [|t ts IH]; intros m done.
  - rewrite app_nil_r. reflexivity.
  - unfold pass. simpl. fold (pass ts).
    replace (step (m, sum_at m done zero) t) with
      (max m (fst t), sum_at (max m (fst t)) (done ++ [t]) zero).
    + fold (pass ts (max m (fst t), sum_at (max m (fst t)) (done ++ [t]) zero)).
      rewrite IH, <- app_assoc. reflexivity.
    + unfold step. simpl. f_equal. rewrite (rescaled L), none.
      unfold sum_at. rewrite fold_left_app. reflexivity.
Qed.

(** [online M J...]: after all iterations maximum and sum are those of two passes. *)
Theorem one_pass : laws -> forall ts m, pass ts (m, zero) = (maximum ts m, sum_at (maximum ts m) ts zero).
Proof. intros L ts m. exact (pass_from L ts m []). Qed.

(** The maximum is of each [x] before it is used ([is_taken]): no exponential is more than 1 on the way, so that floats do not
    overflow where real numbers do not. *)
Theorem no_more_than_one : forall (le : number -> number -> Prop) (one : number),
  (forall a b, le b (max a b)) -> (forall a b, le a b -> le (factor a b) one) ->
  forall m (t : term), le (factor (fst t) (max m (fst t))) one.
Proof. intros le one grows below m t. apply below, grows. Qed.

(** Two states meet in the larger maximum. *)
Definition meet (state part : number * number) : number * number :=
  let m := max (fst state) (fst part) in
  (m, add (mul (snd state) (factor (fst state) m)) (mul (snd part) (factor (fst part) m))).

Definition max_laws :=
  (forall a b c, max (max a b) c = max a (max b c)) /\ (forall a b, max a b = max b a) /\ (forall a, max a a = a).

Lemma maximum_max : max_laws -> forall ts a b, maximum ts (max a b) = max a (maximum ts b).
Proof.
  intros (assoc & _). unfold maximum. induction ts as [|t ts IH]; simpl; intros a b; [reflexivity|].
  rewrite assoc. apply IH.
Qed.

Lemma maximum_grows : max_laws -> forall ts m, max (maximum ts m) m = maximum ts m.
Proof.
  intros L ts m. pose proof L as (assoc & comm & idem).
  rewrite <- (idem m) at 1 3. rewrite (maximum_max L), comm, <- assoc, idem. reflexivity.
Qed.

(** [partials L]: each part has a maximum and sums of its own, begun alike; joined, they are those of one pass over all. *)
Theorem parts : laws -> max_laws -> forall (all : list (list term)) m,
  fold_left (fun state ts => meet state (pass ts (m, zero))) all (m, zero) = pass (concat all) (m, zero).
Proof.
  intros L M all m. pose proof L as (plus & left & right & assoc & distr & none & chain).
  assert (add_from : forall ts k a b, sum_at k ts (add a b) = add a (sum_at k ts b)).
  { unfold sum_at. induction ts as [|t ts IH]; simpl; intros k a b; [reflexivity|]. rewrite plus. apply IH. }
  assert (G : forall all done, fold_left (fun state ts => meet state (pass ts (m, zero))) all
      (maximum done m, sum_at (maximum done m) done zero) =
      (maximum (done ++ concat all) m, sum_at (maximum (done ++ concat all) m) (done ++ concat all) zero)).
  { clear all. induction all as [|ts all IH]; intros done; simpl; [rewrite app_nil_r; reflexivity|].
    rewrite app_assoc, <- IH. f_equal. rewrite (one_pass L). unfold meet. simpl.
    assert (E : max (maximum done m) (maximum ts m) = maximum (done ++ ts) m).
    { rewrite <- (maximum_max M), (maximum_grows M). unfold maximum. rewrite fold_left_app. reflexivity. }
    rewrite E. f_equal. rewrite !(rescaled L), !none.
    set (k := maximum (done ++ ts) m).
    assert (S : sum_at k (done ++ ts) zero = sum_at k ts (sum_at k done zero)) by apply fold_left_app.
    rewrite S, <- (add_from ts k (sum_at k done zero) zero), right. reflexivity. }
  rewrite (one_pass L). exact (G all []).
Qed.
End Passes.

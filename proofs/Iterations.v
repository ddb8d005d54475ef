(** The rules that use that iterations do not meet: loops in lanes and on cores ([meet.rs]), loops distributed
    ([distribute.rs]) and loops joined ([join.rs]). What is demanded of two commands is that they commute: they do where
    they do not meet ([apart_commute]), and where one block accumulates by a commutative reducer
    ([accumulations_commute]). *)

From Coq Require Import ZArith List Lia Permutation.
From Lathe Require Import Calculus.
Import ListNotations.
Open Scope Z_scope.

Section Programs.
Context {loc value : Type}.
Notation command := (@command loc value).
Notation store := (@store loc value).

(** A loop whose iterations run commands one by one: of iteration [i], the commands [(i, 0)], [(i, 1)], ... *)
Definition in_turn (n : Z) (len : Z -> nat) : list (Z * nat) :=
  flat_map (fun i => map (pair i) (List.seq 0 (len i))) (upto n).

Lemma in_turn_order n len x y : before (in_turn n len) x y ->
  (0 <= fst x < n /\ (snd x < len (fst x))%nat) /\ (0 <= fst y < n /\ (snd y < len (fst y))%nat) /\
  (fst x < fst y \/ (fst x = fst y /\ (snd x < snd y)%nat)).
Proof.
  unfold in_turn. intros B. assert (M := before_in _ _ _ B).
  assert (I : forall z, In z (flat_map (fun i => map (pair i) (List.seq 0 (len i))) (upto n)) ->
    0 <= fst z < n /\ (snd z < len (fst z))%nat).
  { intros z Z. apply in_flat_map in Z as (i & I & Z). apply in_map_iff in Z as (k & <- & K).
    apply in_seq in K. apply in_upto in I. simpl. lia. }
  split; [apply I, M|]. split; [apply I, M|]. clear M I.
  assert (ordered : forall i j, before (upto n) i j -> i < j) by apply before_upto.
  revert B ordered. generalize (upto n). intros is. induction is as [|i is IH]; simpl; [tauto|].
  intros B O. apply before_app in B as [B|[B|[I J]]].
  - apply before_map in B as (k & m & B & <- & <-). apply before_seq in B. simpl. auto.
  - apply IH; auto.
  - apply in_map_iff in I as (k & <- & _). apply in_flat_map in J as (j & J & M).
    apply in_map_iff in M as (m & <- & _). left. simpl. auto.
Qed.

(** The rule of lanes and cores: where commands of different iterations commute, it is the same in which order they run,
    and how they take turns, as long as each iteration's own commands keep their order. Lanes run a command for all
    iterations at once; cores run iterations as they like. *)
Theorem independent : forall n len (c : Z * nat -> command) us,
  (forall i j k m, 0 <= i < j -> j < n -> (k < len i)%nat -> (m < len j)%nat -> commute (c (i, k)) (c (j, m))) ->
  Permutation (in_turn n len) us ->
  (forall i k m, before us (i, k) (i, m) -> (k < m)%nat) ->
  forall s, same (runs c us s) (runs c (in_turn n len) s).
Proof.
  intros n len c us C P O s l. symmetry. apply reorder; auto.
  intros [i k] [j m] B A. destruct (in_turn_order _ _ _ _ B) as ((I & K) & (J & M) & D). simpl in *.
  destruct D as [D|[-> D]].
  - apply C; auto; lia.
  - specialize (O _ _ _ A). lia.
Qed.

(** What commutes with each of several commands commutes with all of them in a row. *)
Lemma past {T} (c : T -> command) x ts : (forall t, In t ts -> commute x (c t)) ->
  forall s, same (runs c ts (run x s)) (run x (runs c ts s)).
Proof.
  induction ts as [|t ts IH]; simpl; intros C s l; [reflexivity|].
  rewrite <- (IH (fun u U => C u (or_intror U)) (run (c t) s) l). apply runs_same.
  intros k. symmetry. apply C. auto.
Qed.

(** Two loops become one where an iteration of the first commutes with earlier ones of the second. *)
Lemma together (first second : Z -> command) : forall n, 0 <= n ->
  (forall i j, 0 <= j < i -> i < n -> commute (first i) (second j)) ->
  forall s, same (runs (fun i => seq (first i) (second i)) (upto n) s)
    (runs second (upto n) (runs first (upto n) s)).
Proof.
  intros n N. pattern n. apply natlike_ind; [|clear n N|exact N].
  - intros _ s l. reflexivity.
  - intros n N IH C s l. rewrite <- Z.add_1_r in *. rewrite upto_succ, !runs_app by auto. simpl.
    apply run_same. intros k.
    rewrite (past second (first n) (upto n)) by (intros j J; apply in_upto in J; apply C; lia).
    apply run_same. apply IH. intros i j J I. apply C; lia.
Qed.

(** [join A B]: what stood between the loops comes before both, and commutes with all of the first. *)
Theorem join : forall {T} n (first second : Z -> command) (between : list T) (c : T -> command), 0 <= n ->
  (forall i t, 0 <= i < n -> In t between -> commute (first i) (c t)) ->
  (forall i j, 0 <= j < i -> i < n -> commute (first i) (second j)) ->
  forall s, same
    (runs (fun i => seq (first i) (second i)) (upto n) (runs c between s))
    (runs second (upto n) (runs c between (runs first (upto n) s))).
Proof.
  intros T n first second between c N B C s l. rewrite together by auto. apply runs_same.
  assert (M : forall is, (forall i, In i is -> 0 <= i < n) ->
    forall s, same (runs first is (runs c between s)) (runs c between (runs first is s))).
  { induction is as [|i is IH]; simpl; intros I t k; [reflexivity|].
    rewrite <- IH by auto. apply runs_same. intros m.
    symmetry. apply past. intros u U. apply B; auto. }
  apply M. intros i. apply in_upto.
Qed.

(** The statements of a body, one after the other. *)
Definition body (parts : list (Z -> command)) (i : Z) : command := fold_right (fun p c => seq (p i) c) skip parts.

Lemma commute_body x parts i : (forall p, In p parts -> commute x (p i)) -> commute x (body parts i).
Proof.
  induction parts as [|p parts IH]; intros C s l; [reflexivity|].
  change (run x (run (body parts i) (run (p i) s)) l = run (body parts i) (run (p i) (run x s)) l).
  rewrite IH by (intros q Q; apply C; simpl; auto). apply run_same. apply C. simpl. auto.
Qed.

(** [sink L], the part that distributes: each statement of the body runs for all iterations before the next one does. *)
Theorem distribute : forall n (parts : list (Z -> command)), 0 <= n ->
  (forall p q i j, In p parts -> In q parts -> 0 <= i < n -> 0 <= j < n -> i <> j -> commute (p i) (q j)) ->
  forall s, same
    (fold_left (fun s p => runs p (upto n) s) parts s)
    (runs (body parts) (upto n) s).
Proof.
  intros n parts N. induction parts as [|p parts IH]; intros C s l.
  - simpl. clear N C. revert s. induction (upto n); simpl; auto.
  - change (body (p :: parts)) with (fun i => seq (p i) (body parts i)).
    rewrite together; [|auto|].
    + simpl. apply IH. intros q r i j Q R. apply C; simpl; auto.
    + intros i j J I. apply commute_body. intros q Q. apply C; simpl; auto; lia.
Qed.
End Programs.

(** Two processes and a channel between them ([stream]): whatever their turns are, and however deep the channel is, they leave what
    they would leave if the one had done all of its work before the other began. So their order decides nothing, which is Kahn's
    theorem for two processes, over stores. *)

From Coq Require Import List.
From Lathe Require Import Calculus.
Import ListNotations.

Section Processes.
Context {loc value item : Type}.
Notation command := (@command loc value).
Notation store := (@store loc value).

(** A value that is sent depends on what is read. *)
Record sent := Sent {
  get : store -> item;
  looks : loc -> Prop;
  of_looks : forall s t, (forall l, looks l -> s l = t l) -> get s = get t
}.

(** What the one does: work, or push a value. *)
Inductive made := Works (c : command) | Pushes (v : sent).
(** What the other does: work, or pop a value and work with it. *)
Inductive used := Worked (c : command) | Pops (c : item -> command).

(** All of the one's work: the store, and the values that are sent. *)
Fixpoint produce (ps : list made) (s : store) : store * list item :=
  match ps with
  | [] => (s, [])
  | Works c :: ps => produce ps (run c s)
  | Pushes v :: ps => let (t, vs) := produce ps s in (t, get v s :: vs)
  end.

(** All of the other's work with values that are there; nothing where they are too few. *)
Fixpoint consume (us : list used) (vs : list item) (s : store) : option store :=
  match us, vs with
  | [], _ => Some s
  | Worked c :: us, vs => consume us vs (run c s)
  | Pops c :: us, v :: vs => consume us vs (run (c v) s)
  | Pops _ :: _, [] => None
  end.

(** One after the other. *)
Definition in_turn (ps : list made) (q : list item) (us : list used) (s : store) : option store :=
  let (t, vs) := produce ps s in consume us (q ++ vs) t.

(** A step of either, with a channel of so many places. *)
Inductive step (depth : nat) : list made * list item * list used * store -> list made * list item * list used * store -> Prop :=
| made_works c ps q us s : step depth (Works c :: ps, q, us, s) (ps, q, us, run c s)
| made_pushes v ps q us s : length q < depth -> step depth (Pushes v :: ps, q, us, s) (ps, q ++ [get v s], us, s)
| used_works c ps q us s : step depth (ps, q, Worked c :: us, s) (ps, q, us, run c s)
| used_pops c v ps q us s : step depth (ps, v :: q, Pops c :: us, s) (ps, q, us, run (c v) s).

Inductive steps (depth : nat) : list made * list item * list used * store -> list made * list item * list used * store -> Prop :=
| none_more x : steps depth x x
| one_more x y z : step depth x y -> steps depth y z -> steps depth x z.

(** The processes share nothing but the channel. *)
Definition alone (p : made) (c : command) : Prop :=
  match p with
  | Works d => apart d c
  | Pushes v => forall l, looks v l -> writes c l -> False
  end.
Definition alone_of (p : made) (u : used) : Prop :=
  match u with Worked c => alone p c | Pops c => forall v, alone p (c v) end.

(** What either leaves is the same as far as stores are. *)
Definition alike (a b : option store) : Prop :=
  match a, b with Some s, Some t => same s t | None, None => True | _, _ => False end.

Lemma alike_refl a : alike a a.
Proof. destruct a; simpl; [intros k; reflexivity | exact I]. Qed.

Lemma alike_trans a b c : alike a b -> alike b c -> alike a c.
Proof. destruct a, b, c; simpl; try tauto. intros E F l. rewrite E. apply F. Qed.

Lemma produce_same ps : forall s t, same s t ->
  same (fst (produce ps s)) (fst (produce ps t)) /\ snd (produce ps s) = snd (produce ps t).
Proof.
  induction ps as [|[c|v] ps IH]; simpl; intros s t E; [auto | apply IH, run_same, E |].
  destruct (IH s t E) as [A B]. destruct (produce ps s), (produce ps t). simpl in *. split; [exact A|].
  f_equal; [apply of_looks; auto | exact B].
Qed.

Lemma consume_same us : forall vs s t, same s t -> alike (consume us vs s) (consume us vs t).
Proof.
  induction us as [|[c|c] us IH]; simpl; intros vs s t E; [destruct vs; exact E | |].
  - destruct vs; apply IH; exact (run_same _ _ _ E).
  - destruct vs as [|v vs]; [exact I | apply IH; exact (run_same _ _ _ E)].
Qed.

(** Work of the other may be done before the one's. *)
Lemma produce_after ps : forall c s, (forall p, In p ps -> alone p c) ->
  same (fst (produce ps (run c s))) (run c (fst (produce ps s))) /\ snd (produce ps (run c s)) = snd (produce ps s).
Proof.
  induction ps as [|[d|v] ps IH]; simpl; intros c s A; [split; [intros l|]; reflexivity | |].
  - assert (C : same (run d (run c s)) (run c (run d s))) by (apply apart_commute; apply (A (Works d)); auto).
    destruct (produce_same ps _ _ C) as [X Y]. destruct (IH c (run d s)) as [U V]; [auto|]. split; [|congruence].
    intros l. rewrite X. apply U.
  - destruct (IH c s) as [U V]; [auto|].
    assert (L : get v (run c s) = get v s).
    { apply of_looks. intros l K. destruct (frame c s l) as [W|E]; [destruct (A (Pushes v) (or_introl eq_refl) l K W) | exact E]. }
    rewrite L. destruct (produce ps (run c s)), (produce ps s). simpl in *. split; [exact U | congruence].
Qed.

Lemma step_keeps depth ps q us s ps' q' us' s' :
  (forall p u, In p ps -> In u us -> alone_of p u) -> step depth (ps, q, us, s) (ps', q', us', s') ->
  alike (in_turn ps q us s) (in_turn ps' q' us' s') /\ (forall p u, In p ps' -> In u us' -> alone_of p u).
Proof.
  intros A H. unfold in_turn. inversion H; subst; simpl in *.
  - split; [|auto]. apply alike_refl.
  - split; [|auto]. destruct (produce ps' s') as [t vs]. rewrite <- app_assoc. apply alike_refl.
  - split; [|auto]. destruct (produce_after ps' c s) as [U V].
    { intros p P. exact (A p (Worked c) P (or_introl eq_refl)). }
    destruct (produce ps' (run c s)) as [t vs], (produce ps' s) as [t' vs']. simpl in *. subst vs.
    assert (R : same (run c t') t) by (intros k; symmetry; apply U).
    destruct (q' ++ vs'); apply consume_same, R.
  - split; [|auto]. destruct (produce_after ps' (c v) s) as [U V].
    { intros p P. exact (A p (Pops c) P (or_introl eq_refl) v). }
    destruct (produce ps' (run (c v) s)) as [t vs], (produce ps' s) as [t' vs']. simpl in *. subst vs.
    apply consume_same. intros k. symmetry. apply U.
Qed.

(** The rule: where both have come to their ends, the store is what it is when the one is done before the other begins. *)
Theorem stream : forall depth ps us s q s',
  (forall p u, In p ps -> In u us -> alone_of p u) ->
  steps depth (ps, [], us, s) ([], q, [], s') -> alike (in_turn ps [] us s) (Some s').
Proof.
  intros depth ps us s q s' A H. revert A.
  remember (ps, @nil item, us, s) as x eqn:X. remember (@nil made, q, @nil used, s') as z eqn:Z.
  revert Z. assert (G : forall x z, steps depth x z -> forall ps r us s q s', x = (ps, r, us, s) -> z = ([], q, [], s') ->
    (forall p u, In p ps -> In u us -> alone_of p u) -> alike (in_turn ps r us s) (Some s')).
  { clear. induction 1 as [x|x y z S _ IH]; intros ps r us s q s' X Z A.
    - subst x. injection Z as -> -> -> ->. unfold in_turn. simpl. destruct (q ++ []); intros k; reflexivity.
    - subst x. destruct y as [[[ps1 r1] us1] s1]. destruct (step_keeps _ _ _ _ _ _ _ _ _ A S) as [K B].
      apply (alike_trans _ _ _ K). apply (IH ps1 r1 us1 s1 q s' eq_refl Z B). }
  intros Z A. exact (G x z H ps [] us s q s' X Z A).
Qed.

(** A channel as deep as all that is sent never waits, and one pair of turns is one after the other; so there is an end. *)
Theorem stream_ends : forall ps us s s', in_turn ps [] us s = Some s' -> exists depth q, steps depth (ps, [], us, s) ([], q, [], s').
Proof.
  intros ps us s s' H. unfold in_turn in H. exists (length ps). revert H.
  assert (P : forall ps r us s, length r + length ps <= length ps + length r -> forall depth, length r + length ps <= depth ->
    steps depth (ps, r, us, s) ([], r ++ snd (produce ps s), us, fst (produce ps s))).
  { clear. induction ps as [|[c|v] ps IH]; simpl; intros r us s _ depth D.
    - rewrite app_nil_r. constructor.
    - eapply one_more; [constructor|]. apply IH; [rewrite PeanoNat.Nat.add_comm; constructor|]. rewrite PeanoNat.Nat.add_succ_r in D. apply PeanoNat.Nat.lt_le_incl, D.
    - eapply one_more; [constructor; rewrite PeanoNat.Nat.add_succ_r in D; apply PeanoNat.Nat.le_lt_trans with (length r + length ps); [apply PeanoNat.Nat.le_add_r | exact D]|].
      specialize (IH (r ++ [get v s]) us s). destruct (produce ps s) as [t vs] eqn:E. simpl in *.
      rewrite <- app_assoc in IH. apply IH; rewrite app_length; simpl.
      + rewrite PeanoNat.Nat.add_comm. constructor.
      + rewrite <- PeanoNat.Nat.add_assoc. exact D. }
  assert (C : forall us vs s s', consume us vs s = Some s' -> forall depth, exists q, steps depth ([], vs, us, s) ([], q, [], s')).
  { clear. induction us as [|[c|c] us IH]; intros vs s s' H depth.
    - exists vs. simpl in H. destruct vs; injection H as ->; constructor.
    - destruct (IH vs (run c s) s') with (depth := depth) as [q Q]; [destruct vs; exact H|]. exists q. eapply one_more; [constructor | exact Q].
    - destruct vs as [|v vs]; [discriminate|]. destruct (IH vs (run (c v) s) s' H depth) as [q Q]. exists q. eapply one_more; [constructor | exact Q]. }
  specialize (P ps [] us s). destruct (produce ps s) as [t vs]. simpl in *. intros H.
  destruct (C us vs t s' H (length ps)) as [q Q]. exists q.
  assert (T : forall x y z, steps (length ps) x y -> steps (length ps) y z -> steps (length ps) x z).
  { clear. induction 1 as [|x y w S _ IH]; [auto|]. intros K. eapply one_more; [exact S | apply IH, K]. }
  apply (T _ _ _ (P ltac:(rewrite PeanoNat.Nat.add_0_r; constructor) (length ps) ltac:(constructor)) Q).
Qed.
End Processes.

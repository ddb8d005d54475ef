(** The rule of an instruction ([instruction.rs], for [tensorize]): a nest that is what the instruction's row says, on operands
    that lie as the row's do. *)

From Coq Require Import ZArith List Lia.
From Lathe Require Import Calculus Reductions.
Import ListNotations.
Open Scope Z_scope.

Section Instructions.
(** Operands of the row by name, their elements by distance from the first one; locations of the program. *)
Context {operand loc value iteration : Type}.
Context (operand_eq : forall p q : operand * Z, {p = q} + {p <> q}) (loc_eq : forall k l : loc, {k = l} + {k <> l}).
Notation place := (operand * Z)%type.

(** One iteration of the row: the element of the result that it picks becomes what it computes of its operands. *)
Record row := Row {
  picks : iteration -> place;
  computes : iteration -> (place -> value) -> value;
  touches : iteration -> place -> Prop;
  (** It computes of what it touches alone. *)
  of_touched : forall t s u, (forall p, touches t p -> s p = u p) -> computes t s = computes t u
}.

Definition row_step (r : row) (s : place -> value) (t : iteration) : place -> value :=
  set operand_eq (picks r t) (computes r t s) s.

(** The nest: the same block on the elements of the program. [at_ t p] is where iteration [t] has what the row calls [p]. *)
Definition nest_step (r : row) (at_ : iteration -> place -> loc) (s : loc -> value) (t : iteration) : loc -> value :=
  set loc_eq (at_ t (picks r t)) (computes r t (fun p => s (at_ t p))) s.

(** The rule. What an iteration touches lies at a base of its operand plus the row's distance ([elements of .. lie as in ..]
    of the obligation); what is written is no operand that is read elsewhere. Then the instruction on these bases leaves what
    the nest does. *)
Theorem instruction : forall (r : row) (at_ : iteration -> place -> loc) (base : place -> loc) ts,
  (forall t p, In t ts -> touches r t p \/ p = picks r t -> at_ t p = base p) ->
  (forall t p, In t ts -> (exists u, In u ts /\ (touches r u p \/ p = picks r u)) -> base p = base (picks r t) -> p = picks r t) ->
  forall s p, (exists u, In u ts /\ (touches r u p \/ p = picks r u)) ->
  fold_left (nest_step r at_) ts s (base p) = fold_left (row_step r) ts (fun q => s (base q)) p.
Proof.
  intros r at_ base ts lies apart.
  assert (G : forall part s u, (forall t, In t part -> In t ts) ->
    (forall q, (exists v, In v ts /\ (touches r v q \/ q = picks r v)) -> s (base q) = u q) ->
    forall p, (exists v, In v ts /\ (touches r v p \/ p = picks r v)) ->
    fold_left (nest_step r at_) part s (base p) = fold_left (row_step r) part u p).
  { induction part as [|t part IH]; intros s u sub E p P; simpl; [apply E, P|].
    apply IH; [intros v V; apply sub; simpl; auto | | exact P]. clear p P. intros p P.
    assert (T : In t ts) by (apply sub; simpl; auto).
    unfold nest_step, row_step. rewrite (lies t (picks r t) T) by auto.
    assert (C : computes r t (fun q => s (at_ t q)) = computes r t u).
    { apply of_touched. intros q Q. rewrite (lies t q T) by auto. apply E. eauto. }
    destruct (operand_eq p (picks r t)) as [->|N].
    - rewrite !set_here. exact C.
    - rewrite !set_there; auto. }
  intros s p P. apply (G ts s (fun q => s (base q))); auto.
Qed.

(** What the program has elsewhere stays. *)
Theorem instruction_elsewhere : forall (r : row) (at_ : iteration -> place -> loc) ts l,
  (forall t, In t ts -> at_ t (picks r t) <> l) -> forall s, fold_left (nest_step r at_) ts s l = s l.
Proof.
  intros r at_ ts l. induction ts as [|t ts IH]; intros N s; simpl; [reflexivity|].
  rewrite IH by (intros u U; apply N; simpl; auto). unfold nest_step. apply set_there. intros E. apply (N t); simpl; auto.
Qed.

(** The row's lanes may be more than the program's. Iterations that are more pick elements that the others do not touch, as each
    lane has its own of the accumulator; then all but these is what the program's iterations alone make. *)
Lemma lanes_apart : forall (r : row) (lanes : list (bool * iteration)),
  (forall t u p, In (true, t) lanes -> In (false, u) lanes -> touches r u p \/ p = picks r u -> picks r t <> p) ->
  forall p, (forall t, In (true, t) lanes -> picks r t <> p) ->
  forall s, fold_left (row_step r) (map snd lanes) s p =
    fold_left (row_step r) (map snd (filter (fun l => negb (fst l)) lanes)) s p.
Proof.
  intros r lanes apart.
  assert (G : forall part s u, (forall l, In l part -> In l lanes) ->
    (forall p, (forall t, In (true, t) lanes -> picks r t <> p) -> s p = u p) ->
    forall p, (forall t, In (true, t) lanes -> picks r t <> p) ->
    fold_left (row_step r) (map snd part) s p = fold_left (row_step r) (map snd (filter (fun l => negb (fst l)) part)) u p).
  { induction part as [|[more t] part IH]; intros s u sub E p P; simpl; [apply E, P|].
    assert (T : In (more, t) lanes) by (apply sub; simpl; auto).
    destruct more; simpl; (apply IH; [intros l L; apply sub; simpl; auto | | exact P]); clear p P; intros p P; unfold row_step.
    - rewrite set_there by (intros ->; apply (P t T); reflexivity). apply E, P.
    - assert (C : computes r t s = computes r t u).
      { apply of_touched. intros q Q. apply E. intros v V. apply (apart v t q V T). auto. }
      destruct (operand_eq p (picks r t)) as [->|N]; [rewrite !set_here; exact C | rewrite !set_there; auto]. }
  intros p P s. apply (G lanes s s); auto.
Qed.

(** The rule with fewer lanes than the row's, where what is read is stored padded, so that there is something to read, and the
    accumulator has an element for each of the row's lanes: on what the program's iterations touch the instruction leaves what the nest
    does. It overwrites elements of the other lanes ([instruction_elsewhere] says that it does nothing else), which nobody reads: so all
    else is the same by [more] of [Storage.v]. *)
Theorem fewer_lanes : forall (r : row) (at_ : iteration -> place -> loc) (base : place -> loc) (lanes : list (bool * iteration)),
  let ts := map snd (filter (fun l => negb (fst l)) lanes) in
  (forall t p, In t ts -> touches r t p \/ p = picks r t -> at_ t p = base p) ->
  (forall t p, In t ts -> (exists u, In u ts /\ (touches r u p \/ p = picks r u)) -> base p = base (picks r t) -> p = picks r t) ->
  (forall t u p, In (true, t) lanes -> In (false, u) lanes -> touches r u p \/ p = picks r u -> picks r t <> p) ->
  forall s p, (exists u, In u ts /\ (touches r u p \/ p = picks r u)) ->
  fold_left (nest_step r at_) ts s (base p) = fold_left (row_step r) (map snd lanes) (fun q => s (base q)) p.
Proof.
  intros r at_ base lanes ts lies own apart s p P.
  assert (K : forall u, In u ts -> In (false, u) lanes).
  { intros u U. apply in_map_iff in U as ([more v] & <- & V). apply filter_In in V as [V F]. destruct more; [discriminate | exact V]. }
  rewrite lanes_apart; [apply instruction; auto | exact apart |].
  intros t T. destruct P as (u & U & P). exact (apart t u p T (K u U) P).
Qed.
End Instructions.

(** Distances that are equal from the first iteration on are a base and the row's distance, in the row's units. *)
Theorem laid_as : forall address row_address first row_first unit row_unit, row_unit <> 0 ->
  (address - first) * row_unit = (row_address - row_first) * unit ->
  unit = row_unit -> address = first + (row_address - row_first).
Proof. intros a ra f rf u v N E ->. nia. Qed.

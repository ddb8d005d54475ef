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
End Instructions.

(** Distances that are equal from the first iteration on are a base and the row's distance, in the row's units. *)
Theorem laid_as : forall address row_address first row_first unit row_unit, row_unit <> 0 ->
  (address - first) * row_unit = (row_address - row_first) * unit ->
  unit = row_unit -> address = first + (row_address - row_first).
Proof. intros a ra f rf u v N E ->. nia. Qed.

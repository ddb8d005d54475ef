(** Programs that meet what the theorems ask for: that is not impossible, and says what it should. *)

From Coq Require Import ZArith List Lia.
From Lathe Require Import Calculus Storage Online.
Import ListNotations.
Open Scope Z_scope.

Notation memory := (@store Z Z).

Ltac decided := repeat match goal with
  | |- context [Z.eq_dec ?a ?b] => destruct (Z.eq_dec a b)
  | H : context [Z.eq_dec ?a ?b] |- _ => destruct (Z.eq_dec a b)
  end.

(** A block that writes [v], and then adds 1 to it, in a cache at 1 that stands for 0. *)
Definition twice : list (@block Z Z) := [Block [] [(0, fun _ => 5)]; Block [0] [(0, fun r => hd 0 r + 1)]].
Definition to_cache (l : Z) := if Z.eq_dec l 0 then 1 else l.
Definition to_home (l : Z) := if Z.eq_dec l 1 then 0 else l.

Example cached : forall (s : memory) l, l <> 1 ->
  fold_left (fun t u => fun k => if Z.eq_dec k (to_home u) then t u else t k) [1]
    (do_all Z.eq_dec (map (renamed to_cache) twice) s) l = do_all Z.eq_dec twice s l.
Proof.
  intros s l L. apply (cache Z.eq_dec to_cache to_home [1] (fun l => l = 0) twice);
    unfold to_cache, to_home, wrote_any, wrote, twice; simpl.
  - intros u [<-|[]]. auto.
  - intros k ->. simpl. split; [left|]; reflexivity.
  - intros u [<-|[]]. lia.
  - intros k K. decided; congruence.
  - intros b k [<-|[<-|[]]]; simpl; lia.
  - intros k ->. exists (Block [] [(0, fun _ => 5)]). simpl. auto.
  - split; [tauto|]. split; [|exact I]. intros k [<-|[]]. right. left. reflexivity.
  - simpl. lia.
Qed.

(** Two iterations with a temporary at 10 and 11, which becomes one at 10. *)
Definition iteration (i : Z) : list (@block Z Z) :=
  [Block [] [(10 + i, fun _ => i)]; Block [10 + i] [(i, fun r => 2 * hd 0 r)]].
Definition narrow (i l : Z) := if Z.eq_dec l (10 + i) then 10 else l.

Example contracted : forall (s : memory) l, l < 10 ->
  do_all Z.eq_dec (iteration 0 ++ iteration 1) s l =
  do_all Z.eq_dec (map (renamed (narrow 0)) (iteration 0) ++ map (renamed (narrow 1)) (iteration 1)) s l.
Proof.
  intros s l L.
  assert (H := contract Z.eq_dec (fun l => l < 10) [(iteration 0, narrow 0); (iteration 1, narrow 1)]).
  simpl in H. apply H; auto. clear.
  assert (G : forall i, 0 <= i <= 1 -> (forall l, l < 10 -> narrow i l = l) /\
    apart_on (narrow i) (fun l => l < 10 \/ wrote_any (iteration i) l) /\ written_first (fun l => l < 10) (iteration i)).
  { intros i I. repeat split.
    - intros k K. unfold narrow. decided; lia.
    - assert (T : forall k, k < 10 \/ wrote_any (iteration i) k -> k < 10 \/ k = 10 + i).
      { intros k [K|(b & [<-|[<-|[]]] & [<-|[]])]; simpl; lia. }
      intros k m K M E. apply T in K. apply T in M. unfold narrow in E. decided; lia.
    - simpl. tauto.
    - intros k [<-|[]]. right. left. reflexivity. }
  intros bs f [E|[E|[]]]; injection E as <- <-; apply G; lia.
Qed.

(** What is read at 0 is read at 1, where it was copied. *)
Example filled : forall (s : memory),
  do_all Z.eq_dec [Block [1] [(5, fun r => hd 0 r + 1)]] (fun k => if Z.eq_dec k 1 then s 0 else s k) 5 = s 0 + 1.
Proof.
  intros s. set (from := fun l => if Z.eq_dec l 1 then 0 else l).
  refine (fill Z.eq_dec from [1] [Block [1] [(5, fun r => hd 0 r + 1)]] _ _ _ _ s 5 _).
  - repeat constructor; simpl; tauto.
  - intros u [<-|[]]. unfold from. simpl. lia.
  - intros k K. unfold from. decided; [destruct K; simpl; auto | reflexivity].
  - intros u [<-|[]]. split; intros (b & [<-|[]] & [W|[]]); discriminate.
  - simpl. lia.
Qed.

(** Integers with the larger of two, and factors that are all 1, are a model of the laws of one pass. *)
Example passes : laws 0 Z.add Z.mul (fun _ _ => 1) /\ max_laws Z.max.
Proof. split; repeat split; intros; lia. Qed.

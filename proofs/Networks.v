(** Any number of processes and bounded channels: each channel has one process that sends to it and one that takes from it, and
    processes share nothing else. Then it does not matter whose turn it is (Kahn's theorem, over stores and with channels that
    may be full): where one run comes to an end, every run does, and leaves the same. So a rule has to show one run: of a
    process cut in two ([cut_in_two]) that which does what was done before, and of processes in a row ([space_time]) that which
    goes through time, and at each time from the edge on. *)

From Coq Require Import List Arith Bool Lia.
From Lathe Require Import Calculus Processes.
Import ListNotations.

Section Networks.
Context {loc value item proc chan : Type}.
Variable proc_eq : forall p q : proc, {p = q} + {p <> q}.
Variable chan_eq : forall c d : chan, {c = d} + {c <> d}.
Variable depth : chan -> nat.
Notation command := (@command loc value).
Notation store := (@store loc value).
Notation sent := (@sent loc value item).

(** What a process does: work, send a value, or take one and work with it. *)
Inductive action := Does (c : command) | Sends (k : chan) (v : sent) | Takes (k : chan) (f : item -> command).

Definition set {A B} (eq : forall a b : A, {a = b} + {a <> b}) (f : A -> B) (a : A) (b : B) : A -> B :=
  fun x => if eq x a then b else f x.

Record state := State { todo : proc -> list action; queue : chan -> list item; now : store }.

(** A process does its next action, if it need not wait. *)
Definition act (p : proc) (x : state) : option state :=
  match todo x p with
  | [] => None
  | Does c :: r => Some (State (set proc_eq (todo x) p r) (queue x) (run c (now x)))
  | Sends k v :: r =>
      if length (queue x k) <? depth k
      then Some (State (set proc_eq (todo x) p r) (set chan_eq (queue x) k (queue x k ++ [get v (now x)])) (now x))
      else None
  | Takes k f :: r =>
      match queue x k with
      | [] => None
      | i :: q => Some (State (set proc_eq (todo x) p r) (set chan_eq (queue x) k q) (run (f i) (now x)))
      end
  end.

Definition alike_states (x y : state) : Prop :=
  (forall p, todo x p = todo y p) /\ (forall k, queue x k = queue y k) /\ same (now x) (now y).

(** So many actions, whosever. *)
Inductive reaches : nat -> state -> state -> Prop :=
| here x y : alike_states x y -> reaches 0 x y
| further n p x y z : act p x = Some y -> reaches n y z -> reaches (S n) x z.

Definition finished (x : state) : Prop := forall p, todo x p = [].

(** What actions touch. *)
Definition does (a : action) (c : command) : Prop :=
  match a with Does d => c = d | Takes _ f => exists i, c = f i | Sends _ _ => False end.
Definition sends (a : action) (v : sent) : Prop := match a with Sends _ w => v = w | _ => False end.
Definition into (a : action) (k : chan) : Prop := match a with Sends m _ => k = m | _ => False end.
Definition from (a : action) (k : chan) : Prop := match a with Takes m _ => k = m | _ => False end.
Definition blind (v : sent) (c : command) : Prop := forall l, looks v l -> writes c l -> False.

(** Actions of two processes: they share no more than that the one sends what the other takes. *)
Definition independent_actions (a b : action) : Prop :=
  (forall c d, does a c -> does b d -> apart c d) /\
  (forall v d, sends a v -> does b d -> blind v d) /\
  (forall v c, sends b v -> does a c -> blind v c) /\
  (forall k, into a k -> into b k -> False) /\ (forall k, from a k -> from b k -> False).

Definition processes_apart (x : state) : Prop :=
  forall p q a b, p <> q -> In a (todo x p) -> In b (todo x q) -> independent_actions a b.

Lemma alike_states_refl x : alike_states x x.
Proof. repeat split. Qed.

Lemma alike_states_sym x y : alike_states x y -> alike_states y x.
Proof. intros (A & B & C). repeat split; auto. intros l. symmetry. apply C. Qed.

Lemma alike_states_trans x y z : alike_states x y -> alike_states y z -> alike_states x z.
Proof.
  intros (A & B & C) (D & E & F). split; [|split]; [intros p; rewrite A; apply D | intros k; rewrite B; apply E |].
  intros l. rewrite C. apply F.
Qed.

Lemma set_same {A B} eq (f : A -> B) a b : set eq f a b a = b.
Proof. unfold set. destruct (eq a a); congruence. Qed.

Lemma set_other {A B} eq (f : A -> B) a b c : c <> a -> set eq f a b c = f c.
Proof. unfold set. destruct (eq c a); congruence. Qed.

Lemma act_alike p x y x' : alike_states x y -> act p x = Some x' -> exists y', act p y = Some y' /\ alike_states x' y'.
Proof.
  intros (A & B & C) H. unfold act in *. rewrite <- A. destruct (todo x p) as [|[c|k v|k f] r]; [discriminate| | |].
  - injection H as <-. eexists; split; [reflexivity|]. repeat split; simpl; auto.
    + intros q. unfold set. destruct (proc_eq q p); auto.
    + apply run_same, C.
  - rewrite <- B. destruct (length (queue x k) <? depth k); [|discriminate]. injection H as <-.
    eexists; split; [reflexivity|]. repeat split; simpl; auto.
    + intros q. unfold set. destruct (proc_eq q p); auto.
    + intros m. rewrite (of_looks v (now x) (now y)) by (intros l _; apply C). unfold set. destruct (chan_eq m k); auto.
  - rewrite <- B. destruct (queue x k) as [|i q]; [discriminate|]. injection H as <-.
    eexists; split; [reflexivity|]. repeat split; simpl; auto.
    + intros r'. unfold set. destruct (proc_eq r' p); auto.
    + intros m. unfold set. destruct (chan_eq m k); auto.
    + apply run_same, C.
Qed.

Lemma act_keeps p x y : processes_apart x -> act p x = Some y -> processes_apart y.
Proof.
  intros A H. assert (L : forall q a, In a (todo y q) -> In a (todo x q)).
  { intros q a I. unfold act in H. destruct (todo x p) as [|b r] eqn:T; [discriminate|].
    assert (E : todo y = set proc_eq (todo x) p r).
    { destruct b as [c|k v|k f]; [injection H as <-; reflexivity | |].
      - destruct (length (queue x k) <? depth k); [injection H as <-; reflexivity | discriminate].
      - destruct (queue x k); [discriminate | injection H as <-; reflexivity]. }
    rewrite E in I. unfold set in I. destruct (proc_eq q p) as [->|]; [rewrite T; right|]; exact I. }
  intros q r a b N I J. apply (A q r); auto.
Qed.

Lemma get_after v c s : blind v c -> get v (run c s) = get v s.
Proof.
  intros B. apply of_looks. intros l K. destruct (frame c s l) as [W|E]; [destruct (B l K W) | exact E].
Qed.

(** Whoever is first, the other one can still go on, and both orders lead to the same. *)
Lemma diamond p q x y z : processes_apart x -> p <> q -> act p x = Some y -> act q x = Some z ->
  exists u w, act q y = Some u /\ act p z = Some w /\ alike_states u w.
Proof.
  intros A N P Q. unfold act in P, Q.
  destruct (todo x p) as [|a r] eqn:Tp; [discriminate|]. destruct (todo x q) as [|b r'] eqn:Tq; [discriminate|].
  assert (I : independent_actions a b) by (apply (A p q a b N); [rewrite Tp | rewrite Tq]; left; reflexivity).
  destruct I as (DD & SD & DS & II & FF). unfold act.
  assert (progs : forall s, set proc_eq (set proc_eq (todo x) p r) q r' s = set proc_eq (set proc_eq (todo x) q r') p r s).
  { intros s. unfold set. destruct (proc_eq s q), (proc_eq s p); congruence. }
  destruct a as [c|k v|k f], b as [d|m w|m g]; simpl in DD, SD, DS, II, FF.
  - injection P as <-. injection Q as <-. simpl. rewrite (set_other _ _ _ _ q), (set_other _ _ _ _ p), Tp, Tq by congruence.
    do 2 eexists. split; [reflexivity|]. split; [reflexivity|]. repeat split; simpl; auto.
    intros l. symmetry. apply apart_commute. auto.
  - destruct (length (queue x m) <? depth m) eqn:L; [|discriminate]. injection P as <-. injection Q as <-. simpl.
    rewrite (set_other _ _ _ _ q), (set_other _ _ _ _ p), Tp, Tq, L by congruence.
    do 2 eexists. split; [reflexivity|]. split; [reflexivity|]. repeat split; simpl; auto.
    intros o. unfold set. destruct (chan_eq o m); [|reflexivity]. rewrite get_after; auto.
  - destruct (queue x m) as [|i s] eqn:L; [discriminate|]. injection P as <-. injection Q as <-. simpl.
    rewrite (set_other _ _ _ _ q), (set_other _ _ _ _ p), Tp, Tq, L by congruence.
    do 2 eexists. split; [reflexivity|]. split; [reflexivity|]. repeat split; simpl; auto.
    intros l. symmetry. apply apart_commute. eauto.
  - destruct (length (queue x k) <? depth k) eqn:L; [|discriminate]. injection P as <-. injection Q as <-. simpl.
    rewrite (set_other _ _ _ _ q), (set_other _ _ _ _ p), Tp, Tq, L by congruence.
    do 2 eexists. split; [reflexivity|]. split; [reflexivity|]. repeat split; simpl; auto.
    intros o. unfold set. destruct (chan_eq o k); [|reflexivity]. rewrite get_after; auto.
  - assert (K : k <> m) by (intros ->; apply (II m); reflexivity).
    destruct (length (queue x k) <? depth k) eqn:L; [|discriminate].
    destruct (length (queue x m) <? depth m) eqn:M; [|discriminate]. injection P as <-. injection Q as <-. simpl.
    rewrite (set_other proc_eq _ _ _ q), (set_other proc_eq _ _ _ p), Tp, Tq by congruence.
    rewrite (set_other chan_eq _ _ _ m), (set_other chan_eq _ _ _ k), L, M by congruence.
    do 2 eexists. split; [reflexivity|]. split; [reflexivity|]. repeat split; simpl; auto.
    intros o. unfold set. destruct (chan_eq o m), (chan_eq o k); congruence.
  - destruct (length (queue x k) <? depth k) eqn:L; [|discriminate].
    destruct (queue x m) as [|i s] eqn:M; [discriminate|]. injection P as <-. injection Q as <-. simpl.
    rewrite (set_other proc_eq _ _ _ q), (set_other proc_eq _ _ _ p), Tp, Tq by congruence.
    destruct (chan_eq k m) as [->|K].
    + rewrite !set_same, M. rewrite M in L. simpl in *. apply Nat.ltb_lt in L.
      assert (E : length s <? depth m = true) by (apply Nat.ltb_lt; lia). rewrite E.
      do 2 eexists. split; [reflexivity|]. split; [reflexivity|]. repeat split; simpl; auto.
      intros o. unfold set. destruct (chan_eq o m); [|reflexivity]. rewrite get_after; eauto.
    + rewrite (set_other chan_eq _ _ _ m), (set_other chan_eq _ _ _ k), L, M by congruence.
      do 2 eexists. split; [reflexivity|]. split; [reflexivity|]. repeat split; simpl; auto.
      intros o. unfold set. destruct (chan_eq o m), (chan_eq o k); try congruence. rewrite get_after; eauto.
  - destruct (queue x k) as [|i s] eqn:L; [discriminate|]. injection P as <-. injection Q as <-. simpl.
    rewrite (set_other _ _ _ _ q), (set_other _ _ _ _ p), Tp, Tq, L by congruence.
    do 2 eexists. split; [reflexivity|]. split; [reflexivity|]. repeat split; simpl; auto.
    intros l. symmetry. apply apart_commute. eauto.
  - destruct (queue x k) as [|i s] eqn:M; [discriminate|].
    destruct (length (queue x m) <? depth m) eqn:L; [|discriminate]. injection P as <-. injection Q as <-. simpl.
    rewrite (set_other proc_eq _ _ _ q), (set_other proc_eq _ _ _ p), Tp, Tq by congruence.
    destruct (chan_eq m k) as [->|K].
    + rewrite !set_same, M. rewrite M in L. simpl in *. apply Nat.ltb_lt in L.
      assert (E : length s <? depth k = true) by (apply Nat.ltb_lt; lia). rewrite E.
      do 2 eexists. split; [reflexivity|]. split; [reflexivity|]. repeat split; simpl; auto.
      intros o. unfold set. destruct (chan_eq o k); [|reflexivity]. rewrite get_after; eauto.
    + rewrite (set_other chan_eq _ _ _ k), (set_other chan_eq _ _ _ m), L, M by congruence.
      do 2 eexists. split; [reflexivity|]. split; [reflexivity|]. repeat split; simpl; auto.
      intros o. unfold set. destruct (chan_eq o m), (chan_eq o k); try congruence. rewrite get_after; eauto.
  - assert (K : k <> m) by (intros ->; apply (FF m); reflexivity).
    destruct (queue x k) as [|i s] eqn:L; [discriminate|]. destruct (queue x m) as [|j t] eqn:M; [discriminate|].
    injection P as <-. injection Q as <-. simpl.
    rewrite (set_other proc_eq _ _ _ q), (set_other proc_eq _ _ _ p), Tp, Tq by congruence.
    rewrite (set_other chan_eq _ _ _ m), (set_other chan_eq _ _ _ k), L, M by congruence.
    do 2 eexists. split; [reflexivity|]. split; [reflexivity|]. repeat split; simpl; auto.
    + intros o. unfold set. destruct (chan_eq o m), (chan_eq o k); congruence.
    + intros l. symmetry. apply apart_commute. eauto.
Qed.

Lemma reaches_alike n : forall x y z, alike_states x y -> reaches n x z -> reaches n y z.
Proof.
  induction n as [|n IH]; intros x y z E H; inversion H; subst.
  - constructor. apply (alike_states_trans _ x); [apply alike_states_sym|]; auto.
  - destruct (act_alike p x y y0 E H1) as (y' & P & F). apply (further n p y y' z P). apply (IH _ _ _ F H2).
Qed.

(** An end that can be reached is still reached, whatever is done first. *)
Lemma still_reached n : forall p x y z, processes_apart x -> reaches n x z -> finished z -> act p x = Some y ->
  exists k, n = S k /\ reaches k y z.
Proof.
  induction n as [|n IH]; intros p x y z A R F P; inversion R; subst.
  - destruct H as (T & _). unfold act in P. rewrite T, F in P. discriminate.
  - rename p0 into q. destruct (proc_eq p q) as [->|N].
    + rewrite P in H0. injection H0 as ->. eauto.
    + destruct (diamond p q x y y0 A N P H0) as (u & w & U & W & E).
      destruct (IH p y0 w z (act_keeps q x y0 A H0) H1 F W) as (k & -> & K).
      exists (S k). split; [reflexivity|]. apply (further k q y u z U), (reaches_alike k w); [apply alike_states_sym, E | exact K].
Qed.

(** Where one run comes to an end, no run waits for ever, and all that come to an end leave the same. *)
Theorem kahn : forall m n x y z, processes_apart x -> reaches n x z -> finished z -> reaches m x y ->
  (exists k, m + k = n /\ reaches k y z) /\ (finished y -> same (now y) (now z)).
Proof.
  intros m n x y z A R F M.
  assert (K : exists k, m + k = n /\ reaches k y z).
  { revert n x R A M. induction m as [|m IH]; intros n x R A M; inversion M; subst.
    - exists n. split; [reflexivity|]. apply (reaches_alike n x); auto.
    - destruct (still_reached n p x y0 z A R F H0) as (k & -> & K).
      destruct (IH k y0 K (act_keeps p x y0 A H0) H1) as (j & <- & J). exists j. auto. }
  split; [exact K|]. intros G. destruct K as (k & _ & K). inversion K; subst.
  - destruct H as (_ & _ & S). exact S.
  - unfold act in H. rewrite G in H. discriminate.
Qed.

(** A process is cut in two: each action goes to one part, or is that what is sent is taken at once. *)
Inductive cut (k : chan) : list action -> list action -> list action -> Prop :=
| cut_nothing : cut k [] [] []
| cut_first a bs ps qs : cut k bs ps qs -> cut k (a :: bs) (a :: ps) qs
| cut_second a bs ps qs : cut k bs ps qs -> cut k (a :: bs) ps (a :: qs)
| cut_sent c v f bs ps qs : (forall s, same (run c s) (run (f (get v s)) s)) ->
    cut k bs ps qs -> cut k (Does c :: bs) (Sends k v :: ps) (Takes k f :: qs).

(** Nobody but the two uses the new channel. *)
Definition unused (k : chan) (x : state) : Prop := forall p a, In a (todo x p) -> ~ into a k /\ ~ from a k.

(** The rule of a process cut: of [q]'s work a new process [p] does a part. All that was done is done, by a run of the new
    processes; so, by [kahn], by all of them. *)
Theorem cut_in_two : forall k p q n x z x', p <> q -> 0 < depth k -> unused k x ->
  (* before: the new process and the new channel are not there *)
  todo x p = [] -> reaches n x z -> finished z ->
  (* after: the parts, and all else as it was *)
  cut k (todo x q) (todo x' p) (todo x' q) -> (forall r, r <> p -> r <> q -> todo x' r = todo x r) ->
  (forall c, c <> k -> queue x' c = queue x c) -> queue x' k = [] -> same (now x') (now x) ->
  exists m z', reaches m x' z' /\ finished z' /\ same (now z') (now z).
Proof.
  intros k p q n. induction n as [|n IH]; intros x z x' N D U P R F C O Q E S; inversion R; subst.
  - exists 0, x'. destruct H as (T & _ & V). split; [constructor; apply alike_states_refl|]. split.
    + rewrite T, F in C. inversion C; subst. intros r.
      destruct (proc_eq r p) as [->|Np]; [auto|]. destruct (proc_eq r q) as [->|Nq]; [auto|]. rewrite O, T; auto.
    + intros l. rewrite S. apply V.
  - rename p0 into r, y into x1.
    assert (Nr : r <> p) by (intros ->; unfold act in H0; rewrite P in H0; discriminate).
    assert (U1 : unused k x1 /\ todo x1 p = [] /\ (forall s, s <> r -> todo x1 s = todo x s)).
    { unfold act in H0. destruct (todo x r) as [|a rest] eqn:T; [discriminate|].
      assert (G : todo x1 = set proc_eq (todo x) r rest).
      { destruct a as [c|m v|m f]; [injection H0 as <-; reflexivity | |].
        - destruct (length (queue x m) <? depth m); [injection H0 as <-; reflexivity | discriminate].
        - destruct (queue x m); [discriminate | injection H0 as <-; reflexivity]. }
      rewrite G. split; [|split].
      - intros s b I. rewrite G in I. unfold set in I. destruct (proc_eq s r) as [->|]; [|apply (U s), I].
        apply (U r). rewrite T. right. exact I.
      - rewrite set_other; auto.
      - intros s M. apply set_other, M. }
    destruct U1 as (U1 & P1 & O1).
    (* The action of [r] before is one of [r'] after, where that is next. *)
    assert (step : forall r' a rest rest' , todo x r = a :: rest -> todo x' r' = a :: rest' ->
      exists y', act r' x' = Some y' /\ todo y' = set proc_eq (todo x') r' rest' /\ todo x1 = set proc_eq (todo x) r rest /\
        (forall c, c <> k -> queue y' c = queue x1 c) /\ queue y' k = [] /\ same (now y') (now x1)).
    { intros r' a rest rest' T T'. unfold act in H0 |- *. rewrite T in H0. rewrite T'.
      assert (UK : ~ into a k /\ ~ from a k) by (apply (U r); rewrite T; left; reflexivity).
      destruct a as [c|m v|m f]; simpl in UK.
      - injection H0 as <-. eexists; split; [reflexivity|]. simpl. repeat split; auto. apply run_same, S.
      - assert (M : m <> k) by (intros ->; tauto). rewrite (Q m M). destruct (length (queue x m) <? depth m); [|discriminate].
        injection H0 as <-. eexists; split; [reflexivity|]. simpl. repeat split; auto.
        + intros c M'. rewrite (of_looks v (now x') (now x)) by (intros l _; apply S). unfold set. destruct (chan_eq c m); auto.
        + rewrite set_other; auto.
      - assert (M : m <> k) by (intros ->; tauto). rewrite (Q m M). destruct (queue x m) as [|i l]; [discriminate|].
        injection H0 as <-. eexists; split; [reflexivity|]. simpl. repeat split; auto.
        + intros c M'. unfold set. destruct (chan_eq c m); auto.
        + rewrite set_other; auto.
        + apply run_same, S. }
    destruct (proc_eq r q) as [->|Nq].
    + destruct (todo x q) as [|a rest] eqn:T; [unfold act in H0; rewrite T in H0; discriminate|].
      assert (two : forall y', (forall s, s <> p -> s <> q -> todo y' s = todo x1 s) -> cut k (todo x1 q) (todo y' p) (todo y' q) ->
        (forall c, c <> k -> queue y' c = queue x1 c) -> queue y' k = [] -> same (now y') (now x1) ->
        exists m z', reaches m y' z' /\ finished z' /\ same (now z') (now z)).
      { intros y' O' C' Q' E' S'. apply (IH x1 z y'); auto. }
      remember (a :: rest) as bs eqn:Bs. remember (todo x' p) as ps' eqn:Tp. remember (todo x' q) as qs' eqn:Tq.
      destruct C as [|b bs ps qs C|b bs ps qs C|c v f bs ps qs V C]; [discriminate | | |]; injection Bs as E1 E2; subst a rest.
      * destruct (step p b bs ps eq_refl (eq_sym Tp)) as (y' & Y & T1 & T2 & Q' & E' & S').
        destruct (two y') as (m & z' & M & G); auto.
        -- intros s A B. rewrite T1, set_other, O1 by auto. apply O; auto.
        -- rewrite T1, T2, !set_same, set_other by auto. congruence.
        -- exists (Datatypes.S m), z'. split; [|exact G]. apply (further m p x' y' z' Y M).
      * destruct (step q b bs qs eq_refl (eq_sym Tq)) as (y' & Y & T1 & T2 & Q' & E' & S').
        destruct (two y') as (m & z' & M & G); auto.
        -- intros s A B. rewrite T1, set_other, O1 by auto. apply O; auto.
        -- rewrite T1, T2, !set_same, set_other by auto. congruence.
        -- exists (Datatypes.S m), z'. split; [|exact G]. apply (further m q x' y' z' Y M).
      * (* Sent, and taken at once. *)
        unfold act in H0. rewrite T in H0. injection H0 as <-.
        set (y1 := State (set proc_eq (todo x') p ps) (set chan_eq (queue x') k [get v (now x')]) (now x')).
        set (y2 := State (set proc_eq (todo y1) q qs) (set chan_eq (queue y1) k []) (run (f (get v (now x'))) (now x'))).
        assert (A1 : act p x' = Some y1).
        { unfold act. rewrite <- Tp, E. simpl. destruct (depth k); [lia|]. reflexivity. }
        assert (A2 : act q y1 = Some y2).
        { unfold act, y1. simpl. rewrite set_other by auto. rewrite <- Tq. simpl. rewrite set_same. reflexivity. }
        destruct (two y2) as (m & z' & M & G).
        -- intros s A B. unfold y2, y1. simpl. rewrite !set_other by auto. apply O; auto.
        -- unfold y2, y1. simpl. rewrite !set_same, set_other, set_same by auto. exact C.
        -- intros o M. unfold y2, y1. simpl. rewrite !set_other by auto. auto.
        -- unfold y2. simpl. apply set_same.
        -- unfold y2. simpl. intros l. rewrite <- V. apply run_same, S.
        -- exists (Datatypes.S (Datatypes.S m)), z'. split; [|exact G]. apply (further _ p x' y1 z' A1), (further _ q y1 y2 z' A2 M).
    + destruct (todo x r) as [|a rest] eqn:T; [unfold act in H0; rewrite T in H0; discriminate|].
      assert (T' : todo x' r = a :: rest) by (rewrite O; auto).
      destruct (step r a rest rest eq_refl T') as (y' & Y & T1 & T2 & Q' & E' & S').
      destruct (IH x1 z y') as (m & z' & M & G); auto.
      * rewrite T1, T2, !set_other by auto. exact C.
      * intros s A B. rewrite T1, T2. unfold set. destruct (proc_eq s r); auto.
      * exists (Datatypes.S m), z'. split; [|exact G]. apply (further m r x' y' z' Y M).
Qed.

(** But for some locations. *)
Definition but (t : loc -> Prop) (s u : store) : Prop := forall l, ~ t l -> s l = u l.

Definition blind_to (t : loc -> Prop) (a : action) : Prop :=
  match a with
  | Does c => forall s u, but t s u -> but t (run c s) (run c u)
  | Sends _ v => forall s u, but t s u -> get v s = get v u
  | Takes _ f => forall i s u, but t s u -> but t (run (f i) s) (run (f i) u)
  end.

(** Some values are held: taken to a temporary first, and then used from there. All else looks at no temporary. *)
Inductive held (t : loc -> Prop) : list action -> list action -> Prop :=
| held_nothing : held t [] []
| held_same a bs cs : blind_to t a -> held t bs cs -> held t (a :: bs) (a :: cs)
| held_taken k f g h bs cs : (forall i s u, but t s u -> but t (run (f i) s) (run h (run (g i) u))) ->
    held t bs cs -> held t (Takes k f :: bs) (Takes k g :: Does h :: cs).

(** The rule of an element held, where it is what a channel gives ([stage] of a pop): there is a run that leaves what was left, but
    for the temporaries; so, by [kahn], all do. *)
Theorem hold_taken : forall t n x z x', reaches n x z -> finished z ->
  (forall p, held t (todo x p) (todo x' p)) -> (forall k, queue x' k = queue x k) -> but t (now x) (now x') ->
  exists m z', reaches m x' z' /\ finished z' /\ but t (now z) (now z').
Proof.
  intros t n. induction n as [|n IH]; intros x z x' R F H Q S.
  - inversion R as [? ? (T & _ & V)|]; subst. exists 0, x'. split; [constructor; apply alike_states_refl|]. split.
    + intros p. specialize (H p). rewrite T, F in H. inversion H; reflexivity.
    + intros l L. rewrite <- V. apply S, L.
  - inversion R as [|? p ? y ? A B]; subst.
    assert (next : forall y', (forall q, held t (todo y q) (todo y' q)) -> (forall k, queue y' k = queue y k) ->
      but t (now y) (now y') -> forall j, reaches j x' y' -> exists m z', reaches m x' z' /\ finished z' /\ but t (now z) (now z')).
    { intros y' H' Q' S' j J. destruct (IH y z y' B F H' Q' S') as (m & z' & M & G). exists (j + m), z'. split; [|exact G].
      clear - J M. revert x' J. induction j as [|j IH]; intros x' J; inversion J; subst; simpl.
      - apply (reaches_alike m y'); [apply alike_states_sym|]; assumption.
      - eapply further; [eassumption | apply IH; assumption]. }
    assert (set_held : forall bs cs, held t bs cs -> forall q, held t (set proc_eq (todo x) p bs q) (set proc_eq (todo x') p cs q)).
    { intros bs cs K q. unfold set. destruct (proc_eq q p); auto. }
    unfold act in A. pose proof (H p) as K. destruct (todo x p) as [|a r] eqn:T; [discriminate|].
    inversion K as [|? ? cs I L E E'|k f g h ? cs I L E E']; subst.
    + destruct a as [c|k v|k f]; simpl in I.
      * injection A as <-. apply (next (State (set proc_eq (todo x') p cs) (queue x') (run c (now x')))) with (j := 1); simpl; auto.
        eapply further; [unfold act; rewrite <- E'; reflexivity | constructor; apply alike_states_refl].
      * destruct (length (queue x k) <? depth k) eqn:D; [|discriminate]. injection A as <-.
        apply (next (State (set proc_eq (todo x') p cs) (set chan_eq (queue x') k (queue x' k ++ [get v (now x')])) (now x'))) with (j := 1);
          simpl; auto.
        -- intros m. unfold set. rewrite (I _ _ S), Q. destruct (chan_eq m k); auto.
        -- eapply further; [unfold act; rewrite <- E', Q, D; reflexivity|]. constructor. repeat split; simpl; intros; rewrite ?Q; reflexivity.
      * destruct (queue x k) as [|i q] eqn:D; [discriminate|]. injection A as <-.
        apply (next (State (set proc_eq (todo x') p cs) (set chan_eq (queue x') k q) (run (f i) (now x')))) with (j := 1); simpl; auto.
        -- intros m. unfold set. destruct (chan_eq m k); auto.
        -- eapply further; [unfold act; rewrite <- E', Q, D; reflexivity | constructor; apply alike_states_refl].
    + destruct (queue x k) as [|i q] eqn:D; [discriminate|]. injection A as <-.
      apply (next (State (set proc_eq (set proc_eq (todo x') p (Does h :: cs)) p cs) (set chan_eq (queue x') k q) (run h (run (g i) (now x')))))
        with (j := 2); simpl; auto.
      * intros s. unfold set. destruct (proc_eq s p); auto.
      * intros m. unfold set. destruct (chan_eq m k); auto.
      * eapply further; [unfold act; rewrite <- E', Q, D; reflexivity|].
        eapply further; [unfold act; simpl; rewrite set_same; reflexivity | constructor; apply alike_states_refl].
Qed.
End Networks.

(** Processes in a row, fed by the one at the edge: at each moment each takes a value, hands it on but for the last one, and uses
    it. *)
Section Row.
Context {loc value item moment : Type}.
Notation command := (@command loc value).
Notation store := (@store loc value).
Notation sent := (@sent loc value item).
Notation action := (@action loc value item nat).
Notation state := (@state loc value item nat nat).
Variable depth : nat -> nat.
Hypothesis room : forall k, 0 < depth k.
Notation act := (@act loc value item nat nat Nat.eq_dec Nat.eq_dec depth).
Notation reaches := (@reaches loc value item nat nat Nat.eq_dec Nat.eq_dec depth).

(** How many they are, beside the edge. *)
Variable n : nat.
Hypothesis some : 0 < n.
(** What the edge reads at a moment; how a process keeps a value, and reads what it keeps; and what it does with it. *)
Variable read : moment -> sent.
Variable keep : nat -> item -> command.
Variable kept : nat -> sent.
Variable use : nat -> moment -> command.
Hypothesis keeps : forall i x s, get (kept i) (run (keep i x) s) = x.

Definition turn (p : nat) (m : moment) : list action :=
  match p with
  | 0 => [Sends 0 (read m)]
  | S i => if i <? n then Takes i (keep (S i)) :: (if S i <? n then [Sends (S i) (kept (S i))] else []) ++ [Does (use (S i) m)] else []
  end.
Definition row (ms : list moment) (p : nat) : list action := flat_map (turn p) ms.

(** What a process does at a moment with a value; what all do, from the edge on; and through all of time. *)
Definition one (m : moment) (x : item) (s : store) (i : nat) : store := run (use (S i) m) (run (keep (S i) x) s).
Definition wave (m : moment) (s : store) : store := fold_left (one m (get (read m) s)) (List.seq 0 n) s.
Definition in_time (ms : list moment) (s : store) : store := fold_left (fun s m => wave m s) ms s.

Lemma reaches_app j : forall k x y z, reaches j x y -> reaches k y z -> reaches (j + k) x z.
Proof.
  induction j as [|j IH]; intros k x y z X Y; inversion X; subst; simpl.
  - apply (reaches_alike _ _ _ k y); [apply alike_states_sym; assumption | exact Y].
  - eapply further; [eassumption | eapply IH; eassumption].
Qed.

(** The value has come to process [i]: those before it are done with the moment. *)
Definition stage (m : moment) (ms : list moment) (x : item) (i : nat) (s : store) : state :=
  State (fun p => if p <=? i then row ms p else row (m :: ms) p)
    (fun k => if andb (k =? i) (i <? n) then [x] else []) s.

Lemma next_stage m ms x i s : i < n -> exists k, reaches k (stage m ms x i s) (stage m ms x (S i) (one m x s i)).
Proof.
  intros I. assert (In : i <? n = true) by (apply Nat.ltb_lt, I).
  set (rest := (if S i <? n then [Sends (S i) (kept (S i))] else []) ++ Does (use (S i) m) :: row ms (S i)).
  set (s1 := run (keep (S i) x) s).
  set (x1 := State (set Nat.eq_dec (todo (stage m ms x i s)) (S i) rest) (set Nat.eq_dec (queue (stage m ms x i s)) i []) s1).
  assert (A1 : act (S i) (stage m ms x i s) = Some x1).
  { assert (E : S i <=? i = false) by (apply Nat.leb_gt; lia). unfold act, x1, rest, stage. cbn [todo queue now]. rewrite E.
    change (row (m :: ms) (S i)) with (turn (S i) m ++ row ms (S i)). cbn [turn]. rewrite In. cbn [app]. rewrite Nat.eqb_refl. cbn [andb].
    rewrite <- app_assoc. reflexivity. }
  assert (T1 : todo x1 (S i) = rest) by apply set_same.
  assert (last : forall y, todo y (S i) = Does (use (S i) m) :: row ms (S i) -> (forall p, p <> S i -> todo y p = todo (stage m ms x i s) p) ->
    (forall k, queue y k = queue (stage m ms x (S i) s) k) -> same (now y) s1 ->
    reaches 1 y (stage m ms x (S i) (one m x s i))).
  { intros y T O Q N. eapply further; [unfold act; rewrite T; reflexivity|]. constructor. repeat split; cbn [todo queue now].
    - intros p. destruct (Nat.eq_dec p (S i)) as [->|P].
      + rewrite set_same. unfold stage. cbn [todo]. rewrite Nat.leb_refl. reflexivity.
      + rewrite set_other, O by exact P. unfold stage. cbn [todo].
        destruct (p <=? i) eqn:L, (p <=? S i) eqn:M; try reflexivity;
          [apply Nat.leb_le in L; apply Nat.leb_gt in M | apply Nat.leb_gt in L; apply Nat.leb_le in M]; lia.
    - intros k. rewrite Q. reflexivity.
    - apply run_same, N. }
  destruct (S i <? n) eqn:M.
  - set (x2 := State (set Nat.eq_dec (todo x1) (S i) (Does (use (S i) m) :: row ms (S i)))
      (set Nat.eq_dec (queue x1) (S i) [x]) s1).
    assert (Qe : queue x1 (S i) = []).
    { unfold x1, stage. cbn [queue]. rewrite set_other by lia. assert (E : S i =? i = false) by (apply Nat.eqb_neq; lia). rewrite E. reflexivity. }
    assert (A2 : act (S i) x1 = Some x2).
    { unfold act. rewrite T1. unfold rest. cbn [app]. rewrite Qe. cbn [length].
      assert (E : 0 <? depth (S i) = true) by (apply Nat.ltb_lt, room). rewrite E. cbn [app].
      replace (get (kept (S i)) (now x1)) with x by (symmetry; apply keeps). reflexivity. }
    exists 3. eapply further; [exact A1|]. eapply further; [exact A2|]. apply last.
    + apply set_same.
    + intros p P. unfold x2, x1. cbn [todo]. rewrite !set_other by exact P. reflexivity.
    + intros k. unfold x2, x1, stage. cbn [queue]. rewrite M. unfold set.
      destruct (Nat.eq_dec k (S i)) as [->|K]; [rewrite Nat.eqb_refl; reflexivity|].
      assert (E : k =? S i = false) by (apply Nat.eqb_neq, K). rewrite E. cbn [andb].
      destruct (Nat.eq_dec k i) as [->|K']; [reflexivity|]. assert (E' : k =? i = false) by (apply Nat.eqb_neq, K'). rewrite E'. reflexivity.
    + intros l. reflexivity.
  - exists 2. eapply further; [exact A1|]. apply last.
    + rewrite T1. reflexivity.
    + intros p P. unfold x1. cbn [todo]. rewrite set_other by exact P. reflexivity.
    + intros k. unfold x1, stage. cbn [queue]. rewrite M, Bool.andb_false_r. unfold set.
      destruct (Nat.eq_dec k i) as [->|K]; [reflexivity|]. assert (E : k =? i = false) by (apply Nat.eqb_neq, K). rewrite E. reflexivity.
    + intros l. reflexivity.
Qed.

Lemma one_wave m ms s : exists k, reaches k (State (row (m :: ms)) (fun _ => []) s) (State (row ms) (fun _ => []) (wave m s)).
Proof.
  set (x := get (read m) s).
  assert (first : exists k, reaches k (State (row (m :: ms)) (fun _ => []) s) (stage m ms x 0 s)).
  { exists 1. eapply further with (p := 0).
    - unfold act. cbn [todo queue now row flat_map turn app length].
      assert (E : 0 <? depth 0 = true) by (apply Nat.ltb_lt, room). rewrite E. reflexivity.
    - constructor. unfold stage. split; [|split]; cbn [todo queue now]; [| |intros l; reflexivity].
      + intros p. unfold set. destruct (Nat.eq_dec p 0) as [->|P]; [reflexivity|].
        assert (E : p <=? 0 = false) by (apply Nat.leb_gt; lia). rewrite E. reflexivity.
      + intros k. unfold set. assert (E : 0 <? n = true) by (apply Nat.ltb_lt, some). rewrite E, Bool.andb_true_r.
        destruct (Nat.eq_dec k 0) as [->|K]; [reflexivity|]. assert (E' : k =? 0 = false) by (apply Nat.eqb_neq, K). rewrite E'. reflexivity. }
  assert (all : forall i, i <= n -> exists k, reaches k (State (row (m :: ms)) (fun _ => []) s)
    (stage m ms x i (fold_left (one m x) (List.seq 0 i) s))).
  { induction i as [|i IH]; intros I; [exact first|]. destruct IH as [j J]; [lia|].
    rewrite seq_S, fold_left_app. cbn [fold_left]. destruct (next_stage m ms x i (fold_left (one m x) (List.seq 0 i) s)) as [k K]; [lia|].
    exists (j + k). apply (reaches_app j k _ _ _ J K). }
  destruct (all n (le_n n)) as [k K]. exists (k + 0). apply (reaches_app k 0 _ _ _ K). constructor.
  unfold stage. split; [|split]; cbn [todo queue now]; [| |intros l; reflexivity].
  - intros p. destruct (p <=? n) eqn:L; [reflexivity|]. apply Nat.leb_gt in L. destruct p as [|p]; [lia|].
    unfold row. cbn [flat_map turn]. assert (E : p <? n = false) by (apply Nat.ltb_ge; lia). rewrite E. reflexivity.
  - intros c. rewrite Nat.ltb_irrefl, Bool.andb_false_r. reflexivity.
Qed.

(** The rule of a space-time map, for what travels along one loop: no run waits for ever, and all leave what is left where at each
    moment each process uses what the edge reads. Where the processes' work is apart, that is what is left where one
    place is done with all of time before the next one ([independent]). *)
Theorem space_time : forall ms s j y, let start := State (row ms) (fun _ => []) s in
  processes_apart start -> reaches j start y ->
  (exists k z, reaches k y z /\ finished z) /\ (finished y -> same (now y) (in_time ms s)).
Proof.
  intros ms s j y start A J.
  assert (E : exists k, reaches k start (State (fun _ => []) (fun _ => []) (in_time ms s))).
  { unfold start. clear start A J. revert s. induction ms as [|m ms IH]; intros s.
    - exists 0. constructor. repeat split.
    - destruct (one_wave m ms s) as [k K]. destruct (IH (wave m s)) as [l L]. exists (k + l). apply (reaches_app k l _ _ _ K L). }
  destruct E as [k K].
  destruct (kahn Nat.eq_dec Nat.eq_dec depth j k start y _ A K (fun p => eq_refl) J) as [(l & _ & L) F].
  split; [exists l; eexists; split; [exact L | intros p; reflexivity] |].
  intros G. exact (F G).
Qed.
End Row.

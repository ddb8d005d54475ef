(** The certificate checker of [lathe-check], as it is in Rust, and that it is sound: what it accepts is a contradiction
    of the hypotheses for all integers. Each definition has the name of the Rust function that it mirrors, and refuses
    what that refuses: numbers that leave 128 bits, facts and choices that are not there, proofs that nest too deep. *)

From Coq Require Import ZArith NArith List Bool Lia Permutation.
Import ListNotations.
Open Scope Z_scope.

(** * Polynomials ([term.rs]) *)

(** A product of variables, sorted. *)
Definition vars := list N.

(** Coefficients of products, in the order of the products: [Vec<(Vec<u32>, i128)>]. *)
Definition term := list (vars * Z).

Fixpoint product_of (a : N -> Z) (vs : vars) : Z :=
  match vs with
  | [] => 1
  | v :: vs => a v * product_of a vs
  end.

(** What a polynomial is for numbers in the place of its variables. *)
Fixpoint eval (a : N -> Z) (t : term) : Z :=
  match t with
  | [] => 0
  | (vs, c) :: t => c * product_of a vs + eval a t
  end.

(** Words of 128 bits, with a sign. *)
Definition exact (z : Z) : option Z := if (- 2 ^ 127 <=? z) && (z <? 2 ^ 127) then Some z else None.
Definition checked_add (a b : Z) : option Z := exact (a + b).
Definition checked_mul (a b : Z) : option Z := exact (a * b).

(** The order of products: word by word, as Rust orders vectors. *)
Fixpoint order (a b : vars) : comparison :=
  match a, b with
  | [], [] => Eq
  | [], _ => Lt
  | _, [] => Gt
  | x :: a, y :: b => match N.compare x y with Eq => order a b | c => c end
  end.

Definition bind {A B} (o : option A) (f : A -> option B) : option B :=
  match o with Some a => f a | None => None end.

(** A coefficient more; none that is 0 stays. *)
Fixpoint put (t : term) (vs : vars) (c : Z) : option term :=
  match t with
  | [] => bind (exact c) (fun c => if c =? 0 then Some [] else Some [(vs, c)])
  | (ws, d) :: rest =>
      match order vs ws with
      | Eq => bind (checked_add d c) (fun s => if s =? 0 then Some rest else Some ((ws, s) :: rest))
      | Lt => bind (exact c) (fun c => if c =? 0 then Some t else Some ((vs, c) :: t))
      | Gt => bind (put rest vs c) (fun rest => Some ((ws, d) :: rest))
      end
  end.

Fixpoint add_scaled (t o : term) (by_ : Z) : option term :=
  match o with
  | [] => Some t
  | (vs, c) :: o => bind (checked_mul c by_) (fun c => bind (put t vs c) (fun t => add_scaled t o by_))
  end.

Fixpoint insert (v : N) (vs : vars) : vars :=
  match vs with
  | [] => [v]
  | w :: ws => if N.leb v w then v :: vs else w :: insert v ws
  end.
Definition sort (vs : vars) : vars := fold_right insert [] vs.

Definition product (vs : vars) (by_ : Z) : term := if by_ =? 0 then [] else [(sort vs, by_)].
Definition constant (v : Z) : term := product [] v.
Definition plus (t : term) (v : Z) : option term := add_scaled t (constant v) 1.
Definition neg (t : term) : option term := add_scaled [] t (-1).

(** One product of the left factor times the right factor, added to a sum. *)
Fixpoint mul_row (out : term) (vs : vars) (x : Z) (o : term) : option term :=
  match o with
  | [] => Some out
  | (ws, y) :: o =>
      bind (checked_mul x y) (fun c => bind (put out (sort (vs ++ ws)) c) (fun out => mul_row out vs x o))
  end.
Fixpoint mul_from (out t o : term) : option term :=
  match t with
  | [] => Some out
  | (vs, x) :: t => bind (mul_row out vs x o) (fun out => mul_from out t o)
  end.
Definition mul (t o : term) : option term := mul_from [] t o.

Definition as_constant (t : term) : option Z :=
  match t with
  | [] => Some 0
  | [([], c)] => Some c
  | _ => None
  end.

(** * Obligations and proofs ([proof.rs]) *)

Record obligation := Obligation {
  facts : list term;
  choices : list (list (list term))
}.

(** Multipliers are at least 0 by their type. *)
Inductive proof :=
| Sum (parts : list (N * N))
| Cut (t : term) (low high : proof)
| Cases (i : N) (proofs : list proof)
| Product (i j : N) (rest : proof).

(** The element at a place, where there is one. *)
Fixpoint get {A} (l : list A) (i : N) : option A :=
  match l with
  | [] => None
  | x :: l => if N.eqb i 0 then Some x else get l (N.pred i)
  end.

Fixpoint sum_of (known : list term) (sum : term) (parts : list (N * N)) : option term :=
  match parts with
  | [] => Some sum
  | (i, by_) :: parts =>
      bind (get known i) (fun fact =>
      bind (add_scaled sum fact (Z.of_N by_)) (fun sum => sum_of known sum parts))
  end.

Definition is_positive_constant (o : option term) : bool :=
  match bind o as_constant with Some c => 0 <? c | None => false end.

(** Proofs that nest deeper are refused. *)
Definition DEPTH : nat := 100.

(** [level] says how many more levels there may be, this one counted. *)
Fixpoint branch (cs : list (list (list term))) (known : list term) (p : proof) (level : nat) : bool :=
  match level with
  | O => false
  | S level =>
      match p with
      | Sum parts => is_positive_constant (sum_of known [] parts)
      | Cut t low high =>
          match bind (neg t) (fun t => plus t 1) with
          | Some above => branch cs (known ++ [t]) low level && branch cs (known ++ [above]) high level
          | None => false
          end
      | Cases i proofs =>
          match get cs i with
          | Some choice =>
              (fix each (choice : list (list term)) (proofs : list proof) : bool :=
                 match choice, proofs with
                 | [], [] => true
                 | alternative :: choice, p :: proofs =>
                     branch cs (known ++ alternative) p level && each choice proofs
                 | _, _ => false
                 end) choice proofs
          | None => false
          end
      | Product i j rest =>
          match get known i, get known j with
          | Some a, Some b =>
              match bind (mul a b) neg with
              | Some product => branch cs (known ++ [product]) rest level
              | None => false
              end
          | _, _ => false
          end
      end
  end.

Definition check (o : obligation) (p : proof) : bool := branch (choices o) (facts o) p (S DEPTH).

(** * What they mean *)

(** A hypothesis is at most 0. *)
Definition holds (a : N -> Z) (t : term) : Prop := eval a t <= 0.
(** Of a choice, one alternative holds: all its terms do. *)
Definition one_holds (a : N -> Z) (choice : list (list term)) : Prop := Exists (Forall (holds a)) choice.
Definition all_hold (a : N -> Z) (o : obligation) : Prop :=
  Forall (holds a) (facts o) /\ Forall (one_holds a) (choices o).

(** * Soundness *)

Lemma bind_some {A B} (o : option A) (f : A -> option B) b :
  bind o f = Some b -> exists a, o = Some a /\ f a = Some b.
Proof. destruct o; simpl; intros H; [eauto | discriminate]. Qed.

Lemma exact_some z y : exact z = Some y -> y = z.
Proof. unfold exact. destruct (_ && _); congruence. Qed.

Lemma order_eq a : forall b, order a b = Eq -> a = b.
Proof.
  induction a as [|x a IH]; intros [|y b]; simpl; try discriminate; auto.
  destruct (N.compare x y) eqn:E; try discriminate. apply N.compare_eq in E. intros H. f_equal; auto.
Qed.

Lemma put_eval a vs c : forall t u, put t vs c = Some u -> eval a u = eval a t + c * product_of a vs.
Proof.
  induction t as [|[ws d] rest IH]; simpl; intros u H.
  - apply bind_some in H as (k & K & H). apply exact_some in K as ->.
    destruct (Z.eqb_spec c 0); injection H as <-; simpl; subst; ring.
  - destruct (order vs ws) eqn:E.
    + apply order_eq in E as ->. apply bind_some in H as (k & K & H). apply exact_some in K as ->.
      destruct (Z.eqb_spec (d + c) 0) as [Z0|_]; injection H as <-; simpl; [|ring].
      replace c with (- d) by lia. ring.
    + apply bind_some in H as (k & K & H). apply exact_some in K as ->.
      destruct (Z.eqb_spec c 0); injection H as <-; simpl; subst; ring.
    + apply bind_some in H as (r & R & H). injection H as <-. simpl. rewrite (IH _ R). ring.
Qed.

Lemma add_scaled_eval a by_ : forall o t u, add_scaled t o by_ = Some u -> eval a u = eval a t + by_ * eval a o.
Proof.
  induction o as [|[vs c] o IH]; simpl; intros t u H.
  - injection H as <-. ring.
  - apply bind_some in H as (k & K & H). apply exact_some in K as ->.
    apply bind_some in H as (r & R & H). rewrite (IH _ _ H), (put_eval _ _ _ _ _ R). ring.
Qed.

Lemma insert_product a v : forall vs, product_of a (insert v vs) = a v * product_of a vs.
Proof.
  induction vs as [|w vs IH]; simpl; auto. destruct (N.leb v w); simpl; [reflexivity|]. rewrite IH. ring.
Qed.

Lemma sort_product a : forall vs, product_of a (sort vs) = product_of a vs.
Proof.
  induction vs as [|v vs IH]; [reflexivity|]. change (sort (v :: vs)) with (insert v (sort vs)).
  rewrite insert_product, IH. reflexivity.
Qed.

Lemma app_product a vs ws : product_of a (vs ++ ws) = product_of a vs * product_of a ws.
Proof. induction vs as [|v vs IH]; simpl; [symmetry; apply Z.mul_1_l|]. rewrite IH. ring. Qed.

Lemma constant_eval a v : eval a (constant v) = v.
Proof. unfold constant, product. destruct (Z.eqb_spec v 0); simpl; lia. Qed.

Lemma plus_eval a t v u : plus t v = Some u -> eval a u = eval a t + v.
Proof. unfold plus. intros H. rewrite (add_scaled_eval _ _ _ _ _ H), constant_eval. lia. Qed.

Lemma neg_eval a t u : neg t = Some u -> eval a u = - eval a t.
Proof. unfold neg. intros H. rewrite (add_scaled_eval _ _ _ _ _ H). cbn [eval]. ring. Qed.

Lemma mul_row_eval a vs x : forall o out u,
  mul_row out vs x o = Some u -> eval a u = eval a out + x * product_of a vs * eval a o.
Proof.
  induction o as [|[ws y] o IH]; simpl; intros out u H.
  - injection H as <-. ring.
  - apply bind_some in H as (k & K & H). apply exact_some in K as ->.
    apply bind_some in H as (r & R & H).
    rewrite (IH _ _ H), (put_eval _ _ _ _ _ R), sort_product, app_product. ring.
Qed.

Lemma mul_eval a o : forall t out u, mul_from out t o = Some u -> eval a u = eval a out + eval a t * eval a o.
Proof.
  induction t as [|[vs x] t IH]; simpl; intros out u H.
  - injection H as <-. ring.
  - apply bind_some in H as (r & R & H). rewrite (IH _ _ H), (mul_row_eval _ _ _ _ _ _ R). ring.
Qed.

Lemma as_constant_eval a t c : as_constant t = Some c -> eval a t = c.
Proof.
  destruct t as [|[[|v vs] d] [|]]; simpl; intros H; try discriminate; injection H as <-; lia.
Qed.

Lemma get_in {A} : forall (l : list A) i x, get l i = Some x -> In x l.
Proof.
  induction l as [|y l IH]; simpl; intros i x H; [discriminate|].
  destruct (N.eqb i 0); [injection H as ->; auto | eauto].
Qed.

Lemma sum_at_most a known : Forall (holds a) known -> forall parts sum u,
  sum_of known sum parts = Some u -> eval a u <= eval a sum.
Proof.
  intros K. induction parts as [|[i b] parts IH]; simpl; intros sum u H.
  - injection H as <-. lia.
  - apply bind_some in H as (f & F & H). apply bind_some in H as (r & R & H).
    apply IH in H. rewrite (add_scaled_eval _ _ _ _ _ R) in H.
    apply get_in in F. rewrite Forall_forall in K. specialize (K _ F). unfold holds in K.
    pose proof (N2Z.is_nonneg b). nia.
Qed.

Lemma branch_sound a cs : Forall (one_holds a) cs -> forall level p known,
  branch cs known p level = true -> ~ Forall (holds a) known.
Proof.
  intros C. induction level as [|level IH]; intros p known H K; [discriminate|].
  assert (more : forall p new, branch cs (known ++ new) p level = true -> Forall (holds a) new -> False)
    by (intros q new B N; apply (IH _ _ B); apply Forall_app; auto).
  destruct p as [parts | t low high | i proofs | i j rest]; simpl in H.
  - unfold is_positive_constant in H. destruct (sum_of known [] parts) as [u|] eqn:S; [|discriminate].
    simpl in H. destruct (as_constant u) as [c|] eqn:E; [|discriminate].
    apply Z.ltb_lt in H. apply (as_constant_eval a) in E. pose proof (sum_at_most a known K _ _ _ S). simpl in *. lia.
  - destruct (bind (neg t) _) as [above|] eqn:E; [|discriminate].
    apply bind_some in E as (n & N & P). apply andb_true_iff in H as [L U].
    destruct (Z_le_gt_dec (eval a t) 0) as [le|gt].
    + apply (more _ _ L). constructor; auto.
    + apply (more _ _ U). constructor; auto. unfold holds.
      rewrite (plus_eval _ _ _ _ P), (neg_eval _ _ _ N). lia.
  - destruct (get cs i) as [choice|] eqn:G; [|discriminate].
    apply get_in in G. rewrite Forall_forall in C. specialize (C _ G). clear G. unfold one_holds in C.
    revert proofs H. induction C as [alternative rest Hd|alternative rest Tl IHC]; intros [|p proofs] H; try discriminate;
      apply andb_true_iff in H as [B E]; [exact (more _ _ B Hd) | exact (IHC _ E)].
  - destruct (get known i) as [x|] eqn:X; [|discriminate].
    destruct (get known j) as [y|] eqn:Y; [|discriminate].
    destruct (bind (mul x y) neg) as [u|] eqn:E; [|discriminate].
    apply bind_some in E as (m & M & N). apply (more _ _ H). constructor; auto.
    apply get_in in X. apply get_in in Y. rewrite Forall_forall in K.
    pose proof (K _ X). pose proof (K _ Y). unfold holds in *.
    rewrite (neg_eval _ _ _ N). unfold mul in M. rewrite (mul_eval _ _ _ _ _ M). cbn [eval]. nia.
Qed.

(** What the checker accepts is a contradiction: no integers make all hypotheses true. *)
Theorem check_sound : forall o p, check o p = true -> forall a, ~ all_hold a o.
Proof. intros o p H a [F C]. exact (branch_sound a _ C _ _ _ H F). Qed.

(** So a goal [g <= 0] is proved by a refutation of the hypotheses and its negation, [1 - g <= 0]. *)
Theorem goal_follows : forall fs cs g above p,
  bind (neg g) (fun t => plus t 1) = Some above ->
  check (Obligation (fs ++ [above]) cs) p = true ->
  forall a, Forall (holds a) fs -> Forall (one_holds a) cs -> eval a g <= 0.
Proof.
  intros fs cs g above p E H a F C. apply bind_some in E as (n & N & P).
  destruct (Z_le_gt_dec (eval a g) 0) as [|gt]; auto. exfalso.
  apply (check_sound _ _ H a). split; auto. simpl. apply Forall_app. split; auto. constructor; auto.
  unfold holds. rewrite (plus_eval _ _ _ _ P), (neg_eval _ _ _ N). lia.
Qed.

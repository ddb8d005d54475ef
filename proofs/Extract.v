(** The checker as an OCaml program, for the differential test against the Rust one ([judge.ml] reads the cases). *)

From Coq Require Import ZArith Extraction ExtrOcamlBasic.
From Lathe Require Import Checker.
Extraction Language OCaml.
Extraction "checker.ml" check add_scaled product Z.add Z.sub Z.mul Z.opp Z.leb.

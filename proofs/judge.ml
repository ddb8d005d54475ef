(* Reads obligations and proofs in lathe-check's text form and says of each proof what the extracted checker does.

   A line `obligation FACTS CHOICES` holds terms in brackets, and choices in parentheses around their alternatives, which are
   parentheses around terms. Each line `proof TEXT` behind it is judged against it: `accepted`, `refused`, or `unreadable`
   where the text is none that lathe-check reads. *)

open Checker

exception Unreadable

let rec pos n = if n = 1 then XH else if n land 1 = 0 then XO (pos (n lsr 1)) else XI (pos (n lsr 1))
let z n = if n = 0 then Z0 else if n > 0 then Zpos (pos n) else Zneg (pos (-n))
let ten = z 10

(* A number in its one spelling, as large as it may be: what Rust prints and reads. *)
let number least most word =
  let n = String.length word in
  let negative = n > 0 && word.[0] = '-' in
  let first = if negative then 1 else 0 in
  if n = first || (word.[first] = '0' && n > first + 1) || (negative && word.[first] = '0') then raise Unreadable;
  let value = ref Z0 in
  for i = first to n - 1 do
    match word.[i] with
    | '0' .. '9' as c -> value := Z.add (Z.mul !value ten) (z (Char.code c - 48))
    | _ -> raise Unreadable
  done;
  let value = if negative then Z.opp !value else !value in
  if Z.leb least value && Z.leb value most then value else raise Unreadable

let rec power n = if n = 0 then z 1 else Z.mul (z 2) (power (n - 1))
let one = z 1
let below n = Z.sub (power n) one
let signed = number (Z.opp (power 127)) (below 127)
let of_z = function Z0 -> N0 | Zpos p -> Npos p | Zneg _ -> raise Unreadable
let unsigned bits = let most = below bits in fun word -> of_z (number Z0 most word)
let word32 = unsigned 32
let word64 = unsigned 64

type reader = { text : string; mutable at : int }

let eat r word =
  let n = String.length word in
  let there = r.at + n <= String.length r.text && String.sub r.text r.at n = word in
  if there then r.at <- r.at + n;
  there

let need r word = if not (eat r word) then raise Unreadable

let digits r =
  let from = r.at in
  while r.at < String.length r.text && (match r.text.[r.at] with '0' .. '9' | '-' -> true | _ -> false) do
    r.at <- r.at + 1
  done;
  String.sub r.text from (r.at - from)

let rec some r word read = if eat r word then let x = read r in x :: some r word read else []

let term r =
  let rec go sum =
    let by = signed (digits r) in
    let vars = some r "*v" (fun r -> word32 (digits r)) in
    match add_scaled sum (product vars by) one with
    | None -> raise Unreadable
    | Some sum -> if eat r " + " then go sum else sum
  in
  go []

let rec proof r depth =
  if depth > 100 then raise Unreadable;
  need r "(";
  let p =
    if eat r "sum" then
      Sum (some r " " (fun r ->
        let by = word64 (digits r) in
        need r "*";
        (word64 (digits r), by)))
    else if eat r "cut [" then begin
      let t = term r in
      need r "] ";
      let low = proof r (depth + 1) in
      need r " ";
      Cut (t, low, proof r (depth + 1))
    end
    else if eat r "cases " then
      let i = word64 (digits r) in
      Cases (i, some r " " (fun r -> proof r (depth + 1)))
    else if eat r "product " then begin
      let i = word64 (digits r) in
      need r " ";
      let j = word64 (digits r) in
      need r " ";
      Product (i, j, proof r (depth + 1))
    end
    else raise Unreadable
  in
  need r ")";
  p

let whole read text =
  let r = { text; at = 0 } in
  let x = read r in
  if r.at <> String.length text then raise Unreadable;
  x

let bracket r = let t = term r in need r "]"; t
let terms r = some r " [" bracket
let alternative r = let ts = terms r in need r ")"; ts
let choice r = let alternatives = some r " (" alternative in need r ")"; alternatives
let obligation r = let facts = terms r in { facts; choices = some r " (" choice }

let () =
  let current = ref { facts = []; choices = [] } in
  try
    while true do
      let line = input_line stdin in
      match String.index_opt line ' ' with
      | Some n when String.sub line 0 n = "proof" ->
          let text = String.sub line (n + 1) (String.length line - n - 1) in
          print_endline
            (match whole (fun r -> proof r 0) text with
            | exception Unreadable -> "unreadable"
            | p -> if check !current p then "accepted" else "refused")
      | _ ->
          let r = { text = line; at = 0 } in
          need r "obligation";
          current := obligation r;
          if r.at <> String.length line then failwith line
    done
  with End_of_file -> ()

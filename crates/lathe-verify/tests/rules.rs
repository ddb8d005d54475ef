//! `proofs/RULES.md`: each rule of this crate with the theorems behind it, written from the table below. Functions, theorems and
//! primitives that it names exist, and all of them are named. `UPDATE_EXPECT=1` writes it.

use lathe_schedule::{PRIMITIVES, Primitive};
use lathe_verify::PROVED;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A rule: what it is called, the functions that state it (`crate/file::function`), the theorems behind it (`file::theorem`), and
/// what these leave to the functions.
struct Rule {
    name: &'static str,
    rust: &'static [&'static str],
    coq: &'static [&'static str],
    left: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        name: "certificates",
        rust: &["lathe-check/proof::check", "lathe-check/proof::branch"],
        coq: &["Checker::check_sound", "Checker::goal_follows"],
        left: "That the Rust function is the one in Coq is tested: both say the same of every obligation and proof.",
    },
    Rule {
        name: "hypotheses",
        rust: &[
            "lathe-verify/scope::divide",
            "lathe-verify/scope::extreme",
            "lathe-verify/scope::precedes",
            "lathe-verify/scope::promised",
            "lathe-verify/scope::address",
            "lathe-verify/obligations::equal",
            "lathe-verify/meet::same_bits",
            "lathe-verify/meet::is_mixed_radix",
        ],
        coq: &[
            "Hypotheses::quotient",
            "Hypotheses::whole_multiples",
            "Hypotheses::digit",
            "Hypotheses::extremes",
            "Hypotheses::differ_means",
            "Hypotheses::precedes_means",
            "Hypotheses::equal_follows",
            "Hypotheses::order_follows",
            "Hypotheses::distinct_follows",
            "Hypotheses::promised",
            "Hypotheses::promised_monotone",
            "Hypotheses::same_bits",
            "Hypotheses::mixed_radix",
            "Hypotheses::digits_determine",
        ],
        left: "That each expression of an index gets the polynomial that it is, and each unknown one name; both are short code.",
    },
    Rule {
        name: "accesses",
        rust: &["lathe-verify/meet::accesses", "lathe-verify/meet::moment", "lathe-verify/scope::volatile"],
        coq: &["Statements::accesses_are_all", "Statements::instances_are_all"],
        left: "Blocks of several targets, tables and instructions are not in the syntax of `Statements.v`. Temporaries declared \
               inside are an iteration's own, as if each had a dimension more (`contract` from right to left).",
    },
    Rule {
        name: "loops renamed",
        rust: &[
            "lathe-verify/obligations::band",
            "lathe-verify/obligations::within",
            "lathe-verify/obligations::run_anew",
            "lathe-verify/obligations::term_there",
        ],
        coq: &["Nests::band", "Calculus::reorder"],
        left: "That extents and maps depend on nothing that the loops write is checked on the text. Loops that others run than before \
               are ones in order first, and then go to lanes or cores as `lanes and cores` says. Stores have no end in Coq: that what \
               extents and indices read is there, where nobody read it before, is asked besides.",
    },
    Rule {
        name: "iterations that do not meet",
        rust: &["lathe-verify/meet::apart", "lathe-verify/meet::distinct", "lathe-verify/meet::separate"],
        coq: &[
            "Statements::distinct_commute",
            "Calculus::apart_commute",
            "Reductions::accumulations_commute",
        ],
        left: "That two views of one parameter are one buffer there is `home` here.",
    },
    Rule {
        name: "lanes and cores",
        rust: &["lathe-verify/meet::lanes", "lathe-verify/meet::cores", "lathe-verify/meet::independent"],
        coq: &["Iterations::independent", "Statements::any_order"],
        left: "That lanes and cores run the commands of an iteration in their order, and one at a time.",
    },
    Rule {
        name: "loops in order",
        rust: &["lathe-verify/obligations::loops"],
        coq: &["Nests::loops_nest"],
        left: "",
    },
    Rule {
        name: "a loop distributed",
        rust: &["lathe-verify/distribute::distributed", "lathe-verify/distribute::sunk_element"],
        coq: &["Iterations::distribute", "Storage::contract"],
        left: "Loops between are passed as `loops renamed` says; temporaries that get a dimension are `contract` from right to left. That \
               copies of the loop run as often as it is asked without an iteration of it, of which there may be none.",
    },
    Rule {
        name: "loops joined",
        rust: &["lathe-verify/join::joined"],
        coq: &["Iterations::join"],
        left: "That no temporary stands for another one of its name.",
    },
    Rule {
        name: "a temporary contracted",
        rust: &[
            "lathe-verify/contract::contracted",
            "lathe-verify/contract::same_elements",
            "lathe-verify/contract::others_elements",
            "lathe-verify/cache::written_first",
        ],
        coq: &["Storage::contract", "Storage::elsewhere", "Storage::others_elements"],
        left: "That the program before reads nothing that it has not written.",
    },
    Rule {
        name: "partial accumulators",
        rust: &["lathe-verify/partial::sum_split"],
        coq: &["Reductions::rfactor", "Reductions::partial_sums"],
        left: "Reducers of several accumulators are a monoid of tuples in `partial_sums`; `rfactor` has one in a store. That the total is \
               there, as the sum has a term, is asked besides.",
    },
    Rule {
        name: "memory asked for",
        rust: &["lathe-verify/obligations::asked"],
        coq: &["Storage::more"],
        left: "",
    },
    Rule {
        name: "a loop peeled",
        rust: &["lathe-verify/peel::peeled"],
        coq: &["Nests::peel"],
        left: "That temporaries of the copy have names of their own, one for each, is checked on the text.",
    },
    Rule {
        name: "a loop padded",
        rust: &[
            "lathe-verify/pad::padded",
            "lathe-verify/pad::decides_nothing",
            "lathe-verify/pad::in_its_place",
        ],
        coq: &["Storage::more"],
        left: "That iterations that are more trap nowhere, and that no other reads what they write.",
    },
    Rule {
        name: "storage of temporaries",
        rust: &["lathe-verify/obligations::storage"],
        coq: &["Storage::elsewhere", "Storage::wider_apart"],
        left: "",
    },
    Rule {
        name: "an instruction",
        rust: &["lathe-verify/instruction::instruction", "lathe-schedule/lanes::ends_alike"],
        coq: &[
            "Instructions::instruction",
            "Instructions::instruction_elsewhere",
            "Instructions::fewer_lanes",
            "Instructions::laid_as",
            "Storage::more",
        ],
        left: "That the machine's instruction is what its row says is tested by running it, and that a store past the caches is a store; that codes of several fields are the byte \
               that they make is read; that nobody reads behind the last of fewer lanes is checked on the text.",
    },
    Rule {
        name: "one pass",
        rust: &["lathe-verify/online::one_pass", "lathe-verify/online::is_taken"],
        coq: &["Online::one_pass", "Online::no_more_than_one"],
        left: "Exponentials are those of real numbers; the loops around the terms are `loops joined`.",
    },
    Rule {
        name: "a pass in parts",
        rust: &["lathe-verify/parts::in_parts"],
        coq: &["Online::parts"],
        left: "As of one pass.",
    },
    Rule {
        name: "an element held",
        rust: &["lathe-verify/hold::element_held", "lathe-verify/hold::held"],
        coq: &["Storage::hold", "Networks::hold_taken", "Networks::kahn"],
        left: "That the block reads the element whatever its conditions say is checked on the text.",
    },
    Rule {
        name: "a process cut",
        rust: &[
            "lathe-verify/processes::process_cut",
            "lathe-verify/processes::halves",
            "lathe-verify/processes::value_sent",
            "lathe-verify/processes::array_sent",
            "lathe-verify/processes::in_turn",
        ],
        coq: &[
            "Networks::cut_in_two",
            "Networks::kahn",
            "Processes::stream",
            "Processes::stream_ends",
            "Storage::elsewhere",
        ],
        left: "That each process shares nothing but channels is the check of programs, on the text. Statements of one process that \
               change their order wait for nobody else, and are `apart_commute`; that elements of an array are values on their way \
               is `elsewhere`.",
    },
    Rule {
        name: "a space-time map",
        rust: &[
            "lathe-verify/travel::space_mapped",
            "lathe-verify/travel::flow",
            "lathe-verify/travel::traveled",
        ],
        coq: &["Iterations::independent", "Networks::kahn", "Networks::space_time"],
        left: "Places are in one row in `space_time`, with one operand that travels; with two, each moment goes along both. That places \
               after times is the order before is `independent`.",
    },
    Rule {
        name: "a copy filled",
        rust: &["lathe-verify/fill::filled", "lathe-verify/fill::filled_element"],
        coq: &["Storage::fill"],
        left: "",
    },
    Rule {
        name: "a cache",
        rust: &["lathe-verify/cache::cached", "lathe-verify/cache::cached_element"],
        coq: &["Storage::cache", "Storage::inverse_apart"],
        left: "",
    },
];

/// Which rules cover the steps of a primitive, and the theorems about its own form of them.
const COVERED: &[(&str, &[&str], &[&str])] = &[
    ("split", &["loops renamed"], &["Nests::split", "Nests::split_exact"]),
    ("fuse", &["loops renamed", "lanes and cores"], &["Nests::fuse"]),
    ("join", &["loops joined", "iterations that do not meet"], &[]),
    ("contract", &["a temporary contracted"], &[]),
    ("sink", &["a loop distributed", "loops renamed", "iterations that do not meet"], &[]),
    ("interchange", &["loops renamed", "iterations that do not meet"], &["Nests::interchange"]),
    ("cache_read", &["a copy filled"], &[]),
    ("cache_write", &["a cache"], &[]),
    ("reorder", &["loops renamed", "iterations that do not meet"], &["Nests::interchange"]),
    ("rfactor", &["partial accumulators"], &[]),
    ("online", &["one pass", "loops joined"], &[]),
    ("partials", &["a pass in parts", "one pass"], &[]),
    ("align", &["storage of temporaries"], &[]),
    ("overrun", &["a loop padded"], &[]),
    ("pad", &["a loop padded"], &[]),
    ("peel", &["a loop peeled"], &[]),
    ("nontemporal", &["an instruction"], &[]),
    ("prefetch", &["memory asked for"], &[]),
    ("tensorize", &["an instruction"], &[]),
    ("vectorize", &["lanes and cores", "iterations that do not meet"], &[]),
    ("unroll", &["loops in order"], &[]),
    ("parallel", &["lanes and cores", "iterations that do not meet"], &[]),
    ("set_memory", &["storage of temporaries"], &[]),
    ("skew", &["storage of temporaries"], &[]),
    ("stage", &["an element held"], &[]),
    ("stream", &["a process cut"], &[]),
    ("space_time", &["a space-time map", "iterations that do not meet"], &[]),
];

/// Rules of instruction selection (`lathe-select`): the theorems behind them, and what those leave out.
const SELECTION: &[(&str, &[&str], &str)] = &[
    (
        "matmul-columns",
        &["Selection::permute_permute"],
        "by definition: rows of exchanged columns are columns",
    ),
    ("matmul-rows", &["Selection::rows_of_both"], ""),
    ("dot-order", &["Selection::ordered_axes"], ""),
    ("dot-merge", &["Selection::merged_steps", "Selection::reshape_one"], ""),
    (
        "dot-swap",
        &["Selection::swapped_factors", "Selection::swapped_axes"],
        "that factors commute, which those of floats do, but for bits of a NaN",
    ),
    ("dot-pad", &["Selection::padded_steps"], "rows and columns that are more are sliced off"),
    ("dot-block", &["Selection::merged_steps", "Selection::reshape_one"], ""),
    ("place", &["Selection::placed"], "that the instruction is its description is tested by its emulator"),
    ("place-converted", &["Selection::placed_converted"], "the same"),
    ("permute-permute", &["Selection::permute_permute"], ""),
    ("permute-reshape", &["Selection::permute_reshape"], ""),
    ("reshape-reshape", &["Selection::reshape_reshape"], ""),
    ("reshape-none", &["Selection::reshape_none"], ""),
    ("view-cast", &["Selection::view_pointwise"], ""),
    ("view-scale", &["Selection::view_pointwise"], ""),
    ("view-offset", &["Selection::view_pointwise"], ""),
    ("conv-windows", &["Selection::conv_windows"], "factors commute"),
    ("windows-none", &["Selection::windows_none"], ""),
    ("conv-pointwise", &["Selection::conv_pointwise"], "factors commute"),
    ("conv-groups", &["Selection::conv_groups", "Selection::grouped"], "factors commute"),
    ("conv-scale", &["Selection::scaled"], "floats are rounded"),
    ("dot-scale-left", &["Selection::scaled"], "floats are rounded"),
    ("dot-scale-right", &["Selection::scaled"], "floats are rounded"),
    ("dot-bytes", &["Selection::bytes_fit"], "that floats of such sums are rounded once"),
    ("dot-offset-left", &["Selection::offset"], "integers wrap, which is a ring too"),
    ("dot-offset-right", &["Selection::offset"], "integers wrap, which is a ring too"),
    ("sub-zero", &["Selection::sub_zero"], ""),
    (
        "dot-rounded",
        &["Selection::rounded_near", "Selection::rounded_sum"],
        "sums are rounded; numbers below 2^-126 may change by more of themselves, and the largest become infinite",
    ),
    ("cast-back", &["Selection::cast_back"], "a NaN stays one, perhaps with other bits"),
];

const HEAD: &str = "# Rules

Written by `UPDATE_EXPECT=1 cargo test -p lathe-verify --test rules` from the table in `crates/lathe-verify/tests/rules.rs`, which checks
that all that is named here exists, and that nothing is left out. `proofs/build` proves the theorems.

A step of a schedule is proved by a rule of `lathe-verify`: a function that computes from the programs before and after what must hold.
A certificate that `lathe-check` accepts shows that it does, and the theorem says that the programs then mean the same. The theorems
are about stores, commands that say what they touch (`Calculus.v`), and sequences of blocks (`Storage.v`); `Statements.v` has a syntax
of loops, conditions and blocks, and proves that these are what its statements do. That the functions state what the theorems
ask is read, and tested, not proved.
";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A file of a crate and a function in it, from `crate/file::function`.
fn function(name: &str) -> (String, &str) {
    let (place, function) = name.split_once("::").expect("crate/file::function");
    let (krate, file) = place.split_once('/').expect("crate/file");
    (format!("crates/{krate}/src/{file}.rs"), function)
}

/// All theorems of all files, as `file::theorem`.
fn theorems() -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("proofs")).expect("the folder can be read") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "v") {
            continue;
        }
        let file = path.file_stem().expect("a name").to_string_lossy().into_owned();
        for line in read(&path).lines() {
            if let Some(rest) = line.trim_start().strip_prefix("Theorem ") {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '\'');
                out.insert(format!("{file}::{}", &rest[..end.unwrap_or(rest.len())]));
            }
        }
    }
    out
}

fn rule(name: &str) -> &'static Rule {
    RULES.iter().find(|r| r.name == name).unwrap_or_else(|| panic!("there is no rule '{name}'"))
}

/// The rules of a primitive, and its own theorems.
fn covered(p: &Primitive) -> (&'static [&'static str], &'static [&'static str]) {
    let row = COVERED.iter().find(|(name, ..)| *name == p.name);
    let (_, rules, own) = row.unwrap_or_else(|| panic!("the primitive '{}' is not in the table", p.name));
    (rules, own)
}

/// A function with its file.
fn in_rust(name: &str) -> String {
    let (file, function) = function(name);
    format!("`{function}` ({})", file.rsplit('/').next().unwrap_or_default())
}

/// A theorem with its file.
fn in_coq(name: &str) -> String {
    let (file, theorem) = name.split_once("::").expect("file::theorem");
    format!("`{theorem}` ({file}.v)")
}

fn written() -> String {
    let mut out = String::from(HEAD);
    out +=
        "\n## Primitives\n\n| primitive | file | tag | rules | theorems |\n| --- | --- | --- | --- | --- |\n";
    for p in PRIMITIVES {
        let (rules, own) = covered(p);
        let coq: BTreeSet<&str> = rules.iter().flat_map(|r| rule(r).coq).chain(own).copied().collect();
        let coq: Vec<String> = coq.into_iter().map(in_coq).collect();
        let or = |list: Vec<String>, none: &str| if list.is_empty() { none.into() } else { list.join(", ") };
        let rules = or(rules.iter().map(|r| r.to_string()).collect(), "none: its steps are unproved");
        writeln!(out, "| `{}` | `{}.rs` | {} | {rules} | {} |", p.name, home(p), p.tag, or(coq, "none"))
            .expect("a string takes all");
    }
    out += "\n## Theorems behind the rules\n\n| rule | functions | theorems | what is left |\n| --- | --- | --- | --- |\n";
    for r in RULES {
        let functions: Vec<String> = r.rust.iter().map(|n| in_rust(n)).collect();
        let functions = functions.join(", ");
        let coq: Vec<String> = r.coq.iter().map(|n| in_coq(n)).collect();
        let coq = if coq.is_empty() { "none".into() } else { coq.join(", ") };
        writeln!(out, "| {} | {functions} | {coq} | {} |", r.name, r.left).expect("a string takes all");
    }
    out += "\n## Rules of instruction selection\n\nRows of `lathe-select`'s table; all are tested on samples as their tags say.\n\n";
    out += "| rule | theorems | what is left |\n| --- | --- | --- |\n";
    for (name, coq, left) in SELECTION {
        let coq: Vec<String> = coq.iter().map(|n| in_coq(n)).collect();
        let coq = if coq.is_empty() { "none".into() } else { coq.join(", ") };
        writeln!(out, "| `{name}` | {coq} | {left} |").expect("a string takes all");
    }
    out
}

/// The names of the rows of `lathe-select`'s table.
fn selection() -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for entry in
        std::fs::read_dir(root().join("crates/lathe-select/src/rules")).expect("the folder can be read")
    {
        for line in read(&entry.expect("an entry").path()).lines() {
            let name = line.trim().strip_prefix("name: \"").and_then(|l| l.strip_suffix("\","));
            out.extend(name.map(str::to_string));
        }
    }
    out
}

/// The file of `lathe-schedule` that holds a primitive.
fn home(p: &Primitive) -> &'static str {
    match p.name {
        "vectorize" | "unroll" | "parallel" | "set_memory" => "annotate",
        name => name,
    }
}

#[test]
fn what_the_table_names_exists() {
    let known = theorems();
    assert!(known.len() > 20, "{known:?}");
    let mut named = BTreeSet::new();
    for r in RULES {
        for f in r.rust {
            let (file, name) = function(f);
            let text = read(&root().join(&file));
            let there = ["(", "<"].iter().any(|end| text.contains(&format!("fn {name}{end}")));
            assert!(there, "{file} has no function '{name}'");
        }
        for t in r.coq {
            assert!(known.contains(*t), "{t} is no theorem of proofs/");
            named.insert(t.to_string());
        }
    }
    for p in PRIMITIVES {
        let (rules, own) = covered(p);
        assert_eq!(rules.is_empty(), !PROVED.contains(&p.name), "{}", p.name);
        assert!(rules.iter().all(|r| !rule(r).rust.is_empty()), "{}", p.name);
        named.extend(own.iter().map(|t| t.to_string()));
        let file = root().join(format!("crates/lathe-schedule/src/{}.rs", home(p)));
        assert!(read(&file).contains(&format!("name: \"{}\"", p.name)), "'{}' is elsewhere", p.name);
    }
    assert_eq!(COVERED.len(), PRIMITIVES.len());
    for (_, coq, _) in SELECTION {
        named.extend(coq.iter().map(|t| t.to_string()));
    }
    assert_eq!(selection(), SELECTION.iter().map(|(name, ..)| name.to_string()).collect());
    let unnamed: Vec<&String> = known.symmetric_difference(&named).collect();
    assert!(unnamed.is_empty(), "theorems behind no rule, or named but not there: {unnamed:?}");
}

#[test]
fn the_document_is_what_the_table_says() {
    let (path, text) = (root().join("proofs/RULES.md"), written());
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &text).expect("the document can be written");
    }
    assert!(read(&path) == text, "proofs/RULES.md is old: UPDATE_EXPECT=1 writes it");
}

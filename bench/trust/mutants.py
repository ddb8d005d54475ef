"""What the tests and the checker make of each mutant of the schedule primitives.

    pip install tree-sitter==0.26.1 tree-sitter-rust==0.24.2
    cargo install cargo-mutants --locked
    python mutants.py --output /tmp/mutants [--files pad,online] [--seconds 6] [--lanes 2] [--list mutants.txt]

cargo-mutants lists the mutants. All of them are written into one copy of the sources, where a number says which is on, so that one build
serves all (an operator changes in its place, whatever binds how tightly); what does not compile is left out. Each mutant then runs the tests that apply steps (TESTS), and is hunted (`hunt.rs`): the
cases of the tests, and random programs and steps of its primitive, are done with the mutant and without; where it does another thing, the
interpreter and the checker, which are as they were, judge that. The folder keeps what was found, in found.json, and the same command goes
on after an interruption. `--list` writes those that pass the tests into a file, by what they did, and keeps the reasons that it has: what
stands behind " -- ".
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tree_sitter_rust
from tree_sitter import Language, Parser

ROOT = Path(__file__).resolve().parents[2]
CRATE = "crates/lathe-schedule"
# Tests of (package, file) that apply steps of schedules and judge what they do.
TESTS = [
    ("lathe-rewrite", "files"),
    ("lathe-verify", "files"),
    ("lathe-verify", "changed"),
    ("lathe-verify", "fewer_lanes"),
    ("lathe-verify", "online"),
    ("lathe-verify", "pad"),
    ("lathe-verify", "witness"),
    ("lathe-verify", "bytes"),
    ("lathe-rewrite", "attention"),
    ("lathe-rewrite", "stream"),
    ("lathe-fuzz", "regressions"),
    ("lathe-fuzz", "trust"),
]
# Rules choose steps, and a wrong choice is a legal schedule.
LEFT_OUT = {"rules"}
# The primitives of a file that is not named as its one primitive.
PRIMITIVES = {
    "annotate": "vectorize,unroll,parallel,set_memory",
    "lanes": "tensorize,vectorize",
    "intrinsics": "tensorize",
    "util": "all",
    "lib": "all",
    "choices": "all",
    "witness": "all",
}
# What steps of mutants did, by the kind of the finding (`lathe_fuzz::Kind`).
CHANGES = {
    "meaning": "steps change a meaning: refused by the checker",
    "marks": "steps mark loops wrongly: refused by the checker",
    "broken": "steps leave what is no program: refused",
    "panic": "steps panic",
}
# Why those of a class change no meaning.
WHY = {
    "takes more": "Steps with a certificate keep the meaning, and of the others none that was judged changed it; without one they are refused.",
    "another program": "As of those that take more.",
    "refuses more": "They take no step that is not taken without them.",
    "other words": "They refuse what is refused without them, and take no other step.",
}
SWITCH = """
/// The mutant that is on, if any.
static MUTANT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(u32::MAX);
/// Turns a mutant on; 0 is none.
pub fn set_mutant(n: u32) {
    MUTANT.store(n, std::sync::atomic::Ordering::Relaxed)
}
pub(crate) fn mutant(n: u32) -> bool {
    if MUTANT.load(std::sync::atomic::Ordering::Relaxed) == u32::MAX {
        set_mutant(std::env::var("MUTANT").ok().and_then(|v| v.parse().ok()).unwrap_or(0));
    }
    MUTANT.load(std::sync::atomic::Ordering::Relaxed) == n
}
"""


class Rewriter:
    """One file's text with its mutants in it, each behind its number."""

    def __init__(self, source, mutants):
        self.source, self.mutants, self.placed = source, mutants, set()
        lines = [0] + [i + 1 for i, b in enumerate(source) if b == 10]

        def offset(at):
            line = source[lines[at["line"] - 1] :].split(b"\n", 1)[0].decode()
            return lines[at["line"] - 1] + len(line[: at["column"] - 1].encode())

        for m in mutants:
            m["from"], m["to"] = offset(m["span"]["start"]), offset(m["span"]["end"])

    def of(self, genre, begin, end=None):
        found = [m for m in self.mutants if m["genre"] == genre and m["from"] == begin and end in (None, m["to"])]
        self.placed.update(m["id"] for m in found)
        return found

    def text(self, node):
        return self.source[node.start_byte : node.end_byte].decode()

    @staticmethod
    def on(m):
        return f"crate::mutant({m['id']})"

    @staticmethod
    def marked(m, text):
        """Between marks, by which an error of the compiler is found to be this mutant's."""
        return f"/*<{m['id']}*/{text}/*{m['id']}>*/"

    def either(self, found, text, other):
        for m in found:
            text = f"if {self.on(m)} {{ {self.marked(m, other(m))} }} else {{ {text} }}"
        return text

    def children(self, node, skip_before=0):
        out, at = [], max(node.start_byte, skip_before)
        for c in node.children:
            if c.start_byte >= skip_before:
                out += [self.source[at : c.start_byte].decode(), self.emit(c)]
                at = c.end_byte
        return "".join(out) + self.source[at : node.end_byte].decode()

    def emit(self, node):
        kind = node.type
        if kind in ("macro_invocation", "line_comment", "block_comment", "string_literal") or not node.children:
            return self.text(node)
        emit = getattr(self, kind, None)
        return (emit and emit(node)) or self.children(node)

    def binary_expression(self, node):
        op, left, right = (node.child_by_field_name(n) for n in ("operator", "left", "right"))
        found = self.of("BinaryOperator", op.start_byte, op.end_byte)
        if not found:
            return None
        sign, left, right = self.text(op), self.emit(left), self.emit(right)
        if sign in ("&&", "||"):
            both = self.either(found, f"l_ {sign} {right}", lambda m: f"l_ {m['replacement']} {right}")
            return f"({{ let l_ = {left}; {both} }})"
        if sign in ("==", "!=", "<", ">", "<=", ">="):
            both = self.either(found, f"l_ {sign} r_", lambda m: f"l_ {m['replacement']} r_")
            return f"(match (&({left}), &({right})) {{ (l_, r_) => {both} }})"
        both = self.either(found, f"{left} {sign} {right}", lambda m: f"{left} {m['replacement']} {right}")
        return f"({{ {both} }})"

    def compound_assignment_expr(self, node):
        op, left, right = (node.child_by_field_name(n) for n in ("operator", "left", "right"))
        found = self.of("BinaryOperator", op.start_byte, op.end_byte)
        left, right = self.emit(left), self.emit(right)
        both = self.either(found, f"{left} {self.text(op)} {right}", lambda m: f"{left} {m['replacement']} {right}")
        return f"{{ {both} }}" if found else None

    def unary_expression(self, node):
        op = node.children[0]
        found = self.of("UnaryOperator", op.start_byte, op.end_byte)
        if not found:
            return None
        value = self.emit(node.children[-1])
        if self.text(op) == "!":
            return f"({self.on(found[0])} != !{value})"
        return f"({self.either(found, self.text(op) + value, lambda m: value)})"

    def match_arm(self, node):
        pattern = node.child_by_field_name("pattern")
        guard = pattern.child_by_field_name("condition")
        if guard is not None and guard.type in ("let_condition", "let_chain"):
            return None
        arms = self.of("MatchArm", node.start_byte)
        guards = self.of("MatchArmGuard", guard.start_byte, guard.end_byte) if guard else []
        if not arms and not guards:
            return None
        names, holds = self.text(pattern), "true"
        if guard:
            names = self.source[pattern.start_byte : guard.start_byte].decode().rstrip().removesuffix("if").rstrip()
            holds = self.emit(guard)
        for m in guards:
            holds = f"({self.on(m)} || ({holds}))" if m["replacement"] == "true" else f"(!{self.on(m)} && ({holds}))"
        for m in arms:
            holds = f"(!{self.marked(m, self.on(m))} && ({holds}))"
        return f"{names} if {holds}{self.children(node, pattern.end_byte)}"

    def block(self, node):
        inner = [c for c in node.children if c.is_named and not c.type.endswith("comment")]
        if node.parent.type != "function_item" or not inner:
            return None
        found = self.of("FnValue", inner[0].start_byte)
        early = "".join(f" if {self.on(m)} {{ return {self.marked(m, m['replacement'])}; }}" for m in found)
        return "{" + early + self.children(node)[1:]

    def field_initializer(self, node):
        base = [c for c in node.parent.children if c.type == "base_field_initializer"]
        found = self.of("StructField", node.start_byte) if base else []
        if not found:
            return None
        field, value = node.child_by_field_name("field"), node.child_by_field_name("value")
        name = self.text(field or node)
        value = self.emit(value) if value else name
        rest = self.text(base[0]).removeprefix("..").strip()
        return f"{name}: {self.either(found, value, lambda m: f'({rest}).{name}.clone()')}"

    shorthand_field_initializer = field_initializer


def write_in(copy, mutants, broken):
    """Writes all mutants but the broken ones into the copy; the numbers of those that found a place."""
    placed, parser = set(), Parser(Language(tree_sitter_rust.language()))
    lib = f"{CRATE}/src/lib.rs"
    for file in sorted({lib} | {m["file"] for m in mutants}):
        source = (ROOT / file).read_bytes()
        r = Rewriter(source, [m for m in mutants if m["file"] == file and m["id"] not in broken])
        root = parser.parse(source).root_node
        text = source[: root.start_byte].decode() + r.emit(root) + source[root.end_byte :].decode()
        (copy / file).write_text(text + SWITCH if file == lib else text)
        placed |= r.placed
    return placed


def cargo(copy, *command):
    env = dict(os.environ, CARGO_PROFILE_DEV_DEBUG="0")
    return subprocess.run(["cargo", *command, "--locked", "--message-format=json"], cwd=copy, env=env, capture_output=True, text=True)


def errors(copy):
    """The mutants that errors of the compiler are inside of, and other errors."""
    inside, other = set(), []
    for line in cargo(copy, "check", "-p", "lathe-schedule").stdout.splitlines():
        d = json.loads(line)
        if d.get("reason") != "compiler-message" or d["message"]["level"] != "error":
            continue
        for s in (s for s in d["message"]["spans"] if s["is_primary"]):
            text, mine = (copy / s["file_name"]).read_bytes(), None
            for m in re.finditer(rb"/\*<(\d+)\*/", text[: s["byte_start"]]):
                if text.find(b"/*%s>*/" % m.group(1), m.start()) >= s["byte_end"]:
                    mine = int(m.group(1))
            if mine:
                inside.add(mine)
            else:
                # Constants call no function, and some types are not spelled: all of the line's mutants go.
                numbers = re.findall(r"mutant\((\d+)\)", "".join(t["text"] for t in s["text"]))
                inside.update(map(int, numbers))
                other += [] if numbers else [d["message"]["rendered"]]
    return inside, other


def build(out, mutants):
    """One build of all mutants: the numbers of those that compile, and the programs of the tests and of the hunt."""
    copy = out / "source"
    if not copy.exists():
        subprocess.run(["git", "clone", "-q", ROOT, copy], check=True)
    shutil.copy(Path(__file__).with_name("hunt.rs"), copy / "crates/lathe-fuzz/examples/hunt.rs")
    # A function whose type is not spelled returns one: another cannot stand beside it.
    broken = {m["id"] for m in mutants if m["genre"] == "FnValue" and "impl " in m["function"]["return_type"]}
    while True:
        placed = write_in(copy, mutants, broken)
        inside, other = errors(copy)
        if not inside:
            break
        broken |= inside
    if other:
        sys.exit("the mutants do not compile:\n" + "\n".join(other))
    packages = sorted({p for p, _ in TESTS})
    programs = {}
    for command in (["test", "--no-run"] + [a for p in packages for a in ("-p", p)], ["build", "-p", "lathe-fuzz", "--example", "hunt"]):
        built = cargo(copy, *command)
        if built.returncode:
            sys.exit(built.stderr)
        for line in built.stdout.splitlines():
            d = json.loads(line)
            if d.get("executable"):
                package = re.search(r"crates/([\w-]+)", d["manifest_path"]).group(1)
                programs[package, d["target"]["name"]] = d["executable"]
    return placed, programs


def run(program, folder, mutant, seconds, *args):
    """What a program wrote, and whether it ended well; nothing where it did not end."""
    env = dict(os.environ, MUTANT=str(mutant), RUST_BACKTRACE="0")
    try:
        done = subprocess.run([program, *args], cwd=folder, env=env, capture_output=True, text=True, timeout=seconds)
        return done.stdout, done.returncode == 0
    except subprocess.TimeoutExpired as e:
        return (e.stdout or b"").decode(), None


def test(out, programs, m):
    """The test that a mutant fails."""
    for package, name in TESTS:
        _, well = run(programs[package, name], out / "source/crates" / package, m["id"], 40)
        if not well:
            return "never ends" if well is None else f"{package} {name}"
    return "passes"


def hunt(out, programs, m, seconds):
    stem = Path(m["file"]).stem
    of = f"{m['id']}:{PRIMITIVES.get(stem, stem)}"
    said, well = run(programs["lathe-fuzz", "hunt"], out / "source", 0, 60 + 10 * seconds, str(seconds), of)
    return said if well or said else "failed"


def verdict(found):
    kinds = set(re.findall(r"^%% (.+)$", found, re.M))
    head = found.split("\n", 1)[0]
    if "proof" in kinds:
        return "A STEP THAT CHANGES A MEANING IS CERTIFIED"
    for kind in ("meaning", "marks", "broken", "panic"):
        if kind in kinds:
            return CHANGES[kind]
    for words in ("takes more", "another program", "refuses more", "other words", "never ends"):
        if words in head:
            return words
    return "the process ends" if head == "failed" else "no step differs"


def write_list(path, passed):
    """The mutants that pass the tests, by what they did, with counts and reasons."""
    kept = {}
    if path.exists():
        lines = [line.split(" -- ", 1) for line in path.read_text().splitlines() if " -- " in line]
        kept = {name.split("  [")[0]: reason for name, reason in lines}
    classes = {}
    for name, hunted in passed:
        name = re.sub(r"\s+", " ", name.removeprefix(f"{CRATE}/src/"))
        counts = re.search(r"(\d+) judged, (\d+) certified: (.*)", hunted.split("\n", 1)[0])
        judged, certified, what = counts.groups() if counts else ("0", "0", "")
        said = [f"{what.strip('{}').replace(chr(34), '')}"] if what.strip("{}") else []
        said += [f"{judged} judged, {certified} certified"] if judged != "0" else []
        line = name + (f"  [{'; '.join(said)}]" if said else "")
        line += f" -- {kept[name]}" if name in kept else ""
        classes.setdefault(verdict(hunted), []).append(line)
    out = [f"The {len(passed)} mutants of lathe-schedule that pass the tests, and what they did when they were hunted (README.md)."]
    for what, lines in sorted(classes.items(), key=lambda c: -len(c[1])):
        out += ["", f"# {what}: {len(lines)}", *([WHY[what]] if what in WHY else []), *lines]
    path.write_text("\n".join(out) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--output", type=Path, required=True, help="a folder for the copy and for what is found")
    p.add_argument("--files", help="only these files of the crate, as pad,online")
    p.add_argument("--seconds", type=float, default=6, help="of a hunt; a third of that where a test fails")
    p.add_argument("--list", type=Path, help="a file of those that pass the tests")
    p.add_argument("--tests-only", action="store_true", help="hunt none")
    p.add_argument("--lanes", type=int, default=2, help="mutants at a time")
    a = p.parse_args()
    a.output.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(["cargo", "mutants", "--list", "--json", "-p", "lathe-schedule"], cwd=ROOT, check=True, capture_output=True, text=True)
    only = set(a.files.split(",")) if a.files else None
    mutants = [m for m in json.loads(listed.stdout) if not LEFT_OUT & set(Path(m["file"]).with_suffix("").parts)]
    mutants = [m for m in mutants if not only or Path(m["file"]).stem in only]
    for i, m in enumerate(mutants):
        m["id"] = i + 1
    placed, programs = build(a.output, mutants)
    print(f"{len(mutants)} mutants, {len(placed)} compile", file=sys.stderr, flush=True)
    kept = a.output / "found.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}

    def judged(m):
        here = found.setdefault(m["name"], {})
        if "test" not in here:
            here["test"] = test(a.output, programs, m)
        if "hunt" not in here and not a.tests_only:
            here["hunt"] = hunt(a.output, programs, m, a.seconds if here["test"] == "passes" else a.seconds / 3)
        return here

    ready, start = [m for m in mutants if m["id"] in placed], time.time()
    with ThreadPoolExecutor(a.lanes) as lanes:
        for i, here in enumerate(lanes.map(judged, ready)):
            if time.time() - start > 5 or i + 1 == len(ready):
                start = time.time()
                kept.write_text(json.dumps({n: dict(f) for n, f in list(found.items())}, indent=1))
                print(f"{i + 1} of {len(ready)}", file=sys.stderr, flush=True)
    kinds = {"passes": "pass", "never ends": "never end"}
    tested = Counter(kinds.get(found[m["name"]]["test"], "fail a test") for m in ready)
    for what, n in tested.most_common():
        print(f"{n:6}  {what}")
        of = [found[m["name"]].get("hunt") for m in ready if kinds.get(found[m["name"]]["test"], "fail a test") == what]
        for done, n in Counter(verdict(h) for h in of if h is not None).most_common():
            print(f"{n:10}  {done}")
    if a.list:
        write_list(a.list, [(m["name"], found[m["name"]].get("hunt", "")) for m in ready if found[m["name"]]["test"] == "passes"])


if __name__ == "__main__":
    main()

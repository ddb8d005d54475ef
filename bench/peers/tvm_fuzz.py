"""Programs of Lathe's fuzzer in TVM, under random schedules there, beside what the interpreter makes of them.

    pip install -r requirements-tvm.txt
    cargo build --release -p lathe-fuzz --example tvm              # the generator
    python tvm_fuzz.py --time 1800 --folder FOLDER                 # runs, and writes what differs
    python tvm_fuzz.py --replay FOLDER/values-1                    # shows one again

A program is run as it is, then under schedules of TVM's primitives, of which it refuses those that it sees to be wrong. What is
accepted must build and compute the same. A finding is made small: a folder with the script, its arguments, and the steps that are
needed. `stops` is a process that ended or took too long; `fails` is an error that is no refusal; `builds` is an accepted
schedule that does not build; `values` computes something else.
"""

import argparse
import json
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
# Programs of one call of the generator, schedules of a program, and steps of a schedule.
CASES, SCHEDULES, STEPS = 100, 6, 6
# Seconds after which a program counts as endless.
ENDLESS = 60
# What is refused by an error of another class, or only when it runs.
REFUSALS = ["ScheduleError", "Nested parallel loop is not supported", "Invalid buffer_index"]
# Findings of one kind at one primitive that are written.
KEPT = 3


def load(folder, name):
    """The script of a case, and its arguments before and after."""
    arrays, k = [], 0
    while (folder / f"{name}.{k}.before.npy").exists():
        arrays.append([np.load(folder / f"{name}.{k}.{turn}.npy") for turn in ("before", "after")])
        k += 1
    return (folder / f"{name}.py").read_text(), arrays


def parse(text):
    import tvm.script
    from tvm.script import tirx as T

    return tvm.script.parser.parse(text, {"T": T})


class Step:
    """A step by names of blocks and numbers of loops, so that it can be done again without some of those before it."""

    def __init__(self, what, block, *args):
        self.what, self.block, self.args = what, block, args

    def to_json(self):
        return [self.what, self.block, *self.args]

    def apply(self, s):
        b, what, a = s.get_sblock(self.block), self.what, self.args
        loops = s.get_loops(b)
        if what == "split":
            s.split(loops[a[0]], [None, a[1]] if a[2] else [a[1], None])
        elif what == "fuse":
            s.fuse(loops[a[0]], loops[a[0] + 1])
        elif what == "reorder":
            s.reorder(*(loops[i] for i in a[0]))
        elif what in ("vectorize", "unroll", "parallel"):
            getattr(s, what)(loops[a[0]])
        elif what in ("compute_at", "reverse_compute_at"):
            getattr(s, what)(b, s.get_loops(s.get_sblock(a[0]))[a[1]])
        elif what in ("compute_inline", "reverse_compute_inline"):
            getattr(s, what)(b)
        elif what in ("cache_read", "cache_write"):
            getattr(s, what)(b, a[0], "global")
        elif what == "rolling_buffer":
            s.rolling_buffer(b, 0)
        elif what == "rfactor":
            s.rfactor(loops[a[0]], a[1])
        elif what == "loop_partition":
            s.loop_partition(loops[a[0]], [None, a[1]])
        elif what == "decompose_reduction":
            s.decompose_reduction(b, loops[a[0]])
        elif what == "transform_layout":
            n = a[0]
            s.transform_layout(b, ("write", 0), lambda *i: (*i[:-1], i[-1] // n, i[-1] % n))
        else:
            raise ValueError(what)


NAMES = (
    ["split"] * 4 + ["fuse"] * 2 + ["reorder"] * 3 + ["vectorize"] * 2 + ["unroll", "parallel"]
    + ["compute_at"] * 2 + ["reverse_compute_at"] * 3 + ["compute_inline", "reverse_compute_inline"]
    + ["cache_read", "cache_write", "rolling_buffer", "rfactor", "loop_partition", "transform_layout"]
)


def any_step(s, r, without):
    blocks = [s.get(b).name_hint for b in s.get_child_blocks(s.get_sblock("root"))]
    what, block = r.choice([n for n in NAMES if n not in without]), r.choice(blocks)
    loops = s.get_loops(s.get_sblock(block))
    n = len(loops)
    loop = r.randrange(n) if n else 0
    if what in ("compute_at", "reverse_compute_at"):
        other = r.choice(blocks)
        m = len(s.get_loops(s.get_sblock(other)))
        return Step(what, block, other, r.randrange(m) if m else 0)
    if what == "split":
        return Step(what, block, loop, r.choice([2, 3, 4, 5, 8]), r.random() < 0.8)
    if what == "reorder":
        order = r.sample(range(n), n) if n else []
        return Step(what, block, order)
    if what in ("cache_read", "cache_write"):
        return Step(what, block, r.randrange(2) if what == "cache_read" else 0)
    if what == "rfactor":
        return Step(what, block, loop, r.randrange(2))
    if what == "transform_layout" and s.get(s.get_sblock(block)).writes[0].buffer.name.startswith("p"):
        # The layout of a parameter is its caller's.
        what = "compute_inline"
    if what in ("loop_partition", "transform_layout"):
        return Step(what, block, *([loop] if what == "loop_partition" else []), r.choice([1, 2, 3, 4]))
    return Step(what, block, *([loop] if what in ("fuse", "vectorize", "unroll", "parallel") else []))


def ran(module, arrays):
    """What a program leaves that differs from what the interpreter did: nothing, or a line."""
    import tvm

    f = tvm.compile(module, target="llvm")
    given = [tvm.runtime.tensor(np.array(before)) for before, _ in arrays]
    f["main"](*given)
    for k, (t, (_, after)) in enumerate(zip(given, arrays)):
        got = t.numpy()
        whole = np.issubdtype(got.dtype, np.integer)
        close = got == after if whole else np.isclose(got, after, rtol=1e-5, atol=1e-6, equal_nan=True)
        if not np.all(close):
            at = tuple(int(i) for i in np.argwhere(~np.asarray(close))[0])
            return f"argument {k} at {at}: {got[at]}, not {after[at]}"
    return None


def judge(function, steps, arrays):
    """What comes of steps: a kind of finding and a line, or nothing; and the steps that were accepted."""
    import tvm

    s, done = tvm.s_tir.Schedule(function), []
    for step in steps:
        try:
            step.apply(s)
            done.append(step)
        except Exception as e:
            if refused(e):
                continue
            return "fails", first(str(e)), [*done, step]
    try:
        said = ran(s.mod, arrays)
    except Exception as e:
        return (None, "", done) if refused(e) else ("builds", first(str(e)), done)
    return ("values", said, done) if said else (None, "", done)


def refused(e):
    import tvm

    kinds = (tvm.s_tir.ScheduleError, ValueError, TypeError, IndexError)
    return isinstance(e, kinds) or any(r in str(e) for r in REFUSALS)


def first(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wanted = [line for line in lines if "Check failed" in line or "Error" in line]
    return (wanted or lines or ["nothing said"])[0][:300]


def smaller(function, steps, arrays, kind):
    """Fewer steps that show the same."""
    again = True
    while again:
        again = False
        for i in range(len(steps)):
            fewer = steps[:i] + steps[i + 1 :]
            if judge(function, fewer, arrays)[0] == kind:
                steps, again = fewer, True
                break
    return steps


def work(folder, seed, start, without):
    """Runs the cases of a folder from one on; tells each before it is run, and what is found."""
    tell = lambda **line: print(json.dumps(line), flush=True)
    for n in range(start, CASES):
        if not (folder / f"{n}.py").exists():
            break
        tell(begin=n, steps=[])
        text, arrays = load(folder, str(n))
        try:
            function = parse(text)
        except BaseException as e:
            tell(unread=first(str(e)), case=n)
            continue
        r = random.Random(seed * 1000 + n)
        kind, said, _ = judge(function, [], arrays)
        if kind:
            tell(found=kind, case=n, steps=[], said=said)
            continue
        accepted = 0
        for _ in range(SCHEDULES):
            import tvm

            s, steps = tvm.s_tir.Schedule(function), []
            for _ in range(STEPS):
                step = None
                try:
                    step = any_step(s, r, without)
                    tell(begin=n, steps=[t.to_json() for t in [*steps, step]])
                    step.apply(s)
                    steps.append(step)
                except Exception as e:
                    if step is not None and not refused(e):
                        few = smaller(function, [*steps, step], arrays, "fails")
                        tell(found="fails", case=n, steps=[t.to_json() for t in few], said=first(str(e)))
            accepted += len(steps)
            kind, said, done = judge(function, steps, arrays)
            if kind:
                few = smaller(function, done, arrays, kind)
                _, said, _ = judge(function, few, arrays)
                tell(found=kind, case=n, steps=[t.to_json() for t in few], said=said)
        tell(done=n, accepted=accepted)


class Run:
    """What was counted and found."""

    def __init__(self, folder):
        self.folder, self.counts, self.found, self.unread = folder, {"programs": 0, "schedules": 0, "steps": 0}, {}, {}

    def keep(self, cases, kind, case, steps, said):
        key = f"{kind} {'-'.join(sorted({s[0] for s in steps})) or 'as it is'}"
        entry = self.found.setdefault(key, {"times": 0, "said": said, "shown": []})
        entry["times"] += 1
        if len(entry["shown"]) >= KEPT:
            return
        number = 1 + sum(len(e["shown"]) for e in self.found.values())
        to = self.folder / f"{kind}-{number}"
        to.mkdir(parents=True, exist_ok=True)
        for file in cases.glob(f"{case}.*"):
            shutil.copy(file, to / f"case{file.name[len(str(case)):]}")
        (to / "steps.json").write_text(json.dumps({"kind": kind, "said": said, "steps": steps}, indent=1))
        entry["shown"].append(to.name)
        print(f"found {to.name}: {key}: {said}", flush=True)


def batch(run, cases, seed, end, without):
    """The cases of a folder, in processes of their own."""
    start = 0
    while start < CASES and time.monotonic() < end:
        command = [sys.executable, __file__, "--work", str(cases), "--seed", str(seed), "--start", str(start)]
        command += [w for name in without for w in ("--without", name)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        begun, finished = (start, []), False
        for line in streamed(child):
            if line is None:
                finished = True
                break
            if time.monotonic() > end:
                child.kill()
                child.wait()
                return
            told = json.loads(line)
            if "begin" in told:
                begun = (told["begin"], told["steps"])
            elif "found" in told:
                run.keep(cases, told["found"], told["case"], told["steps"], told["said"])
            elif "unread" in told:
                run.unread[told["unread"]] = run.unread.get(told["unread"], 0) + 1
            else:
                run.counts["programs"] += 1
                run.counts["schedules"] += SCHEDULES
                run.counts["steps"] += told["accepted"]
        if not finished:
            child.kill()
        if child.wait() == 0:
            return
        run.keep(cases, "stops", begun[0], begun[1], f"the process ended with {child.returncode}")
        start = begun[0] + 1


def streamed(child):
    """The lines of a process; it ends without None where one does not come."""
    lines = queue.Queue()

    def read():
        for line in child.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=ENDLESS)
        except queue.Empty:
            return
        yield line
        if line is None:
            return


def hunt(a):
    a.folder.mkdir(parents=True, exist_ok=True)
    run, began, seed = Run(a.folder), time.monotonic(), a.seed
    end = began + a.time
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory() as cases:
            made = subprocess.run(
                [a.generator.resolve(), cases, "--cases", str(CASES), "--seed", str(seed)], cwd=ROOT, capture_output=True, text=True
            )
            if made.returncode != 0:
                sys.exit(made.stderr.strip())
            batch(run, Path(cases), seed, end, a.without)
        seed += 1
        minutes = (time.monotonic() - began) / 60
        print(f"{minutes:.1f} min: {run.counts}, {sum(e['times'] for e in run.found.values())} findings", flush=True)
    report = {"seconds": time.monotonic() - began, **run.counts, "found": run.found, "unread": run.unread}
    part = a.folder / "report.json.part"
    part.write_text(json.dumps(report, indent=1))
    part.rename(a.folder / "report.json")
    for key, e in sorted(run.found.items(), key=lambda e: -e[1]["times"]):
        print(f"{e['times']:5} {key}: {e['said']}")
    if run.unread:
        print(f"{sum(run.unread.values())} scripts were not read: {max(run.unread, key=run.unread.get)}")


def replay(folder):
    told = json.loads((folder / "steps.json").read_text())
    text, arrays = load(folder, "case")
    function = parse(text)
    print(function)
    kind, said, done = judge(function, [Step(*s) for s in told["steps"]], arrays)
    for s in done:
        print(" ".join(map(str, s.to_json())))
    print(f"{kind}: {said}" if kind else "nothing differs")
    return 1 if kind else 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--generator", type=Path, default=ROOT / "target/release/examples/tvm", help="what writes cases")
    p.add_argument("--time", type=float, default=600, help="seconds")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--folder", type=Path, default=Path("tvm-findings"), help="where findings and the report go")
    p.add_argument("--without", action="append", default=[], help="a primitive that is left out, such as one that ends the process")
    p.add_argument("--replay", type=Path, help="a finding to show again")
    p.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    a = p.parse_args()
    try:
        done = run_as_told(a)
    except OSError as e:
        done = f"tvm_fuzz: {e}"
    sys.exit(done)


def run_as_told(a):
    if a.work:
        work(a.work, a.seed, a.start, a.without)
    elif a.replay:
        return replay(a.replay)
    else:
        hunt(a)
    return 0


if __name__ == "__main__":
    main()

"""Does it help to change programs and what is done to them together? Coverage over time of the fuzzer's modes: joint mutation against
programs only, passes only, and bytes, which is plain libFuzzer. All modes run the same instrumented program over the same first
cases for the same time, which is that of the processor (`lathe fuzz --processor-time`), so that other work on the machine changes little.

    python modes.py --lathe ../../target/release/lathe --output modes --seconds 1800 --seeds 1,2,3,4,5

Each run leaves a small file in the folder, with the commit of the code, and its findings' cases in a folder of its own beside that
(which git ignores here). It is not run again: after an interruption the same command goes on with the run that was interrupted, from its
beginning. The seeds are completed one after the other, and `--pause N` ends after N runs,
so that ten hours can be done in pieces; the runs of one seed are of one commit. `--table` runs nothing. It writes `modes.json` and
`modes.svg` into the folder and prints a table of the seeds that are complete: edges at a third of the time and at its end, and for
how many seeds joint mutation is ahead of each other mode, at these times and at the same number of runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MODES = {"joint": "#0072b2", "programs": "#d55e00", "passes": "#009e73", "bytes": "#999999"}


def kept(a, mode, seed):
    """The outcome of a run that is done, where one of this length lies in the folder."""
    path = a.output / f"{mode}-{seed}.json"
    outcome = json.loads(path.read_text()) if path.exists() else None
    return outcome if outcome and outcome["asked"] == a.seconds else None


def commit(sources):
    """The code that is run, which must be a commit."""
    said = lambda *words: subprocess.run(["git", "-C", sources, *words], capture_output=True, text=True, check=True).stdout.strip()
    changed = said("status", "--porcelain", "--untracked-files=no", "--", "crates", "fuzz", "Cargo.toml", "Cargo.lock")
    if changed:
        raise SystemExit(f"{sources} has changes that are in no commit:\n{changed}")
    return said("rev-parse", "HEAD")


def run(a, mode, seed, code):
    """Runs one mode with one seed to its end, and keeps its outcome."""
    with tempfile.TemporaryDirectory(dir=a.scratch) as folder:
        command = [a.lathe, "fuzz", "--processor-time", "--mode", mode, "--seed", str(seed), "--time", str(a.seconds), "--json"]
        command += ["--output", folder, "--sources", str(a.sources)]
        done = subprocess.run(command, capture_output=True, text=True)
        outcome = json.loads(done.stdout) if done.stdout.strip() else {"seconds": 0.0}
        if outcome["seconds"] < a.seconds - 1:
            raise SystemExit(f"{' '.join(command)} did not run to its end: {done.stderr.strip()[-2000:]}")
        cases = a.output / f"{mode}-{seed}"
        cases.mkdir(exist_ok=True)
        for i, found in enumerate(outcome["findings"]):
            (cases / f"{i}.txt").write_text(Path(found.pop("file")).read_text())
    points = rising(outcome["coverage"])
    if not points:
        raise SystemExit(f"{a.seconds} s are over before the first cases are judged")
    outcome["coverage"] = thin(points)
    outcome = {"mode": mode, "seed": seed, "asked": a.seconds, "commit": code, **outcome}
    part = a.output / f"{mode}-{seed}.part"
    part.write_text(json.dumps(outcome) + "\n")
    os.replace(part, a.output / f"{mode}-{seed}.json")


def fill(a, seeds):
    """Runs what is missing, until it is told to pause."""
    code = commit(a.sources)
    left = a.pause
    for seed in seeds:
        done = {mode: kept(a, mode, seed) for mode in MODES}
        if all(done.values()):
            continue
        for mode in MODES:
            if done[mode] and done[mode]["commit"] == code:
                continue
            if left == 0:
                return
            left -= 1
            print(f"seed {seed}, {mode}", file=sys.stderr, flush=True)
            run(a, mode, seed, code)


def rising(coverage):
    """Seconds, runs and edges. The last two begin anew where compiled code ended the process: all runs, and the most edges so far."""
    most, before, last, out = 0, 0, 0, []
    for seconds, runs, edges in coverage:
        if runs < last:
            before += last
        last, most = runs, max(most, edges)
        out.append((round(seconds, 2), before + runs, most))
    return out


def thin(points):
    """The last point of each five seconds: some hundreds."""
    return list({int(p[0] // 5): p for p in points}.values())


def at(outcome, most, by="seconds"):
    """Edges of an outcome when so many seconds, or runs, were over."""
    place = 0 if by == "seconds" else 1
    return max((point[2] for point in outcome["coverage"] if point[place] <= most), default=0)


def ahead(runs, other, edges):
    """For how many seeds joint mutation has more edges than another mode, and of how many; `edges` says which of an outcome's."""
    seeds = sorted({seed for _, seed in runs})
    return sum(edges(runs["joint", s]) > edges(runs[other, s]) for s in seeds), len(seeds)


def picture(runs, seconds):
    """All curves, as SVG: one line a run, a colour a mode. What all reach at once is left out below."""
    width, height, left, top = 720.0, 400.0, 70.0, 20.0
    curves = {key: o["coverage"] for key, o in runs.items()}
    ends = [edges for c in curves.values() for *_, edges in c]
    low, high = min(c[0][2] for c in curves.values() if c), max(ends)
    x = lambda s: left + width * min(s / seconds, 1.0)
    y = lambda e: top + height * (1.0 - (e - low) / max(high - low, 1))
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 100} {top + height + 50}" font-family="sans-serif" font-size="12">']
    for i in range(5):
        e, s = low + (high - low) * i / 4, seconds * i / 4
        out.append(f'<line x1="{left}" x2="{left + width}" y1="{y(e):.1f}" y2="{y(e):.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{y(e) + 4:.1f}" text-anchor="end">{e:.0f}</text>')
        out.append(f'<text x="{x(s):.1f}" y="{top + height + 20}" text-anchor="middle">{s:.0f} s</text>')
    for (mode, _), curve in curves.items():
        points = " ".join(f"{x(s):.1f},{y(e):.1f}" for s, _, e in curve + [(seconds, 0, curve[-1][2])] if e >= low)
        out.append(f'<polyline fill="none" stroke="{MODES[mode]}" stroke-width="1.5" points="{points}"/>')
    for i, (mode, colour) in enumerate(MODES.items()):
        out.append(f'<text x="{left + width + 10}" y="{top + 20 + 18 * i}" fill="{colour}">{mode}</text>')
    out.append(f'<text x="{left}" y="{top + height + 42}">edges reached over seconds of the processor; one line a seed</text></svg>')
    return "\n".join(out) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lathe")
    p.add_argument("--output", type=Path, required=True, help="the folder of the runs")
    p.add_argument("--seconds", type=int, default=1800, help="of each run")
    p.add_argument("--seeds", default="1,2,3,4,5")
    p.add_argument("--pause", type=int, default=-1, help="end after so many runs")
    p.add_argument("--table", action="store_true", help="run nothing; the table of what is there")
    p.add_argument("--scratch", type=Path, help="where cases of a run go meanwhile")
    p.add_argument("--sources", type=Path, default=Path(__file__).resolve().parents[2])
    a = p.parse_args()
    if not a.table and not a.lathe:
        p.error("--lathe is needed to run something")
    a.output.mkdir(parents=True, exist_ok=True)
    wanted = [int(s) for s in a.seeds.split(",")]
    if not a.table:
        a.lathe = str(Path(a.lathe).resolve())
        fill(a, wanted)
    runs = {(mode, s): kept(a, mode, s) for s in wanted for mode in MODES}
    seeds = [s for s in wanted if all(runs[mode, s] for mode in MODES)]
    runs = {(mode, s): o for (mode, s), o in runs.items() if s in seeds}
    if not seeds:
        raise SystemExit("no seed is complete")
    commits = [sorted({runs[mode, s]["commit"] for mode in MODES}) for s in seeds]
    if any(len(c) > 1 for c in commits):
        raise SystemExit(f"runs of one seed are of several commits: {dict(zip(seeds, commits))}")
    print("seeds " + ", ".join(f"{s} ({c[:12]})" for s, [c] in zip(seeds, commits)) + f", {a.seconds} s of the processor each")
    marks = [a.seconds / 3, a.seconds]
    result = {"seconds": a.seconds, "seeds": seeds, "commits": [c for [c] in commits], "modes": {}, "joint_ahead": {}}
    print(f"{'mode':9} {'cases':>9} {'findings':>9}" + "".join(f"  edges at {m:.0f} s, each seed" .ljust(44) for m in marks))
    for mode in MODES:
        own = [runs[mode, s] for s in seeds]
        edges = [[at(o, m) for o in own] for m in marks]
        cases, findings = statistics.median(o["cases"] for o in own), sum(len(o["findings"]) for o in own)
        result["modes"][mode] = {
            "edges": {f"{m:.0f}": e for m, e in zip(marks, edges)},
            "cases": [o["cases"] for o in own],
            "findings": [f for o in own for f in o["findings"]],
            "seconds": [round(o["seconds"], 1) for o in own],
        }
        print(f"{mode:9} {cases:9.0f} {findings:9}" + "".join(("  " + " ".join(map(str, e))).ljust(44) for e in edges))
    for other in [m for m in MODES if m != "joint"]:
        counts = {f"{m:.0f}": ahead(runs, other, lambda o: at(o, m)) for m in marks}
        result["joint_ahead"][other] = counts
        print(f"joint ahead of {other}: " + ", ".join(f"{n} of {of} at {m} s" for m, (n, of) in counts.items()))
    # Of the same number of runs, which a busy machine does not change: of bytes most are no cases, so these are left out.
    compared = [mode for mode in MODES if mode != "bytes"]
    fewest = {s: min(runs[mode, s]["coverage"][-1][1] for mode in compared) for s in seeds}
    equal = lambda o: at(o, fewest[o["seed"]], by="runs")
    print("at equal runs: " + " ".join(map(str, fewest.values())))
    result["at_equal_runs"] = {"runs": fewest, "edges": {m: [equal(runs[m, s]) for s in seeds] for m in compared}, "joint_ahead": {}}
    for mode in compared:
        print(f"{mode:9} " + " ".join(map(str, result["at_equal_runs"]["edges"][mode])))
    for other in compared[1:]:
        n, of = ahead(runs, other, equal)
        result["at_equal_runs"]["joint_ahead"][other] = [n, of]
        print(f"joint ahead of {other}: {n} of {of} at equal runs")
    (a.output / "modes.json").write_text(json.dumps(result, indent=1))
    (a.output / "modes.svg").write_text(picture(runs, a.seconds))


if __name__ == "__main__":
    main()

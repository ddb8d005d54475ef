"""Does it help to change programs and what is done to them together? Coverage over time of the fuzzer's modes: joint mutation against
programs only, passes only, and bytes, which is plain libFuzzer. All modes run the same instrumented program over the same first
cases with the same time, so that edges are those of one binary.

    python modes.py --lathe ../../target/release/lathe --output runs --seconds 1800 --seeds 1,2,3,4,5

Runs that are done lie in the folder and are not run again: after an interruption the same command goes on. It writes
`modes.json` and `modes.svg` there and prints a table: edges at a third of the time and at its end, and for how many seeds joint
mutation is ahead of each other mode, at these times and at the same number of runs.
"""

import argparse
import json
import os
import statistics
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MODES = {"joint": "#0072b2", "programs": "#d55e00", "passes": "#009e73", "bytes": "#999999"}


def run(a, mode, seed):
    """The outcome of one run: that of before, where there is one of the same length."""
    kept = a.output / f"{mode}-{seed}.json"
    if kept.exists():
        outcome = json.loads(kept.read_text())
        if outcome["asked"] == a.seconds:
            return outcome
    folder = a.output / f"{mode}-{seed}"
    # What an interrupted run left would be a head start.
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    command = [a.lathe, "fuzz", "--mode", mode, "--seed", str(seed), "--time", str(a.seconds), "--json"]
    command += ["--output", str(folder), "--sources", str(a.sources)]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout.strip():
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
    outcome = dict(json.loads(done.stdout), asked=a.seconds, mode=mode, seed=seed)
    part = kept.with_suffix(".part")
    part.write_text(json.dumps(outcome))
    os.replace(part, kept)
    return outcome


def rising(outcome):
    """Seconds, runs and edges. The last two begin anew where compiled code ended the process: all runs, and the most edges so far."""
    most, before, last, out = 0, 0, 0, []
    for seconds, runs, edges in outcome["coverage"]:
        if runs < last:
            before += last
        last, most = runs, max(most, edges)
        out.append((seconds, before + runs, most))
    return out


def at(outcome, most, by="seconds"):
    """Edges when so many seconds, or runs, were over."""
    place = 0 if by == "seconds" else 1
    return max((point[2] for point in rising(outcome) if point[place] <= most), default=0)


def ahead(runs, most, other, by="seconds"):
    seeds = sorted({seed for _, seed in runs})
    return sum(at(runs["joint", s], most, by) > at(runs[other, s], most, by) for s in seeds), len(seeds)


def picture(runs, seconds):
    """All curves, as SVG: one line a run, a colour a mode. What all reach at once is left out below."""
    width, height, left, top = 720.0, 400.0, 70.0, 20.0
    curves = {key: rising(o) for key, o in runs.items()}
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
    out.append(f'<text x="{left}" y="{top + height + 42}">edges reached over time; one line a seed</text></svg>')
    return "\n".join(out) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lathe", required=True)
    p.add_argument("--output", type=Path, required=True, help="the folder of the runs")
    p.add_argument("--seconds", type=int, default=1800, help="of each run")
    p.add_argument("--seeds", default="1,2,3,4,5")
    p.add_argument("--jobs", type=int, default=1, help="runs at once, each on a processor: no more than there are")
    p.add_argument("--sources", type=Path, default=Path(__file__).resolve().parents[2])
    a = p.parse_args()
    a.lathe, a.output = str(Path(a.lathe).resolve()), a.output.resolve()
    a.output.mkdir(parents=True, exist_ok=True)
    seeds = [int(s) for s in a.seeds.split(",")]
    # Seed by seed, so that what is there after an interruption can be compared.
    todo = [(mode, seed) for seed in seeds for mode in MODES]
    with ThreadPoolExecutor(a.jobs) as pool:
        runs = dict(zip(todo, pool.map(lambda key: run(a, *key), todo)))
    marks = [a.seconds / 3, a.seconds]
    result = {"seconds": a.seconds, "seeds": seeds, "modes": {}, "joint_ahead": {}}
    print(f"{'mode':9} {'cases':>9} {'findings':>9}" + "".join(f"  edges at {m:.0f} s, each seed" .ljust(44) for m in marks))
    for mode in MODES:
        own = [runs[mode, s] for s in seeds]
        edges = [[at(o, m) for o in own] for m in marks]
        cases, findings = statistics.median(o["cases"] for o in own), sum(len(o["findings"]) for o in own)
        result["modes"][mode] = {
            "edges": {f"{m:.0f}": e for m, e in zip(marks, edges)},
            "cases": [o["cases"] for o in own],
            "findings": [f for o in own for f in o["findings"]],
            "coverage": [rising(o) for o in own],
        }
        print(f"{mode:9} {cases:9.0f} {findings:9}" + "".join(("  " + " ".join(map(str, e))).ljust(44) for e in edges))
    for other in [m for m in MODES if m != "joint"]:
        counts = {f"{m:.0f}": ahead(runs, m, other) for m in marks}
        result["joint_ahead"][other] = counts
        print(f"joint ahead of {other}: " + ", ".join(f"{n} of {of} at {m} s" for m, (n, of) in counts.items()))
    # Of the same number of runs, which a busy machine does not change: of bytes most are no cases, so these are left out.
    fewest = min(rising(runs[mode, s])[-1][1] for mode in MODES if mode != "bytes" for s in seeds)
    result["at_equal_runs"] = {"runs": fewest, "joint_ahead": {}}
    for other in ["programs", "passes"]:
        n, of = ahead(runs, fewest, other, by="runs")
        result["at_equal_runs"]["joint_ahead"][other] = [n, of]
        print(f"joint ahead of {other}: {n} of {of} at {fewest} runs of each")
    (a.output / "modes.json").write_text(json.dumps(result, indent=1))
    (a.output / "modes.svg").write_text(picture(runs, a.seconds))


if __name__ == "__main__":
    main()

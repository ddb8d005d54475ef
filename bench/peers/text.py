"""Writes 16,000 tokens of English for the perplexity tests, from the documentation of the pinned peers.

    python text.py MODEL.gguf OUT.json [--text OUT.txt]

OUT.json is a list of token ids, OUT.txt the text. The paragraphs are the prose of the doc strings of numpy and torch,
whose exact versions requirements.txt names, so everybody gets the same text: its checksum is compared.
"""

import argparse
import ast
import hashlib
import importlib.util
import inspect
import json
import re
from pathlib import Path

import gguf_tokenizer

TOKENS = 16000
SHA256 = "f6a7956c862f4b3a532820d5bb4fabc729b155e4818fd3119280b287fa09a701"
FILES = [
    "numpy/linalg/_linalg.py",
    "numpy/lib/_function_base_impl.py",
    "numpy/_core/fromnumeric.py",
    "torch/nn/modules/module.py",
    "torch/autograd/function.py",
    "torch/distributed/distributed_c10d.py",
    "torch/nn/parallel/distributed.py",
    "torch/utils/data/dataloader.py",
    "torch/utils/checkpoint.py",
]
SENTENCE = re.compile(r"[A-Z][^|`<>{}\[\]=]*[.:]")


def doc_strings(path):
    """The doc strings of a source file, in its order; the file is read, never run."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [n for n in ast.walk(tree) if isinstance(n, kinds)]
    for node in sorted(nodes, key=lambda n: getattr(n, "lineno", 0)):
        yield inspect.cleandoc(ast.get_docstring(node) or "")


def paragraphs(doc):
    """The paragraphs that are prose: whole sentences without code or tables, without line breaks inside."""
    for part in re.split(r"\n\s*\n", doc):
        text = re.sub(r":\w+:`~?([^`]*)`", r"\1", part)
        text = re.sub(r"``?([^`]*)``?", r"\1", text)
        text = " ".join(text.split())
        if len(text) > 120 and "---" not in text and SENTENCE.fullmatch(text):
            yield text


def text():
    seen = {}
    for name in FILES:
        package, _, rest = name.partition("/")
        root = Path(importlib.util.find_spec(package).origin).parent
        for doc in doc_strings(root / rest):
            seen.update(dict.fromkeys(paragraphs(doc)))
    return "\n\n".join(seen) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the GGUF file whose tokenizer cuts the text")
    parser.add_argument("output")
    parser.add_argument("--text")
    args = parser.parse_args()
    whole = text()
    encoding = gguf_tokenizer.from_gguf(args.model).encode(whole)
    if len(encoding.ids) < TOKENS:
        parser.error(f"the text has only {len(encoding.ids)} tokens")
    whole = whole[: encoding.offsets[TOKENS - 1][1]]
    digest = hashlib.sha256(whole.encode()).hexdigest()
    if digest != SHA256:
        parser.error(f"the text has the checksum {digest}; install the versions of requirements.txt")
    if args.text:
        Path(args.text).write_text(whole, encoding="utf-8")
    Path(args.output).write_text(json.dumps(encoding.ids[:TOKENS]), encoding="utf-8")


if __name__ == "__main__":
    main()

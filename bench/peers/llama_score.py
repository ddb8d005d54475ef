"""llama.cpp's log-probabilities of the tokens of a text, as `reference.py score` has them of the f32 reference.

    python llama_score.py MODEL.gguf IDS.json OUT.json [--context 2048] [--threads 1] [--save-log-softmax F.npy]

Compare two saved arrays with `accuracy.py divergence`.
"""

import argparse
import json
import math

import llama_cpp
import numpy as np


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def score(path, ids, context, threads, save):
    options = dict(n_ctx=context, n_threads=threads, n_threads_batch=threads, logits_all=True, verbose=False)
    model = llama_cpp.Llama(path, **options)
    pieces = [ids[i : i + context] for i in range(0, len(ids), context)]
    pieces = [p for p in pieces if len(p) > 1]
    total = sum(len(p) - 1 for p in pieces)
    table = np.lib.format.open_memmap(save, "w+", np.float16, (total, model.n_vocab())) if save else None
    found = []
    for piece in pieces:
        model.reset()
        model.eval(piece)
        for at in range(0, len(piece) - 1, 256):
            wanted = piece[at + 1 : at + 257]
            logs = log_softmax(model.scores[at : at + len(wanted)].astype(np.float32))
            if table is not None:
                table[len(found) : len(found) + len(logs)] = logs.astype(np.float16)
            found += logs[np.arange(len(wanted)), wanted].tolist()
        print(f"{len(found)} of {total} tokens, perplexity {math.exp(-sum(found) / len(found)):.4f}", flush=True)
    nll = -sum(found) / len(found)
    return {"mean_nll": nll, "perplexity": math.exp(nll), "tokens": len(found), "log_probabilities": found}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("ids")
    parser.add_argument("output")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-log-softmax")
    args = parser.parse_args()
    with open(args.ids, encoding="utf-8") as f:
        ids = json.load(f)
    result = score(args.model, ids, args.context, args.threads, args.save_log_softmax)
    with open(args.output, "w", encoding="utf-8") as f:
        json.dump(result, f)


if __name__ == "__main__":
    main()

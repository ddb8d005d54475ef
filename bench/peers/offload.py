"""Decodes with llama.cpp, memory-mapped, some sequences at once: beside `lathe bench model --memory` in the same memory group.

    python offload.py MODEL.gguf [--kv f16|q4_0] [--batch 1] [--prompt 128] [--generate 8] [--unified]

Put it into a control group with a memory limit (write its process id to the group's `cgroup.procs`, or start it from a shell that is
there), drop the page cache before, and take turns with lathe in the same group. One prompt is computed, and copied to all sequences;
with `--unified` all sequences share one cache, which takes less memory and more arithmetic, and each prompt is computed. Prints
tokens a second of all sequences together over steps that decode one token of each, one JSON object.
"""

import argparse
import json
import time

import llama_cpp as l


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--kv", default="f16", choices=["f16", "q4_0"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--unified", action="store_true")
    a = parser.parse_args()
    quiet = l.llama_log_callback(lambda *_: None)
    l.llama_log_set(quiet, None)
    l.llama_backend_init()
    model = l.llama_model_load_from_file(a.model.encode(), l.llama_model_default_params())
    p = l.llama_context_default_params()
    p.n_seq_max, p.kv_unified = a.batch, a.unified
    p.n_ctx = a.batch * (a.prompt + a.generate + 1)
    p.n_threads = p.n_threads_batch = a.threads
    if a.kv == "q4_0":
        p.type_k = p.type_v = l.GGML_TYPE_Q4_0
    context = l.llama_init_from_model(model, p)
    if not context:
        raise SystemExit("no context can be made")
    memory = l.llama_get_memory(context)
    most = p.n_batch
    batch = l.llama_batch_init(most, 0, 1)

    def step(tokens):
        """Computes (token, position, sequence, whether logits are wanted)."""
        for first in range(0, len(tokens), most):
            part = tokens[first : first + most]
            batch.n_tokens = len(part)
            for i, (token, position, sequence, wanted) in enumerate(part):
                batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            if l.llama_decode(context, batch):
                raise SystemExit("a step failed")

    token = lambda sequence, i: (sequence * 131 + i * 7) % 40000 + 10
    start = time.perf_counter()
    for sequence in range(a.batch):
        if sequence and not a.unified:
            l.llama_memory_seq_cp(memory, 0, sequence, -1, -1)
        else:
            step([(token(sequence, i), i, sequence, i == a.prompt - 1) for i in range(a.prompt)])
    prefill = time.perf_counter() - start
    times = []
    # The first step also copies what was asked for above.
    for i in range(a.generate + 1):
        start = time.perf_counter()
        step([(token(s, a.prompt + i), a.prompt + i, s, True) for s in range(a.batch)])
        times.append(time.perf_counter() - start)
    rate = a.batch * a.generate / sum(times[1:])
    told = {"batch": a.batch, "kv": a.kv, "unified": a.unified, "decode_tokens_per_s": rate, "prefill_s": prefill}
    print(json.dumps(told))


main()

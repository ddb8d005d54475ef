"""Decodes with llama.cpp, memory-mapped, some sequences at once: beside `lathe bench model --memory` in the same memory group.

    python offload.py MODEL.gguf [--kv f16|q4_0] [--batch 1] [--prompt 128] [--generate 8]

Wants `pip install xllamacpp==2026.10.11549`. Put it into a control group with a memory limit (write its process id to the group's
`tasks` or `cgroup.procs`), drop the page cache before, and take turns with lathe in the same group. Prints tokens a second of
all sequences together in the steady state, one JSON object.
"""

import argparse
import json
import threading

import xllamacpp


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--kv", default="f16", choices=["f16", "q4_0"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    p = xllamacpp.CommonParams()
    p.model.path, p.n_parallel, p.n_ctx = a.model, a.batch, a.batch * (a.prompt + a.generate + 8)
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = a.threads
    p.warmup, p.fit_params, p.cache_ram_mib, p.cache_prompt, p.verbosity = False, False, 0, False, 0
    if a.kv == "q4_0":
        p.cache_type_k = p.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_Q4_0
    server, rates = xllamacpp.Server(p), []

    def one(sequence):
        prompt = [(sequence * 131 + i * 7) % 40000 + 10 for i in range(a.prompt)]
        request = {"prompt": prompt, "max_tokens": a.generate, "temperature": 0, "ignore_eos": True, "stream": False}
        server.handle_completions(request, lambda c: rates.append(c["timings"]["predicted_per_second"]))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(a.batch)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    print(json.dumps({"batch": a.batch, "kv": a.kv, "decode_tokens_per_s": sum(rates)}))


main()

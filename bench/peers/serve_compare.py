"""Compares servers under load: `lathe serve`, llama.cpp's server and vLLM's CPU build, each driven by `lathe bench serve`.

    python serve_compare.py export MODEL.gguf FOLDER
        writes the model as a folder of `transformers` in bf16 (Llama family), for vLLM.

    python serve_compare.py run MODEL.gguf [--llama-server PROGRAM] [--vllm PROGRAM --folder FOLDER]
        starts one server after the other, in turns, as often as --repetitions says, and prints medians: output tokens a second,
        time to the first token and time per output token at each concurrency, seconds until the server answered, and the most
        memory that it held. PROGRAM is `llama-server` and `vllm` of the environment where they are installed.

All get the same threads, the same sequences at once and prompts of the same random tokens; prompts have nothing in common.
"""

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from urllib.error import URLError


def export(a):
    import gguf_tokenizer
    import reference
    import torch
    from transformers import PreTrainedTokenizerFast

    reference.load(a.model).to(torch.bfloat16).save_pretrained(a.folder)
    PreTrainedTokenizerFast(tokenizer_object=gguf_tokenizer.from_gguf(a.model)).save_pretrained(a.folder)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def commands(a):
    """How each peer is started: its name, and the command and environment for a port."""
    most, length = max(a.concurrency), a.input + a.output + 16
    threads = str(a.threads)
    peers = {
        "lathe": lambda port: (
            [a.lathe, "serve", "--model", a.model, "--threads", threads, "--port", port]
            + ["--max-sequences", str(most), "--cache-tokens", str(most * length), *a.lathe_options],
            {},
        )
    }
    if a.llama_server:
        # Each of its slots has an equal part of the context.
        peers["llama.cpp"] = lambda port: (
            [a.llama_server, "-m", a.model, "-t", threads, "-tb", threads, "--port", port, "-ngl", "0"]
            + ["-np", str(most), "-c", str(most * length), "--no-webui"],
            {},
        )
    if a.vllm:
        peers["vllm"] = lambda port: (
            [a.vllm, "serve", a.folder, "--dtype", "bfloat16", "--port", port, "--max-num-seqs", str(most)]
            + ["--max-model-len", str(length)],
            {
                "OMP_NUM_THREADS": threads,
                "VLLM_CPU_OMP_THREADS_BIND": f"0-{a.threads - 1}",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "HF_HUB_OFFLINE": "1",
            },
        )
    return peers


def family(pid):
    """A process and its descendants."""
    pids = [pid]
    for p in pids:
        try:
            for task in os.listdir(f"/proc/{p}/task"):
                with open(f"/proc/{p}/task/{task}/children", encoding="ascii") as f:
                    pids += map(int, f.read().split())
        except OSError:
            continue
    return pids


def peak_mb(pid):
    """The most memory that a process and its descendants held, each at its own peak."""
    total = 0
    for p in family(pid):
        try:
            with open(f"/proc/{p}/status", encoding="ascii") as f:
                total += int((re.search(r"VmHWM:\s+(\d+)", f.read()) or [0, 0])[1])
        except OSError:
            continue
    return total / 1024


def answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=1) as response:
            return response.status == 200
    except (URLError, OSError):
        return False


def sample(a, name, command):
    """One start of a server, measured: seconds to start, memory, and a row for each concurrency."""
    port = str(free_port())
    line, more = command(port)
    log = open(a.log, "a", encoding="utf-8") if a.log else subprocess.DEVNULL
    start = time.monotonic()
    server = subprocess.Popen(line, env={**os.environ, **more}, stdout=log, stderr=log)
    try:
        while not answers(port):
            if server.poll() is not None:
                sys.exit(f"{name} ended: {' '.join(line)}")
            if time.monotonic() - start > a.start:
                sys.exit(f"{name} does not answer after {a.start} s")
            time.sleep(0.02)
        ready = time.monotonic() - start
        bench = [a.lathe, "bench", "serve", "--url", f"http://127.0.0.1:{port}", "--json"]
        bench += ["--concurrency", ",".join(map(str, a.concurrency))]
        bench += ["--input", str(a.input), "--output", str(a.output)]
        if a.requests:
            bench += ["--requests", str(a.requests)]
        done = subprocess.run(bench, check=True, capture_output=True, text=True)
        rows = json.loads(done.stdout)["rows"]
        for row in rows:
            if row["failed"]:
                sys.exit(f"{name} failed {row['failed']} requests: {row['error']}")
        return {"ready_s": ready, "peak_mb": peak_mb(server.pid), "rows": rows}
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def run(a):
    peers = commands(a)
    samples = {name: [] for name in peers}
    for _ in range(a.repetitions):
        for name, command in peers.items():
            samples[name].append(sample(a, name, command))
            print(f"{name}: {[round(r['output_tokens_per_s'], 1) for r in samples[name][-1]['rows']]}", file=sys.stderr)
    table = {}
    for name, all_of in samples.items():
        middle = lambda get: statistics.median(get(s) for s in all_of)
        rows = []
        for i, concurrency in enumerate(a.concurrency):
            of = lambda get: middle(lambda s: get(s["rows"][i]))
            rows.append({
                "concurrency": concurrency,
                "output_tokens_per_s": of(lambda r: r["output_tokens_per_s"]),
                "first_token_p50_ms": 1e3 * of(lambda r: r["time_to_first_token"]["p50_s"]),
                "per_token_p50_ms": 1e3 * of(lambda r: r["time_per_output_token"]["p50_s"]),
                "per_token_p99_ms": 1e3 * of(lambda r: r["time_per_output_token"]["p99_s"]),
            })
        table[name] = {"ready_s": middle(lambda s: s["ready_s"]), "peak_mb": middle(lambda s: s["peak_mb"]), "rows": rows}
    print(f"{'server':10} {'at once':>7} {'output tok/s':>12} {'first token ms':>14} {'per token p50, p99 ms':>22} {'ready s':>8} {'MB':>7}")
    for name, t in table.items():
        for r in t["rows"]:
            print(f"{name:10} {r['concurrency']:7} {r['output_tokens_per_s']:12.1f} {r['first_token_p50_ms']:14.1f} "
                  f"{r['per_token_p50_ms']:12.1f} {r['per_token_p99_ms']:9.1f} {t['ready_s']:8.2f} {t['peak_mb']:7.0f}")
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump({"medians": table, "samples": samples}, f, indent=1)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = p.add_subparsers(required=True)
    e = verbs.add_parser("export")
    e.add_argument("model")
    e.add_argument("folder")
    e.set_defaults(do=export)
    r = verbs.add_parser("run")
    r.add_argument("model")
    r.add_argument("--lathe", default="../../target/release/lathe")
    r.add_argument("--lathe-options", nargs="*", default=[], help="more options of lathe serve")
    r.add_argument("--llama-server")
    r.add_argument("--vllm")
    r.add_argument("--folder", help="the model as `export` wrote it")
    r.add_argument("--threads", type=int, default=os.cpu_count())
    r.add_argument("--concurrency", type=lambda s: [int(n) for n in s.split(",")], default=[1, 16, 32])
    r.add_argument("--input", type=int, default=128)
    r.add_argument("--output", type=int, default=128)
    r.add_argument("--requests", type=int, help="of each row [default: 8 times the concurrency]")
    r.add_argument("--repetitions", type=int, default=3)
    r.add_argument("--start", type=float, default=600, help="seconds that a server may take to start")
    r.add_argument("--log", help="a file for what the servers print")
    r.add_argument("--json", help="a file for all numbers")
    r.set_defaults(do=run)
    a = p.parse_args()
    a.do(a)


if __name__ == "__main__":
    main()

"""Soak: many requests of random shape, some of them cancelled, against a server; then nothing may be left behind.

    python bench/soak.py --lathe target/release/lathe --model M --requests 10000 --clients 16

starts `lathe serve` on a free port, or takes a server that runs with `--url U --pid P`. Clients send completions of random
prompts (some share beginnings, some are malformed), answers of random length, one or several of them, streamed or whole, some held
to a grammar, some searched with beams; a part goes away in the middle. At the end: every page of the cache is free or only kept for equal prefixes, no
request is in hand, the process has as many open files as before, and its memory has not grown in the second half (in the
first the cache fills). Exit code 1 says that one of these does not hold. Needs Python 3.9 and Linux, no packages.
"""

import argparse
import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--url")
    p.add_argument("--pid", type=int)
    p.add_argument("--lathe", default="target/release/lathe")
    p.add_argument("--model", default="smollm2-135m")
    p.add_argument("--requests", type=int, default=10_000)
    p.add_argument("--clients", type=int, default=16)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--growth", type=float, default=16.0, help="MB that memory may grow in the second half")
    p.add_argument("options", nargs="*", help="more options of lathe serve, behind --")
    return p.parse_args()


def started(a):
    """A server of our own on a port that the system chose."""
    command = [a.lathe, "serve", "--model", a.model, "--port", "0", *a.options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if found := re.search(r"listening on (\S+)", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, found[1]
    sys.exit("the server did not start")


def resident_mb(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


class Client(threading.Thread):
    """Sends requests until there are no more."""

    def __init__(self, soak, seed):
        super().__init__(daemon=True)
        self.soak, self.random = soak, random.Random(seed)

    def run(self):
        while self.soak.next():
            try:
                kind = self.request()
            except (OSError, http.client.HTTPException) as error:
                kind = f"broken: {type(error).__name__}"
            self.soak.count(kind)

    def body(self):
        r = self.random
        # Some prompts begin alike.
        shared = [(7 * i) % 900 + 20 for i in range(r.choice([0, 0, 16, 64, 200]))]
        body = {
            "prompt": shared + [r.randrange(20, 900) for _ in range(r.randrange(1, 120))],
            "max_tokens": int(r.expovariate(1 / 12)) + 1,
            "temperature": r.choice([0, 0.8]),
            "seed": r.randrange(1 << 30),
            "stream": r.random() < 0.5,
            "n": r.choice([1, 1, 1, 2, 4]),
        }
        if r.random() < 0.1:
            body.update(use_beam_search=True, best_of=body["n"] + r.randrange(3), stream=False)
        elif r.random() < 0.1:
            body["guided_regex"] = r.choice(["[a-z]{1,8}", "(yes|no)", "[0-9]{3}-[0-9]{4}"])
        if r.random() < 0.1:
            body["logprobs"] = 2
        if r.random() < 0.1:
            body["stop"] = ["e", "the"]
        return body

    def request(self):
        r = self.random
        if r.random() < 0.02:
            wrong = r.choice([b"{", b'{"prompt": []}', b'{"prompt": "\xff"}', b'{"prompt": [99999999]}'])
            status, _ = self.send(wrong, None)
            return "refused" if status == 400 else f"malformed, but {status}"
        # Of those that go away, some do so before their first token.
        away = r.random() * 0.2 if r.random() < 0.2 else None
        status, whole = self.send(json.dumps(self.body()).encode(), away)
        if status == 429:
            time.sleep(0.05)
            return "full"
        if status == "away":
            return "cancelled"
        return "answered" if status == 200 and whole else f"status {status}"

    def send(self, body, away):
        connection = http.client.HTTPConnection(*self.soak.address, timeout=120)
        try:
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            if away is not None:
                connection.sock.settimeout(max(away, 0.001))
            try:
                response = connection.getresponse()
                text = response.read()
            except (TimeoutError, socket.timeout):
                return "away", False
            return response.status, b"finish_reason" in text
        finally:
            connection.close()


class Soak:
    def __init__(self, a, url, pid):
        self.a, self.pid = a, pid
        parts = urlsplit(url)
        self.address = (parts.hostname, parts.port)
        self.lock, self.given, self.done, self.kinds = threading.Lock(), 0, 0, {}
        self.memory, self.begun = [], time.time()

    def engine(self):
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        connection.request("GET", "/engine")
        state = json.loads(connection.getresponse().read())
        connection.close()
        return state

    def next(self):
        with self.lock:
            self.given += 1
            return self.given <= self.a.requests

    def count(self, kind):
        with self.lock:
            self.kinds[kind] = self.kinds.get(kind, 0) + 1
            self.done += 1
            if self.done % max(self.a.requests // 20, 1) == 0:
                self.memory.append((self.done, resident_mb(self.pid)))
                print(f"{self.done:7} requests {time.time() - self.begun:7.0f} s {self.memory[-1][1]:8.1f} MB", flush=True)

    def run(self):
        files = open_files(self.pid)
        clients = [Client(self, self.a.seed * 1000 + i) for i in range(self.a.clients)]
        for c in clients:
            c.start()
        for c in clients:
            c.join()
        for _ in range(100):
            state = self.engine()
            if state["requests"] == 0 and state["pages_held"] == 0 and open_files(self.pid) <= files:
                break
            time.sleep(0.1)
        early = max(mb for done, mb in self.memory if done <= max(self.a.requests // 2, self.memory[0][0]))
        grown = self.memory[-1][1] - early
        wrong = {k: n for k, n in self.kinds.items() if k not in ("answered", "cancelled", "refused", "full")}
        checks = {
            "no page is held": state["pages_held"] == 0 and state["pages_shared"] == 0 and state["swap_pages_held"] == 0,
            "no request is left": state["requests"] == 0 and state["running"] == 0 and state["waiting"] == 0,
            "no file is left open": open_files(self.pid) <= files,
            f"memory grew by {grown:.1f} MB in the second half, at most {self.a.growth}": grown <= self.a.growth,
        }
        print(json.dumps({"requests": self.kinds, "engine": state, "memory_mb": self.memory}))
        for what, holds in checks.items():
            print("ok  " if holds else "FAIL", what)
        return all(checks.values())


def main():
    a = arguments()
    if (a.url is None) != (a.pid is None):
        sys.exit("--url and --pid go together")
    process, url = (None, a.url) if a.url else started(a)
    try:
        sound = Soak(a, url, a.pid or process.pid).run()
    finally:
        if process:
            process.terminate()
            process.wait()
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()

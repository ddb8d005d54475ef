"""A peer as a process that stays: the model is loaded once, then each line of standard input asks for one measurement.

Both sides speak JSON lines. A worker first writes {"ready": version}. A request is {"threads", "prompt", "generate"};
its answer is {"prefill", "decode", "decode_at_prompt"} in tokens per second (what a peer cannot do is left out).
"""

import json
import statistics
import subprocess
import sys
import time


def serve(version, measure):
    """The worker's side: answers requests by `measure(threads=, prompt=, generate=)` until its input ends."""
    print(json.dumps({"ready": version}), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), flush=True)


def timed(count, work):
    """Tokens per second of `work`, which makes `count` tokens."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def sample(run, seconds):
    """The median time of a run, over runs of about so many seconds."""
    times, start = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < seconds:
        t = time.perf_counter()
        run()
        times.append(time.perf_counter() - t)
    return statistics.median(times)


class Worker:
    """The harness's side of a worker."""

    def __init__(self, command):
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.process = subprocess.Popen(command, text=True, **pipes)
        self.pid = self.process.pid
        self.version = self.read()["ready"]

    def read(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"'{' '.join(self.process.args)}' ended; run it by hand to see why")

    def measure(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()

"""Answers that must be JSON of a schema: as many requests as are asked for, over `schemas.json`, each validated by `jsonschema`.

    venv/bin/python constrained.py ../../../../target/release/lathe [--requests 1000] [--streams 16] [--model M]

Starts a server of its own. Says how many answers stopped, how many of these a schema refuses, and what constraints cost: tokens a
second with and without one, at one stream and at so many. Exit code 1 if an answer that stopped is refused.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema

SCHEMAS = json.loads((Path(__file__).parent / "schemas.json").read_text())


class Server:
    def __init__(self, arguments):
        command = [arguments.lathe, "serve", "--port", "0"]
        command += ["--model", arguments.model] if arguments.model else []
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"listening on (http://\S+)", line):
                self.url = found.group(1)
                return
        sys.exit("the server did not start")

    def post(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request) as response:
            return json.load(response)


def ask(server, number):
    name = list(SCHEMAS)[number % len(SCHEMAS)]
    answer = server.post("/v1/chat/completions", {
        "messages": [{"role": "user", "content": f"Make up one {name} and write it as JSON."}],
        "response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": SCHEMAS[name], "strict": True}},
        "max_tokens": 512, "temperature": 0.7, "repetition_penalty": 1.1, "seed": number,
    })
    choice = answer["choices"][0]
    if choice["finish_reason"] != "stop":
        return name, False, None
    try:
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMAS[name], format_checker=jsonschema.FormatChecker())
    except (ValueError, jsonschema.ValidationError) as error:
        return name, True, f"{choice['message']['content']!r}: {error}"
    return name, True, None


# Any text at all: what a grammar costs that forces nothing; and a long list, as answers are.
GRAMMARS = {
    "any text": {"guided_regex": r"(.|\n)*"},
    "a list": {"guided_json": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string", "minLength": 8}, "year": {"type": "integer"}}, "required": ["name", "year"]}, "minItems": 40}},
}


def speed(server, streams, fields):
    """Tokens a second of a text that goes on."""
    body = {"prompt": "The history of the house", "max_tokens": 128, "temperature": 0.7, "ignore_eos": True, "logit_bias": {"0": -100, "2": -100}, **fields}
    start = time.time()
    with ThreadPoolExecutor(streams) as pool:
        answers = list(pool.map(lambda seed: server.post("/v1/completions", {**body, "seed": seed}), range(2 * streams)))
    return sum(a["usage"]["completion_tokens"] for a in answers) / (time.time() - start)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("lathe")
    parser.add_argument("--model")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=16)
    arguments = parser.parse_args()
    server = Server(arguments)
    try:
        with ThreadPoolExecutor(arguments.streams) as pool:
            all = list(pool.map(lambda number: ask(server, number), range(arguments.requests)))
        stopped = [wrong for _, stop, wrong in all if stop]
        for name in SCHEMAS:
            open_ended = sum(1 for n, stop, _ in all if n == name and not stop)
            print(f"{name}: {open_ended} not stopped")
        refused = [wrong for wrong in stopped if wrong]
        print(f"{len(all)} answers, {len(stopped)} stopped ({100 * len(stopped) / max(len(all), 1):.1f} %), {len(refused)} refused")
        for wrong in refused[:10]:
            print(wrong)
        for streams in (1, arguments.streams):
            for name, fields in GRAMMARS.items():
                pairs = [(speed(server, streams, {}), speed(server, streams, fields)) for _ in range(3)]
                free, bound = (statistics.median(p) for p in zip(*pairs))
                print(f"{streams} streams, {name}: {free:.0f} tokens/s free, {bound:.0f} constrained, {100 * (free / bound - 1):+.1f} % slower")
    finally:
        server.process.kill()
    sys.exit(1 if refused else 0)


if __name__ == "__main__":
    main()

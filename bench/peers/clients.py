"""The clients that people use against `lathe serve`: every endpoint and option with the official ones of OpenAI and Anthropic,
and the harnesses that drive a server of their own choice.

    python3 -m venv venv && venv/bin/pip install -r requirements-clients.txt
    venv/bin/python clients.py ../../target/release/lathe [--model M] [--embedding-model E] [--lora ADAPTER]
        [--only NAME ...] [--vllm VLLM]

Starts servers of its own, and says what each check found; exit code 1 if one failed. `lm-eval` and `guidellm` are those of the
environment; `--vllm` is the program of a vLLM that is installed elsewhere, whose serving benchmark is run then.
"""

import argparse
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
import traceback
import urllib.request

import anthropic
import httpx2
import openai
import pydantic

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class Server:
    def __init__(self, arguments):
        keys = tempfile.NamedTemporaryFile("w", suffix=".txt")
        keys.write("secret\n")
        keys.flush()
        command = [arguments.lathe, "serve", "--port", "0", "--api-keys", keys.name]
        self.model_arguments = ["--model", arguments.model] if arguments.model else []
        command += self.model_arguments
        command += ["--embedding-model", arguments.embedding_model] if arguments.embedding_model else []
        self.vllm = arguments.vllm
        self.lora = arguments.lora and os.path.abspath(arguments.lora)
        command += ["--lora", f"adapted={self.lora}", "--max-loras", "2", "--max-lora-rank", "64"] if self.lora else []
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            found = re.search(r"listening on (http://\S+)", line)
            if found:
                self.url = found.group(1)
                break
        else:
            sys.exit("the server did not start")
        keys.close()
        self.embeds = arguments.embedding_model
        self.openai = openai.OpenAI(base_url=self.url + "/v1", api_key="secret", max_retries=0)
        self.anthropic = anthropic.Anthropic(base_url=self.url, api_key="secret", max_retries=0)
        self.model = self.openai.models.list().data[0].id

    def get(self, path):
        with urllib.request.urlopen(self.url + path) as response:
            return response.read().decode()

    def post(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", "Bearer secret")
        with urllib.request.urlopen(request) as response:
            text = response.read().decode()
            return json.loads(text) if response.headers["Content-Type"].startswith("application/json") else text


DATA = Path(__file__).parent / "../../crates/lathe-models/tests/data"
TINY = DATA / "safetensors/llama-f32"
ASK = [{"role": "user", "content": "What is the capital of Japan?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@check
def models(s):
    assert s.openai.models.retrieve(s.model).id == s.model
    try:
        openai.OpenAI(base_url=s.url + "/v1", api_key="wrong", max_retries=0).models.list()
        raise AssertionError("a wrong key is taken")
    except openai.AuthenticationError:
        pass
    try:
        s.openai.completions.create(model="nonsense", prompt="x")
        raise AssertionError("a wrong model is taken")
    except openai.NotFoundError:
        pass


@check
def completion(s):
    one = s.openai.completions.create(model=s.model, prompt="The capital of France is", max_tokens=4, temperature=0)
    assert len(one.choices) == 1 and one.usage.completion_tokens <= 4, one
    many = s.openai.completions.create(
        model=s.model, prompt=["One two", "The sky"], max_tokens=3, n=2, seed=7, temperature=1.0, top_p=0.9,
        presence_penalty=0.5, frequency_penalty=0.5, logit_bias={"5": -100}, stop=["\n\n"], user="me",
    )
    assert [c.index for c in many.choices] == [0, 1, 2, 3]
    again = s.openai.completions.create(
        model=s.model, prompt=["One two", "The sky"], max_tokens=3, n=2, seed=7, temperature=1.0, top_p=0.9,
        presence_penalty=0.5, frequency_penalty=0.5, logit_bias={"5": -100}, stop=["\n\n"],
    )
    assert [c.text for c in many.choices] == [c.text for c in again.choices], "the same seed, another answer"
    best = s.openai.completions.create(model=s.model, prompt="One", max_tokens=4, n=1, best_of=4)
    assert len(best.choices) == 1


@check
def echo_and_logprobs(s):
    ids = s.post("/tokenize", {"prompt": "The capital of France is Paris"})["tokens"]
    scored = s.openai.completions.create(
        model=s.model, prompt=[ids, ids[:3]], max_tokens=1, echo=True, logprobs=1, temperature=0
    )
    first = scored.choices[0].logprobs
    assert len(first.tokens) == len(ids) + 1 and first.token_logprobs[0] is None
    assert all(value <= 0 for value in first.token_logprobs[1:])
    assert len(scored.choices[1].logprobs.tokens) == 4
    assert scored.choices[0].text.startswith("The capital of France is Paris")


@check
def choices_and_penalties(s):
    def ask(**fields):
        fields = {"max_tokens": 12, "temperature": 0, **fields}
        return s.openai.completions.create(model=s.model, prompt="The best thing about rain is", **fields)

    def ids(text):
        return s.post("/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]

    plain = ask().choices[0].text
    first = ids(plain)[0]
    assert ids(ask(logit_bias={str(first): -100}).choices[0].text)[0] != first, "a forbidden token comes"
    always = ask(logit_bias={str(first): 100}, max_tokens=4).choices[0].text
    assert ids(always) == [first] * 4, "a token that is always best does not come"
    apart = ask(logit_bias={str(first): 50}, frequency_penalty=2.0, presence_penalty=2.0, max_tokens=40).choices[0].text
    assert ids(apart).count(first) < 40, "penalties do nothing"
    cut = ask(stop=plain[5:9]).choices[0]
    assert cut.text == plain[: plain.index(plain[5:9])] and cut.finish_reason == "stop", cut
    assert ask(max_tokens=2).choices[0].finish_reason == "length"
    warm = [ask(temperature=1.5, seed=seed, n=2).choices for seed in (1, 1, 2)]
    texts = [[c.text for c in choices] for choices in warm]
    assert texts[0] == texts[1] != texts[2] and texts[0][0] != texts[0][1], texts
    # The best of several is no less likely than any that the same seed makes alone.
    many = ask(temperature=1.0, seed=3, n=4, logprobs=0).choices
    best = ask(temperature=1.0, seed=3, n=1, best_of=4, logprobs=0).choices[0]
    mean = lambda c: sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs)
    assert abs(mean(best) - max(map(mean, many))) < 1e-3, (best, many)
    assert ask(extra_body={"ignore_eos": True}, max_tokens=30).usage.completion_tokens == 30


@check
def beams(s):
    def ask(width, n=1, **fields):
        body = {"use_beam_search": True, "length_penalty": 1.0, "early_stopping": False, **fields}
        return s.openai.completions.create(
            model=s.model, prompt="The capital of France is", max_tokens=8, best_of=width, n=n, logprobs=0, temperature=0, extra_body=body
        ).choices

    total = lambda c: sum(c.logprobs.token_logprobs)
    greedy = s.openai.completions.create(model=s.model, prompt="The capital of France is", max_tokens=8, temperature=0, extra_body={"ignore_eos": True})
    one, four = ask(1, ignore_eos=True), ask(4, 4, ignore_eos=True)
    assert one[0].text == greedy.choices[0].text, (one, greedy)
    assert len({c.text for c in four}) == 4 and [total(c) for c in four] == sorted(map(total, four), reverse=True), four
    assert total(four[0]) >= total(one[0]) - 1e-3, "four beams find nothing likelier than one"
    answer = s.openai.chat.completions.create(model=s.model, messages=ASK, max_tokens=12, n=2, extra_body={"use_beam_search": True, "best_of": 3})
    assert len(answer.choices) == 2 and answer.choices[0].message.content, answer
    try:
        s.openai.completions.create(model=s.model, prompt="x", stream=True, extra_body={"use_beam_search": True})
        raise AssertionError("a search is streamed")
    except openai.BadRequestError:
        pass


@check
def tokens(s):
    text = "Rain, and 12 \u00e9clairs.\n"
    ids = s.post("/tokenize", {"prompt": text})["tokens"]
    assert s.post("/detokenize", {"tokens": ids})["prompt"] == text
    assert s.post("/tokenize", {"model": s.model, "prompt": text})["count"] == len(ids)


@check
def numbers(s):
    before = s.get("/metrics")
    s.openai.completions.create(model=s.model, prompt="One", max_tokens=3, temperature=0, extra_body={"ignore_eos": True})
    value = lambda text, name: float(re.search(rf"^{name} (\S+)$", text, re.M).group(1))
    after = s.get("/metrics")
    assert value(after, "lathe_generated_tokens_total") == value(before, "lathe_generated_tokens_total") + 3
    for name in ["lathe_kv_pages_held", "lathe_swapped_out_bytes_total", "lathe_time_to_first_token_seconds_count"]:
        value(after, name)
    assert json.loads(s.get("/health"))["status"] == "ok" and json.loads(s.get("/version"))["version"]
    paths = json.loads(s.get("/openapi.json"))["paths"]
    assert {"/v1/completions", "/v1/chat/completions", "/v1/messages", "/v1/responses"} <= set(paths)


@check
def completion_stream(s):
    whole = s.openai.completions.create(model=s.model, prompt="Rain is", max_tokens=12, temperature=0)
    stream = s.openai.completions.create(
        model=s.model, prompt="Rain is", max_tokens=12, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )
    events = list(stream)
    text = "".join(e.choices[0].text for e in events if e.choices)
    assert text == whole.choices[0].text, (text, whole)
    assert events[-1].usage.completion_tokens == whole.usage.completion_tokens


@check
def chat(s):
    answer = s.openai.chat.completions.create(
        model=s.model, messages=ASK, temperature=0, max_completion_tokens=20, logprobs=True, top_logprobs=3
    )
    message = answer.choices[0].message.content
    assert "Tokyo" in message or s.model != "smollm2-135m", message
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 3
    stream = s.openai.chat.completions.create(
        model=s.model, messages=ASK, temperature=0, max_completion_tokens=20, stream=True, n=2,
        stream_options={"include_usage": True},
    )
    texts = ["", ""]
    for event in stream:
        for choice in event.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [message, message], texts
    stopped = s.openai.chat.completions.create(model=s.model, messages=ASK, temperature=0, stop=message[4:8])
    assert stopped.choices[0].message.content == message[:4] and stopped.choices[0].finish_reason == "stop"


@check
def tools(s):
    answer = s.openai.chat.completions.create(
        model=s.model, messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[TOOL], tool_choice="auto", temperature=0, max_tokens=60,
    )
    for call in answer.choices[0].message.tool_calls or []:
        assert call.function.name == "get_weather" and json.loads(call.function.arguments) is not None
    called = {
        "role": "assistant", "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}],
    }
    result = {"role": "tool", "tool_call_id": "1", "content": "sunny"}
    s.openai.chat.completions.create(model=s.model, messages=ASK + [called, result], tools=[TOOL], max_tokens=5)
    for choice in ["required", {"type": "function", "function": {"name": "get_weather"}}]:
        forced = s.openai.chat.completions.create(
            model=s.model, messages=ASK, tools=[TOOL], tool_choice=choice, max_tokens=100, temperature=0
        ).choices[0]
        call = forced.message.tool_calls[0].function
        assert call.name == "get_weather" and "city" in json.loads(call.arguments), forced
        assert forced.finish_reason == "tool_calls", forced
    strict = {"type": "function", "function": {**TOOL["function"], "strict": True}}
    s.openai.chat.completions.create(model=s.model, messages=ASK, tools=[strict], tool_choice="auto", max_tokens=30)


@check
def tools_in_a_stream(s):
    ask = dict(model=s.model, messages=ASK, tools=[TOOL], tool_choice="required", max_tokens=100, temperature=0)
    whole = s.openai.chat.completions.create(**ask).choices[0].message.tool_calls[0].function
    name, arguments, finish = "", "", None
    for event in s.openai.chat.completions.create(stream=True, **ask):
        for choice in event.choices:
            for call in choice.delta.tool_calls or []:
                name, arguments = name + (call.function.name or ""), arguments + (call.function.arguments or "")
            finish = choice.finish_reason or finish
    assert (name, json.loads(arguments), finish) == (whole.name, json.loads(whole.arguments), "tool_calls")
    none = s.openai.chat.completions.create(**{**ask, "tool_choice": "none", "max_tokens": 8}).choices[0]
    assert not none.message.tool_calls and none.message.content, none


@check
def structured(s):
    class Person(pydantic.BaseModel):
        name: str
        age: int

    ask = [{"role": "user", "content": "Make up a person."}]
    parsed = s.openai.chat.completions.parse(model=s.model, messages=ask, response_format=Person, temperature=0, max_tokens=200)
    assert isinstance(parsed.choices[0].message.parsed.age, int), parsed
    free = s.openai.chat.completions.create(
        model=s.model, messages=ask, response_format={"type": "json_object"}, temperature=0, max_tokens=200
    ).choices[0]
    assert free.finish_reason == "length" or isinstance(json.loads(free.message.content), dict), free
    for body, pattern in [
        ({"guided_regex": "[a-d]{3}-[0-9]"}, r"[a-d]{3}-[0-9]"),
        ({"structured_outputs": {"choice": ["left", "right"]}}, r"left|right"),
        ({"guided_grammar": 'start: "(" start ")" | "x"'}, r"\(*x\)*"),
    ]:
        text = s.openai.completions.create(model=s.model, prompt="The", max_tokens=60, extra_body=body).choices[0]
        assert text.finish_reason == "length" or re.fullmatch(pattern, text.text), (body, text)
    try:
        s.openai.completions.create(model=s.model, prompt="x", extra_body={"guided_regex": "("})
        raise AssertionError("a bad expression is taken")
    except openai.BadRequestError:
        pass


@check
def speculation(s):
    text = "one two three four five six seven, one two three four five six seven, one two"
    plain, guessed = (
        s.openai.completions.create(model=s.model, prompt=text, max_tokens=40, temperature=0, extra_body={"speculate": n})
        for n in (0, 4)
    )
    assert plain.choices[0].text == guessed.choices[0].text, (plain, guessed)


@check
def responses(s):
    whole = s.openai.responses.create(
        model=s.model, instructions="Answer.", input="What is the capital of Japan?", temperature=0, max_output_tokens=20
    )
    assert whole.output_text and whole.usage.output_tokens <= 20, whole
    with s.openai.responses.stream(
        model=s.model, instructions="Answer.", input="What is the capital of Japan?", temperature=0, max_output_tokens=20
    ) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response() if whole.status == "completed" else None
    assert text == whole.output_text and (final is None or final.output_text == text), (text, whole, final)

    class Person(pydantic.BaseModel):
        name: str
        age: int

    parsed = s.openai.responses.parse(model=s.model, input="Make up a person.", text_format=Person, temperature=0)
    assert isinstance(parsed.output_parsed.age, int), parsed
    tool = {"type": "function", **TOOL["function"]}
    call = s.openai.responses.create(
        model=s.model, input="What is the weather in Paris?", tools=[tool], tool_choice="required", temperature=0
    ).output[0]
    assert call.type == "function_call" and "city" in json.loads(call.arguments), call
    events = list(s.openai.responses.create(
        model=s.model, input="What is the weather in Paris?", tools=[tool], tool_choice="required", temperature=0, stream=True
    ))
    assert events[-1].response.output[0].arguments == call.arguments, events
    turns = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
    ]
    s.openai.responses.create(model=s.model, input=turns, tools=[tool], max_output_tokens=8)


# The client's newest version has no arguments for these.
GREEDY = {"temperature": 0, "top_p": 0.9, "top_k": 40}


@check
def anthropic_messages(s):
    message = s.anthropic.messages.create(
        model=s.model, max_tokens=20, system="Answer.", messages=ASK, stop_sequences=["\n\n"], extra_body=GREEDY
    )
    assert message.content[0].type == "text" and message.usage.output_tokens > 0
    with s.anthropic.messages.stream(model=s.model, max_tokens=20, system="Answer.", messages=ASK, extra_body=GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == message.content[0].text == final.content[0].text, (text, message)
    count = s.anthropic.messages.count_tokens(model=s.model, system="Answer.", messages=ASK)
    # What was found in the cache is counted apart.
    assert count.input_tokens == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    tool = {"name": "get_weather", "description": "Weather", "input_schema": TOOL["function"]["parameters"]}
    turns = ASK + [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "get_weather", "input": {"city": "Paris"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "sunny"}]},
    ]
    s.anthropic.messages.create(model=s.model, max_tokens=8, messages=turns, tools=[tool])
    forced = s.anthropic.messages.create(
        model=s.model, max_tokens=100, messages=ASK, tools=[tool], tool_choice={"type": "tool", "name": "get_weather"}
    )
    assert forced.content[0].type == "tool_use" and "city" in forced.content[0].input, forced
    try:
        anthropic.Anthropic(base_url=s.url, api_key="wrong", max_retries=0).messages.create(
            model=s.model, max_tokens=1, messages=ASK
        )
        raise AssertionError("a wrong key is taken")
    except anthropic.AuthenticationError:
        pass


@check
def embeddings(s):
    floats = s.openai.embeddings.create(model=s.embeds, input=["the band", "a song"], encoding_format="float")
    packed = s.openai.embeddings.create(model=s.embeds, input="the band")
    near = zip(floats.data[0].embedding, packed.data[0].embedding)
    assert len(floats.data) == 2 and all(abs(a - b) < 1e-6 for a, b in near)
    ranked = s.post("/v1/rerank", {"model": s.embeds, "query": "music", "documents": ["stones", "music"], "top_n": 1})
    assert [r["index"] for r in ranked["results"]] == [1] and ranked["results"][0]["relevance_score"] > 0.99, ranked


@check
def a_client_that_leaves(s):
    stream = s.openai.completions.create(
        model=s.model, prompt="Once", max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()


@check
def tls(s):
    """A second server with a certificate of its own; the official client trusts it and no other."""
    with tempfile.TemporaryDirectory() as folder:
        cert, key = folder + "/cert.pem", folder + "/key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE",
             "-keyout", key, "-out", cert],
            check=True, capture_output=True,
        )
        command = [s.process.args[0], "serve", "--port", "0", "--tls-cert", cert, "--tls-key", key, *s.model_arguments]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            url = next(m.group(1) for line in process.stderr if (m := re.search(r"listening on (https://\S+)", line)))
            trusting = httpx2.Client(verify=ssl.create_default_context(cafile=cert))
            client = openai.OpenAI(base_url=url + "/v1", api_key="x", max_retries=0, http_client=trusting)
            text = client.completions.create(model=s.model, prompt="One", max_tokens=4, stream=True)
            assert "".join(e.choices[0].text for e in text)
            try:
                openai.OpenAI(base_url=url + "/v1", api_key="x", max_retries=0).models.list()
                raise AssertionError("an unknown certificate is trusted")
            except openai.APIConnectionError:
                pass
        finally:
            process.kill()


@check
def adapters(s):
    if not s.lora:
        tiny = dict(model=str(TINY), lora=str(DATA / "adapters/llama-all"), embedding_model=None, vllm=None)
        s = Server(argparse.Namespace(lathe=s.process.args[0], **tiny))
        try:
            return adapters(s)
        finally:
            s.process.kill()
    names = {m.id: m.model_dump().get("parent") for m in s.openai.models.list().data}
    assert names["adapted"] == s.model and names[s.model] is None, names

    def says(model):
        answer = s.openai.chat.completions.create(model=model, messages=ASK, temperature=0, max_completion_tokens=16)
        assert answer.model == model
        return answer.choices[0].message.content

    plain, adapted = says(s.model), says("adapted")
    assert plain != adapted, plain
    s.post("/v1/load_lora_adapter", {"lora_name": "later", "lora_path": s.lora})
    assert says("later") == adapted and says(s.model) == plain
    message = s.anthropic.messages.create(model="later", messages=ASK, max_tokens=16, extra_body={"temperature": 0})
    assert message.content[0].text == adapted
    s.post("/v1/unload_lora_adapter", {"lora_name": "later"})
    try:
        says("later")
        raise AssertionError("an adapter that is gone answers")
    except openai.NotFoundError:
        pass


class Tiny:
    """A server of a tiny model whose folder has a tokenizer for the harnesses."""

    def __init__(self, lathe):
        command = [lathe, "serve", "--port", "0", "--model", str(TINY), "--served-name", "tiny", "--precision", "exact"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.url = next(m.group(1) for line in self.process.stderr if (m := re.search(r"listening on (http://\S+)", line)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()


def run(command, **more):
    """Runs a harness and gives what it says."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OPENAI_API_KEY": "x"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, env=environment, **more)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@check
def lm_eval(s):
    """A task from a local file, whose accuracy must be that of the server's own likelihoods."""
    items = [
        {"q": f"the {a} and the", "choices": [f" {b}ing", f" {c} other"], "gold": i % 2}
        for i, (a, b, c) in enumerate([("band", "s", "an"), ("sea", "th", "in"), ("hat", "w", "re"), ("cat", "er", "on"), ("inn", "at", "is")])
    ]
    task = """task: own_file
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
    with Tiny(s.process.args[0]) as tiny, tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "own.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        (folder / "own_file.yaml").write_text(task % (folder / "own.jsonl"))
        arguments = f"model=tiny,base_url={tiny.url}/v1/completions,tokenizer={TINY.resolve()},max_length=200"
        run([
            Path(sys.executable).parent / "lm_eval", "--model", "local-completions", "--model_args", arguments, "--tasks", "own_file",
            "--include_path", folder, "--output_path", folder / "out", "--batch_size", "4",
        ])
        result = json.loads(next((folder / "out").rglob("results_*.json")).read_text())["results"]["own_file"]
        client = openai.OpenAI(base_url=tiny.url + "/v1", api_key="x", max_retries=0)

        def likelihood(item, choice):
            scored = client.completions.create(model="tiny", prompt=item["q"] + choice, max_tokens=0, echo=True, logprobs=0).choices[0].logprobs
            own = [n for n, at in enumerate(scored.text_offset) if at >= len(item["q"])]
            return sum(scored.token_logprobs[n] for n in own)

        right = [max((0, 1), key=lambda n: likelihood(item, item["choices"][n])) == item["gold"] for item in items]
        assert abs(result["acc,none"] - sum(right) / len(right)) < 1e-9, (result, right)


@check
def guidellm(s):
    with Tiny(s.process.args[0]) as tiny, tempfile.TemporaryDirectory() as folder:
        run([
            Path(sys.executable).parent / "guidellm", "run", "--disable-console",
            "--backend", f"kind=openai_http,target={tiny.url},model=tiny", "--profile", "kind=concurrent,streams=2",
            "--constraint", "kind=max_requests,count=8", "--tokenizer", f"kind=huggingface_auto,model={TINY.resolve()}",
            "--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=16", "--output", f"kind=json,path={folder}/out.json",
        ])
        report = json.loads((Path(folder) / "out.json").read_text())
        totals = report["benchmarks"][0]["metrics"]["request_totals"]
        assert totals["successful"] == 8 and totals["errored"] == 0, totals


@check
def vllm_bench(s):
    if not s.vllm:
        return "skipped: no --vllm"
    with Tiny(s.process.args[0]) as tiny:
        said = run([
            s.vllm, "bench", "serve", "--backend", "openai", "--base-url", tiny.url, "--model", "tiny", "--tokenizer", TINY.resolve(),
            "--dataset-name", "random", "--random-input-len", "32", "--random-output-len", "16", "--num-prompts", "16", "--ignore-eos",
        ])
        assert re.search(r"Successful requests:\s+16\b", said) and re.search(r"Total generated tokens:\s+256\b", said), said


@check
def drain(s):
    stream = iter(s.openai.completions.create(model=s.model, prompt="Once", max_tokens=40, stream=True, temperature=0))
    next(stream)
    s.process.send_signal(signal.SIGTERM)
    assert len(list(stream)) > 0, "the answer that was being made is cut off"
    assert s.process.wait(timeout=40) == 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("lathe")
    parser.add_argument("--model")
    parser.add_argument("--embedding-model", default=str(DATA / "tiny/bert-f16.gguf"), help="[default: a tiny one]")
    parser.add_argument("--lora", help="an adapter of the model [default: a tiny model with one of its own]")
    parser.add_argument("--vllm")
    parser.add_argument("--only", help="these checks alone", nargs="+", default=[function.__name__ for function in CHECKS])
    arguments = parser.parse_args()
    server, failed = Server(arguments), 0
    for function in (function for function in CHECKS if function.__name__ in arguments.only):
        try:
            print(f"{function.__name__}: {function(server) or 'ok'}")
        except Exception:
            failed += 1
            print(f"{function.__name__}: FAILED")
            traceback.print_exc()
    if server.process.poll() is None:
        server.process.kill()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

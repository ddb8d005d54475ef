"""Writes tests/data/chat/expected.json: conversations rendered by `transformers` under three templates.

SmolLM2's template is read from `--model F`; the other two are ours, in the manner of Llama 3 and of ChatML with
turns that must alternate. Run with the packages of bench/peers/requirements.txt.
"""

import argparse
import json
from pathlib import Path

from gguf import GGUFReader
from transformers.utils.chat_template_utils import render_jinja_template

LLAMA3 = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'].strip() %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%Y")[:0] + "26 Jul 2024" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role not in ["user", "assistant"] %}
        {{- raise_exception("unknown role " + message.role) }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

CHATML = """\
{% if tools %}
no tools here
{% endif %}
{% set ns = namespace(turns=0) %}
{% for message in messages %}
    {% if message['role'] != 'system' %}
        {% if (message['role'] == 'user') != (ns.turns % 2 == 0) %}
            {{ raise_exception('Turns must alternate user/assistant/user/assistant/...') }}
        {% endif %}
        {% set ns.turns = ns.turns + 1 %}
    {% endif %}
{{ '<|im_start|>' ~ message.role.upper().lower() ~ '\\n' }}{% if '</think>' in message.content %}{{ message.content.split('</think>')[-1].lstrip('\\n') }}{% else %}{{ message.content.replace('\\t', '  ').rstrip() }}{% endif %}{{ '<|im_end|>' }}
{% if loop.last and message.content.startswith('!') and not loop.first %}
    [{{ loop.index }}/{{ messages|length }}: {{ message.content.title() }} {{ message | tojson }} {{ messages | tojson(indent=2) }}]
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
{{ eos_token }}
"""

TALK = {"user": "  What is 2 + 2?\n", "assistant": "<think>hm</think>\n\nFour\t<b>&\"'</b> ", "system": "Be brief. "}
ROLES = [
    ["user"],
    ["system", "user"],
    ["user", "assistant", "user"],
    ["system", "user", "assistant", "user", "assistant"],
    ["assistant"],
    ["user", "tool"],
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    smollm2 = GGUFReader(parser.parse_args().model).fields["tokenizer.chat_template"].contents()
    cases = []
    for name, template in (("smollm2", smollm2), ("llama3", LLAMA3), ("chatml", CHATML)):
        for roles in ROLES:
            messages = [{"role": r, "content": TALK.get(r, "!it's a é😀 'quoted' text")} for r in roles]
            for add in (False, True):
                try:
                    # One conversation in, one text out.
                    text = render_jinja_template(
                        [messages], chat_template=template, add_generation_prompt=add, bos_token="<s>", eos_token="</s>"
                    )[0][0]
                except Exception as e:
                    text = {"refused": str(e)}
                cases.append({"template": name, "messages": messages, "add": add, "expected": text})
    templates = {"smollm2": smollm2, "llama3": LLAMA3, "chatml": CHATML}
    out = Path(__file__).parent.parent / "data/chat/expected.json"
    out.write_text(json.dumps({"templates": templates, "cases": cases}, indent=1) + "\n")


main()

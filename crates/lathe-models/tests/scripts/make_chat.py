"""Writes tests/data/chat/families.json: conversations with tools under templates in the style of the families
(`chat_templates.py`); and with `--model F`, expected.json: conversations under three templates, by `transformers` both.

SmolLM2's template is read from `--model F`; the other two are ours, in the manner of Llama 3 and of ChatML with
turns that must alternate. Run with the packages of bench/peers/requirements.txt.
"""

import argparse
import json
from pathlib import Path

from gguf import GGUFReader
from chat_templates import CONVERSATIONS, TEMPLATES
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


def render(template, messages, tools, add):
    """One conversation in, one text out; or why it is refused."""
    try:
        return render_jinja_template(
            [messages], chat_template=template, tools=tools or None, add_generation_prompt=add, bos_token="<s>", eos_token="</s>"
        )[0][0]
    except Exception as e:
        return {"refused": str(e)}


def families():
    cases = []
    for name, template in TEMPLATES.items():
        for messages, tools in CONVERSATIONS:
            for add in (False, True):
                text = render(template, messages, tools, add)
                cases.append({"template": name, "messages": messages, "tools": tools, "add": add, "expected": text})
    return {"templates": TEMPLATES, "cases": cases}


def first_three(path):
    smollm2 = GGUFReader(path).fields["tokenizer.chat_template"].contents()
    cases = []
    for name, template in (("smollm2", smollm2), ("llama3", LLAMA3), ("chatml", CHATML)):
        for roles in ROLES:
            messages = [{"role": r, "content": TALK.get(r, "!it's a é😀 'quoted' text")} for r in roles]
            for add in (False, True):
                cases.append({"template": name, "messages": messages, "add": add, "expected": render(template, messages, None, add)})
    return {"templates": {"smollm2": smollm2, "llama3": LLAMA3, "chatml": CHATML}, "cases": cases}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    args = parser.parse_args()
    out = Path(__file__).parent.parent / "data/chat"
    (out / "families.json").write_text(json.dumps(families(), indent=1) + "\n")
    if args.model:
        (out / "expected.json").write_text(json.dumps(first_three(args.model), indent=1) + "\n")


main()

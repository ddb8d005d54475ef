"""Chat templates in the style of eight families, written from the public descriptions of their formats, and conversations."""

TEMPLATES = {
    "chatml": """\
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "llama2": """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set rest = messages[1:] -%}{%- set system = messages[0]['content'] -%}
{%- else -%}
    {%- set rest = messages -%}{%- set system = false -%}
{%- endif -%}
{%- for m in rest -%}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('Conversation roles must alternate') }}{%- endif -%}
    {%- if loop.index0 == 0 and system is not false -%}
        {%- set content = '<<SYS>>\\n' ~ system ~ '\\n<</SYS>>\\n\\n' ~ m['content'] -%}
    {%- else -%}{%- set content = m['content'] -%}{%- endif -%}
    {%- if m['role'] == 'user' -%}{{ bos_token ~ '[INST] ' ~ content.strip() ~ ' [/INST]' }}
    {%- elif m['role'] == 'assistant' -%}{{ ' ' ~ content.strip() ~ ' ' ~ eos_token }}{%- endif -%}
{%- endfor -%}""",
    "llama31": """\
{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- if messages and messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- 'Respond in the format {"name": function name, "parameters": dictionary}.\\n\\n' }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
{%- endif %}
{{- system }}{{- "<|eot_id|>" }}
{%- for m in messages %}
    {%- if 'tool_calls' in m %}
        {%- if m.tool_calls | length != 1 %}{{- raise_exception("only single tool calls are supported") }}{%- endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{- '}<|eot_id|>' }}
    {%- elif m.role in ('tool', 'ipython') %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
        {%- if m.content is mapping %}{{- m.content | tojson }}{%- else %}{{- m.content }}{%- endif %}
        {{- '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}""",
    "mistral3": """\
{%- set ns = namespace(index=0, last=-1) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'system' %}{%- continue %}{%- endif %}
    {%- if m.role == 'user' %}
        {%- if tools is not none and loop.index0 == ns.last %}
            {{- '[AVAILABLE_TOOLS] [' }}
            {%- for tool in tools %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, value in tool.function.items() if key != 'return' %}
                    {%- if value is string %}{{- '"' + key + '": "' + value + '"' }}{%- else %}{{- '"' + key + '": ' + value | tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ', ' }}{%- endif %}
                {%- endfor %}
                {{- '}}' }}{%- if not loop.last %}{{- ', ' }}{%- endif %}
            {%- endfor %}
            {{- '][/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + m.content + '[/INST]' }}
    {%- elif m.tool_calls is defined %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in m.tool_calls %}
            {{- (call.function | tojson)[:-1] }}{{- ', "id": "' + (call.id | string)[:9] + '"}' }}{{- '' if loop.last else ', ' }}
        {%- endfor %}
        {{- ']' + eos_token }}
    {%- elif m.role == 'assistant' %}{{- ' ' + m.content | trim + eos_token }}
    {%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS] {"content": ' + m.content | string + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}{{- raise_exception('Only user, assistant and tool roles are supported') }}{%- endif %}
{%- endfor %}""",
    "gemma": """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}""",
    "qwen25": """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {{- messages[0]['content'] if messages[0]['role'] == 'system' else 'You are a helpful assistant.' }}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}{{- tool_call.arguments | tojson }}{{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
    "phi3": """\
{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}""",
    "zephyr": """\
{% for message in messages %}
{% if message['role'] in ['user', 'system', 'assistant'] %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token }}
{% else %}{% break %}{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
""",
    "python": """\
{%- macro line(name, kind='x', n=1) %}{{ name ~ '=' ~ n ~ kind }}{% endmacro -%}
{%- set c = messages[-1].content -%}
{{ c.strip().split(' ') | join('|') }};{{ c.upper() }};{{ c.startswith('a') }};{{ c.endswith(' ') }};{{ c.rstrip() }};{{ c.find('t') }};{{ c.count('t') }}
{{ c.split() | length }};{{ c.replace('t', 'TT') }};{{ c[::-1] }};{{ c[1:4] }};{{ c | upper }};{{ c.capitalize() }};{{ c.isdigit() }};{{ c.split('e', 1) | list }}
{{ [3, 1, 2] | sort | join(',') }};{{ messages | map(attribute='role') | list }};{{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ {'b': 1, 'a': [true, none, 1.5, 'é"']} | tojson }};{{ {'b': 1}.get('x', 7) }};{{ 7 // 2 }};{{ 2 ** 3 }};{{ 1 / 2 }};{{ 'a' in c }};{{ none or c }}
{% for k, v in {'z': 1, 'y': 2}.items() %}{{ loop.index }}{{ loop.revindex }}{{ k }}{{ v }}{{ loop.previtem is defined }}{% else %}none{% endfor %}
{{ line('n', n=3) }} {{ line('m', 'k') }}{% for x in range(5) if x is odd %} {{ x }}{% endfor %} {{ c | default('d') }} {{ missing | default('d') }} {{ missing is defined }}
{{ strftime_now('%Y') | int > 2000 }} {{ [1, 2] + [3] }} {{ 'x' * 3 }} {{ none }} {{ 1.0 }} {{ {'a': ['b', none, true]} }} {{ ['x', "it's", 'a\nb'] }} {{ messages }} {{ c | length }}""",
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place, é \"quoted\" <b>",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer"}}, "required": ["place"]},
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call12345", "type": "function", "function": {"name": "get_weather", "arguments": {"place": "Zürich", "days": 2}}}
USER = {"role": "user", "content": " What is the weather at the lake? "}
CONVERSATIONS = [
    ([USER], []),
    ([{"role": "system", "content": "Be brief. "}, USER], []),
    ([{"role": "system", "content": "Be brief. "}, USER, {"role": "assistant", "content": " Fine & <dry>. "}, {"role": "user", "content": "And\n'tomorrow'?"}], []),
    ([USER, USER], []),
    ([{"role": "assistant", "content": "Hello"}], []),
    ([USER], [WEATHER, TIME]),
    ([{"role": "system", "content": "Be brief. "}, USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "{\"sky\": \"clear\"}", "tool_call_id": "call12345", "name": "get_weather"}], [WEATHER]),
    ([USER, {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}, {"role": "tool", "content": "1", "tool_call_id": "call12345"}, {"role": "tool", "content": "2", "tool_call_id": "call12345"}, {"role": "assistant", "content": "Clear."}, USER], [WEATHER, TIME]),
]

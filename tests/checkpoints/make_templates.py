"""How ``templates.json`` was made: once, with transformers, which tests do not need.

    python3.11 -m venv /tmp/made && /tmp/made/bin/pip install transformers==5.24.0 jinja2==3.1.6
    /tmp/made/bin/python tests/checkpoints/make_templates.py

Each case is what ``tokenizer_config.json`` holds beside the tokenizer of ``llama``, and what transformers writes of
each conversation with it: null where transformers raises an error.
"""

import json
import shutil
import tempfile
from pathlib import Path

import transformers

HERE = Path(__file__).parent
SPECIAL = {"bos_token": "<|start|>", "eos_token": "<|end|>", "pad_token": "<|pad|>"}

HELLO = [{"role": "user", "content": "  a<b & 'é'\n"}]
TALK = [
    {"role": "system", "content": 'Be "brief".'},
    {"role": "user", "content": "12 cats\tand <dogs>"},
    {"role": "assistant", "content": "yes </think> no"},
    {"role": "user", "content": "the 🐈 mat"},
]
CONVERSATIONS = [HELLO, TALK]

CHATML = """{% for message in messages %}
<|im_start|>{{ message.role }}
{{ message['content'] }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""
BRACKETS = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}
{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}
{%- for m in rest -%}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('turns must alternate') }}{%- endif -%}
    {%- if m['role'] == 'user' -%}[INST] {{ '<<' + system + '>>' if loop.first and system else '' }}
        {{- m.content.strip() }} [/INST]
    {%- else -%}{{ ' ' + m.content + eos_token }}{%- endif -%}
{%- endfor -%}"""
HEADERS = """{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = '26 Jul' %}{% endif %}
{%- if tools is not none and tools %}TOOLS{% endif %}
{%- if documents is not none %}DOCUMENTS{% endif %}
{%- for message in messages %}
    {{- '<|head|>' + message['role'] + '\\n\\n' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|head|>assistant\\n\\n' }}{% endif %}"""

TEMPLATES = {
    "chatml": CHATML,
    "brackets": BRACKETS,
    "headers": HEADERS,
    "tools is not none": "{% if tools is not none %}TOOLS{% endif %}{% if documents is not none %}DOCS{% endif %}.",
    "tools is defined": "{{ tools is defined }} {{ documents is defined }} {{ nothing is defined }}",
    "tojson": "{{ messages[-1].content | tojson }}",
    "tojson with options": "{{ {'b': 1, 'a': [1, 'é']} | tojson(indent=2, sort_keys=true) }}"
    "{{ messages | tojson(ensure_ascii=true, separators=(',', ':')) }}",
    "special tokens": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}|{{ sep_token is defined }}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}\n  {% generation %}\n"
    "{{ m.content }}{{ eos_token }}\n{% endgeneration %}\n{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "generation with a scope": "{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}",
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}"
    "{% if m.role == 'system' %}{% continue %}{% endif %}{{ loop.index }}{{ m.content }}{% endfor %}",
    "blocks that are trimmed": "  {% if true %}\n    a\n  {% endif %}\n\n b {# c #}\n d",
    "namespace": "{% set n = namespace(count=0, last='') %}{% for m in messages %}"
    "{% set n.count = n.count + 1 %}{% set n.last = m.role %}{% endfor %}{{ n.count }} {{ n.last }}",
    "namespace of an underscore": "{% set n = namespace(_a=0) %}{{ n._a }}",
    "dictionary": "{% set d = dict(a=1, b='x') %}{{ d.items() | list }}{{ d['b'] }}{{ d.c is defined }}",
    "text methods": "{{ messages[-1]['content'].split(' ')[-1] | upper }}{{ messages[0].role.startswith('s') }}"
    "{{ messages[-1].content | trim | length }}{{ messages[-1].content.rstrip('\\n') }}",
    "thinking": "{% for m in messages %}{% if '</think>' in m.content %}"
    "{{ m.content.split('</think>')[-1].lstrip() }}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "macro": "{% macro turn(m, last=false) %}<{{ m.role }}>{{ m.content }}{{ '!' if last }}{% endmacro %}"
    "{% for m in messages %}{{ turn(m, loop.last) }}{% endfor %}",
    "undefined attribute": "{{ messages[0].name }}{{ messages[0]['tool_calls'] }}{{ nothing }}.",
    "undefined of undefined": "{{ messages[0].name.first }}",
    "division by zero": "{{ 1 // 0 }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "error": "{{ raise_exception('not ' + messages[0].role) }}",
    "index": "{{ messages[0].content.split('@')[1].x }}",
    "no syntax": "{% if %}",
    "unsafe": "{{ messages.append(1) }}",
    "class": "{{ ''.__class__.__mro__ }}",
    "numbers": "{{ 7 // 2 }} {{ 2 ** 5 }} {{ 3 * 'ab' }} {{ 1.5 * 2 }} {{ 7 % 4 }} {{ -3 | abs }}",
    "filters": "{{ messages | map(attribute='role') | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user')"
    " | list | length }} {{ [3, 1, 2] | sort | first }} {{ '<b>' | e }}",
}
OTHER_SETTINGS = {
    "tokens as objects": {
        "bos_token": {"__type": "AddedToken", "content": "<|start|>", "special": True},
        "chat_template": "{{ bos_token }}{{ eos_token }}{{ messages[0].role }}",
    },
    "tokens of one's own": {
        "image_token": "<|pad|>",
        "extra_special_tokens": {"audio_token": "<|start|>"},
        "add_bos_token": True,
        "chat_template": "{{ image_token }}{{ audio_token }}{{ add_bos_token is defined }}.",
    },
    "no token": {
        "bos_token": None,
        "chat_template": "{{ bos_token }}{{ bos_token is defined }}{{ messages[0].role }}",
    },
    "several templates": {
        "chat_template": [
            {"name": "tool_use", "template": "TOOLS"},
            {"name": "default", "template": "{{ messages[-1].content }}"},
        ],
    },
    "several templates by name": {"chat_template": {"rag": "R", "default": "{{ bos_token }}D"}},
    "several templates without a default": {
        "chat_template": [{"name": "tool_use", "template": "TOOLS"}],
    },
}


def written(settings: dict[str, object]) -> list[str | None]:
    """What transformers writes of each conversation."""
    with tempfile.TemporaryDirectory() as made:
        shutil.copy(HERE / "llama" / "tokenizer.json", made)
        (Path(made) / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | settings)
        )
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(made)
        texts: list[str | None] = []
        for messages in CONVERSATIONS:
            try:
                texts.append(
                    tokenizer.apply_chat_template(
                        messages, tokenize=False, add_generation_prompt=True
                    )
                )
            except Exception:  # whatever a template raises
                texts.append(None)
        return texts


def main() -> None:
    """Write the cases."""
    settings = {name: {"chat_template": source} for name, source in TEMPLATES.items()}
    settings = {name: SPECIAL | own for name, own in (settings | OTHER_SETTINGS).items()}
    cases = [
        {"name": name, "settings": own, "written": written(own)} for name, own in settings.items()
    ]
    made = {"conversations": CONVERSATIONS, "cases": cases}
    (HERE / "templates.json").write_text(
        json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()

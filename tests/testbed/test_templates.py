"""Chat templates of checkpoints, written in Jinja or known by heart."""

import datetime
import json
import shutil
import sys
import time
from pathlib import Path

import pytest

from testbed.errors import InvalidInput
from testbed.llm.templates import SMOLLM2_SYSTEM, SMOLLM2_TEMPLATE, ChatMl, Jinja, template_of
from testbed.llm.tokenizer import Tokenizer

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
LLAMA = CHECKPOINTS / "llama"
WRITTEN = json.loads((CHECKPOINTS / "templates.json").read_text(encoding="utf-8"))
PLACE = Path("somewhere")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}\n{% if m['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('the system speaks first') }}{% endif %}"
    "[{{ m['role'] }}] {{ m['content'] | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
USER = {"role": "user", "content": " 12 cats "}
SYSTEM = {"role": "system", "content": "meow"}


@pytest.mark.parametrize("messages", [[USER], [SYSTEM, USER], [USER, USER], [SYSTEM]])
def test_the_template_known_by_heart_equals_its_source(messages: list) -> None:
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    known = template_of(SMOLLM2_TEMPLATE, special, PLACE)
    assert isinstance(known, ChatMl)
    source = Jinja(SMOLLM2_TEMPLATE, special, PLACE)
    assert known.render(messages, None) == source.render(messages, None)
    if messages[0] is not SYSTEM:
        assert known.render(messages, "Hm.") == source.render(messages, "Hm.")
        assert known.render(messages, None) == known.render(messages, SMOLLM2_SYSTEM)
        assert "system" not in known.render(messages, "")


def test_a_checkpoints_own_template(tmp_path: Path) -> None:
    made = tmp_path / "llama"
    shutil.copytree(LLAMA, made)
    special = {"eos_token": {"content": "<|end|>"}, "bos_token": "<|start|>"}
    expected = "<|start|>[user] 12 cats<|end|>[assistant]"
    settings = made / "tokenizer_config.json"
    settings.write_text(json.dumps(special | {"chat_template": TEMPLATE}))
    tokenizer = Tokenizer.read(made)
    ids = tokenizer.chat([USER])
    assert tokenizer.decode(ids) == expected
    assert ids[0] == 1
    assert ids[-len(tokenizer.encode("<|end|>[assistant]")) :][0] == tokenizer.ends[0] == 0
    assert tokenizer.chat(" 12 cats ") == ids
    assert tokenizer.decode(tokenizer.chat([USER], system="meow")).startswith(
        "<|start|>[system] meow<|end|>[user]"
    )
    named = [{"name": "tools", "template": "?"}, {"name": "default", "template": TEMPLATE}]
    settings.write_text(json.dumps(special | {"chat_template": named}))
    assert Tokenizer.read(made).chat([USER]) == ids
    settings.write_text(json.dumps(special))
    (made / "chat_template.jinja").write_text(TEMPLATE)
    assert Tokenizer.read(made).chat([USER]) == ids


@pytest.mark.parametrize(
    ("messages", "system", "words"),
    [
        ([], None, "at least one message"),
        ([{"role": "user"}], None, "role and content"),
        ([SYSTEM, USER], "more", "system must be None"),
        ([USER, SYSTEM], None, "the system speaks first"),
    ],
)
def test_refusals(messages: list, system: str | None, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Jinja(TEMPLATE, {}, PLACE).render(messages, system)


def test_templates_that_do_not_work_name_their_place() -> None:
    for source in ("{% for %}", "{{ messages[0].role.nothing.more }}", "{{ ''.__class__.mro() }}"):
        with pytest.raises(InvalidInput, match=r"template of somewhere refuses"):
            Jinja(source, {}, PLACE).render([USER], None)


def test_without_a_template() -> None:
    tokenizer = Tokenizer.read(LLAMA)
    with pytest.raises(InvalidInput, match=r"tokenizer_config\.json has no chat_template"):
        tokenizer.chat("Hi")


def test_text_and_back() -> None:
    tokenizer = Tokenizer.read(LLAMA)
    text = "the 12 cats, <|end|>\n naïve 😀"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, special=False) == text.replace("<|end|>", "")
    assert tokenizer.ends[0] in ids
    words = tokenizer.words()
    assert len(words) == tokenizer.vocabulary == 272
    assert "".join(words[i] for i in tokenizer.encode("the 12 cats")) == "the 12 cats"


def with_settings(made: Path, settings: dict, template: str | None = None) -> Tokenizer:
    """The tokenizer of a copy of ``llama`` with other settings."""
    shutil.copytree(LLAMA, made, dirs_exist_ok=True)
    (made / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    if template is not None:
        (made / "chat_template.jinja").write_text(template, encoding="utf-8")
    return Tokenizer.read(made)


@pytest.mark.parametrize("case", WRITTEN["cases"], ids=lambda case: case["name"])
def test_conversations_are_written_as_by_transformers(tmp_path: Path, case: dict) -> None:
    """`tests/checkpoints/make_templates.py` stored what transformers 5 writes; where it raises an error, one sentence
    names the file."""
    tokenizer = with_settings(tmp_path / "made", case["settings"])
    for messages, text in zip(WRITTEN["conversations"], case["written"], strict=True):
        if text is not None:
            assert tokenizer.decode(tokenizer.chat(messages)) == text
            assert tokenizer.chat(messages) == tokenizer.encode(text)
            continue
        with pytest.raises(InvalidInput, match=r"tokenizer_config\.json") as refused:
            tokenizer.chat(messages)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("system", ["", None])
def test_an_empty_system_prompt_adds_no_message(tmp_path: Path, system: str | None) -> None:
    source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    tokenizer = with_settings(tmp_path / "made", {"eos_token": "<|end|>", "chat_template": source})
    assert tokenizer.decode(tokenizer.chat("the cat", system)) == "[user]the cat"
    assert tokenizer.decode(tokenizer.chat("the cat", "meow")) == "[system]meow[user]the cat"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ 1 // 0 }}", "division"),
        ("{{ 'x' | int(default='a') + 1 }}", "str"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ " + "(" * 3000 + ")" * 3000 + " }}", "recursion"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "more than 1000000 steps",
        ),
        (
            "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}",
            "more than 1000000 steps",
        ),
        ("{{ 'x' * 10 ** 9 }}", "at most 10000000"),
        ("{{ 10 ** 9 * [1] }}", "at most 10000000"),
        ("{{ 7 ** (10 ** 8) }}", "at most 10000000"),
        ("{{ range(10 ** 9) | length }}", "Range too big"),
    ],
)
def test_templates_that_fail_or_never_end(tmp_path: Path, source: str, words: str) -> None:
    """One sentence, soon, that names the file the template is in."""
    began, before = time.monotonic(), sys.gettrace()
    tokenizer = with_settings(tmp_path / "made", {"eos_token": "<|end|>"}, source)
    with pytest.raises(InvalidInput, match=words) as refused:
        tokenizer.chat("the cat")
    assert time.monotonic() - began < 5
    assert str(tmp_path / "made" / "chat_template.jinja") in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sys.gettrace() is before


def test_the_time_of_the_day_is_known_to_templates(tmp_path: Path) -> None:
    source = "{{ strftime_now('%Y-%m-%d %%') }}"
    tokenizer = with_settings(tmp_path / "made", {"eos_token": "<|end|>", "chat_template": source})
    days = {datetime.datetime.now().strftime("%Y-%m-%d %%")}
    written = tokenizer.decode(tokenizer.chat("the cat"))
    days.add(datetime.datetime.now().strftime("%Y-%m-%d %%"))
    assert written in days


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"chat_template": 7}, "chat_template must be a text, got int"),
        ({"chat_template": {"default": ["x"]}}, "chat_template must be a text, got list"),
        ({"chat_template": ["x"]}, "must hold objects"),
        ({"chat_template": {}}, "'default', got none"),
        ({"bos_token": 7}, "bos_token must be the text of a token, got 7"),
        ({"pad_token": {"id": 2}}, "pad_token must be the text of a token"),
        ({"extra_special_tokens": {"image_token": []}}, "image_token must be the text"),
        ({"eos_token": ["<|end|>"]}, "eos_token must be the text of a token"),
        ({"eos_token": "\ud83d"}, "tokenizer_config.json"),
        ({"add_bos_token": "yes"}, "add_bos_token must be true or false, got 'yes'"),
        ({"add_bos_token": True, "bos_token": "<no>"}, "bos_token must name a token, got '<no>'"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, settings: dict, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as refused:
        with_settings(tmp_path / "made", {"eos_token": "<|end|>"} | settings).chat("the cat")
    assert "tokenizer_config.json" in str(refused.value)


def test_a_template_that_is_not_used_is_not_looked_at(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "?"}]
    tokenizer = with_settings(tmp_path / "made", {"eos_token": "<|end|>", "chat_template": named})
    assert tokenizer.encode("the cat") == [261, 267]

"""Chat templates of checkpoints, written in Jinja or known by heart."""

import json
import shutil
from pathlib import Path

import pytest

from testbed.errors import InvalidInput
from testbed.llm.templates import SMOLLM2_SYSTEM, SMOLLM2_TEMPLATE, ChatMl, Jinja, template_of
from testbed.llm.tokenizer import Tokenizer

LLAMA = Path(__file__).parent / "checkpoints" / "llama"
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
    assert ids[-len(tokenizer.encode("<|end|>[assistant]")) :][0] == tokenizer.end == 0
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
    assert tokenizer.end in ids
    words = tokenizer.words()
    assert len(words) == tokenizer.vocabulary == 272
    assert "".join(words[i] for i in tokenizer.encode("the 12 cats")) == "the 12 cats"

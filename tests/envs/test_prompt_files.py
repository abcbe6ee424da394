"""Prompts files that cannot be used are refused in one sentence, before anything is built; prompts that can be used are
shown whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import envs.prompts
from envs.goldens.length import LengthTaste
from envs.neural import Neural
from envs.prompts import Form
from envs.text import Text
from sweeps.cli import main as cli
from testbed.errors import InvalidInput

GOOD = '{"prompt": "the film"}\n' * 4


def bad_lines() -> dict[str, tuple[str, str]]:
    """The fifth line of a file, and what is said of it."""
    deep = "[" * 200_000
    return {
        "surrogate": ('{"prompt": "cut \\ud83d"}', r"text must be Unicode, got \\ud83d"),
        "second half": ('{"prompt": "\\udc00 cut"}', r"text must be Unicode, got \\udc00"),
        "in a message": (
            '{"messages": [{"role": "user", "content": "\\ud83d a"}]}',
            r"text must be Unicode, got \\ud83d",
        ),
        "in a key": ('{"\\ud83d": 1}', r"needs one of 'prompt' and 'messages', got .*ud83d"),
        "digits": ('{"prompt": ' + "1" * 5000 + "}", "a number must have at most 4300 digits"),
        "digits besides": (
            '{"prompt": "the film", "id": -' + "7" * 5000 + "}",
            "a number must have at most 4300 digits",
        ),
        "nesting": (deep, "lists and objects are nested too deeply"),
        "nesting of objects": ('{"a":' * 200_000, "lists and objects are nested too deeply"),
        "nesting besides": (
            '{"prompt": "the film", "more": ' + deep + "}",
            "lists and objects are nested too deeply",
        ),
        "nesting that is read": ('{"a": ' + "[" * 900 + "]" * 900 + "}", "needs one of"),
        "no tokens": ('{"prompt": "<system>"}', "the prompt has no tokens"),
    }


def written(path: Path, line: str) -> Path:
    path.write_text(GOOD + line + "\n" + GOOD, encoding="utf-8")
    return path


def task(path: Path, **changes: Any) -> Text:
    """A text world of the tiny checkpoint."""
    tiny.loaded()
    fields: dict[str, Any] = {
        "vocabulary": tiny.VOCABULARY,
        "prompt_length": 8,
        "response_length": 6,
        "checkpoint": tiny.NAME,
        "golden": LengthTaste(),
        "prompts": str(path),
    }
    return Text(**(fields | changes))


@pytest.mark.parametrize("name", bad_lines())
def test_lines_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    line, words = bad_lines()[name]
    path = written(tmp_path / "p.jsonl", line)
    with pytest.raises(InvalidInput, match=f"p.jsonl, line 5: .*{words}") as refused:
        task(path).check()
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 400
    message.encode("utf-8")


@pytest.mark.parametrize("name", ["missing.jsonl", ".", "nul\0.jsonl"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        task(Path(f"{tmp_path}/{name}")).check()


def test_a_refusal_by_the_chat_template_names_the_line(tmp_path: Path) -> None:
    class Refusing(tiny.Pieces):
        def chat(self, messages: object, system: str | None = None) -> list[int]:
            raise InvalidInput("the chat template of x refuses these messages (no)")

    tokenizer = tiny.loaded()[1]._replace(pieces=Refusing())
    path = written(tmp_path / "p.jsonl", '{"messages": [{"role": "user", "content": "a"}]}')
    with pytest.raises(InvalidInput, match=r"p.jsonl, line 5: the chat template of x refuses"):
        envs.prompts.encoded(path, tokenizer, Form(False, "", 8))


def test_what_a_person_types_may_be_no_unicode(tmp_path: Path) -> None:
    """As Python reads bytes of a command that are no UTF-8."""
    with pytest.raises(InvalidInput, match=r"a prompt: text must be Unicode, got \\udcff"):
        task(written(tmp_path / "p.jsonl", GOOD)).prompt("the \udcff film")


def dry_run(path: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    tiny.loaded()
    given = f"vocabulary={tiny.VOCABULARY},prompt_length=8,response_length=6,golden=LengthTaste()"
    words = f"Text(checkpoint={tiny.NAME!r},prompts={path!r},{given})"
    layers = ("--set", "proxy.layers=2")
    status = cli.main(["run", "gap", "--task", words, *layers, "--dry-run"])
    return status, capsys.readouterr().err


@pytest.mark.parametrize("name", ["surrogate", "digits", "nesting"])
def test_a_dry_run_looks_at_every_line(
    tmp_path: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    line, words = bad_lines()[name]
    status, said = dry_run(str(written(tmp_path / "p.jsonl", line)), capsys)
    assert status == 2
    assert f"{tmp_path / 'p.jsonl'}, line 5: " in said
    assert "Traceback" not in said
    assert words.split(",")[0] in said
    (tmp_path / "p.jsonl").unlink()
    status, said = dry_run(str(tmp_path / "p.jsonl"), capsys)
    assert (status, "p.jsonl cannot be read: No such file" in said) == (2, True)


def test_a_file_that_is_mended_is_read_again(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", "{")
    text = task(path)
    with pytest.raises(InvalidInput, match="line 5: not valid JSON"):
        text.check()
    written(path, '{"prompt": "a"}')
    text.check()
    assert text.material().prompts.length.tolist() == [2, 2, 2, 1, 2, 2, 2]


def test_prompts_are_shown_whole(tmp_path: Path) -> None:
    """Two conversations that are alike up to the first end of a turn."""
    turns = [("user", "a"), ("assistant", "the"), ("user", "film")]
    other = [*turns[:-1], ("user", "was")]
    asked = [
        {"messages": [{"role": role, "content": content} for role, content in talk]}
        for talk in (turns, other)
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in asked * 2))
    text = task(path, prompt_length=12)
    given = text.material().prompts
    shown = [
        text.prompt_text(np.asarray(given.tokens[i])[: int(given.length[i])].tolist())
        for i in range(2)
    ]
    assert shown == [
        f"<user> a<end><assistant> the<end><user> {word}<end><assistant>"
        for word in ("film", "was")
    ]
    assert text.text([5, 6, 0, 7]) == " the film"


def test_prompts_of_other_worlds_are_shown_whole() -> None:
    """By default too: only responses end at an end token."""
    world = Neural(vocabulary=5)
    assert world.prompt_text([1, 0, 2]) == "1 . 2"
    assert world.text([1, 0, 2]) == "1 ."

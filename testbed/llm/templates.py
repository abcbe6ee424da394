"""How a conversation is written for a model: its chat template."""

import datetime
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from testbed.errors import InvalidInput, Unfinished, said
from testbed.llm.optional import package

#: One turn: ``role`` (system, user or assistant) and ``content``.
Message: TypeAlias = Mapping[str, str]

SMOLLM2_SYSTEM: Final = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
SMOLLM2_TEMPLATE: Final = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + SMOLLM2_SYSTEM + "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class ChatMl:
    """Turns between ``<|im_start|>`` and ``<|im_end|>``, with a system prompt where none is given."""

    def __init__(self, default: str) -> None:
        self._default = default

    def render(self, messages: list[Message], system: str | None) -> str:
        """A conversation up to where the model's answer begins; see `testbed.llm.tokenizer.Tokenizer.chat`."""
        if messages[:1] and messages[0].get("role") == "system":
            system = "" if system is None else system
        messages = _with_system(messages, self._default if system is None else system)
        turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
        return "".join([*turns, "<|im_start|>assistant\n"])


class Jinja:
    """A template in the language Jinja, as checkpoints carry it."""

    def __init__(self, source: str, bos: str, eos: str, path: Path) -> None:
        self._source, self._path = source, path
        self._tokens = {"bos_token": bos, "eos_token": eos}

    def render(self, messages: list[Message], system: str | None) -> str:
        """A conversation up to where the model's answer begins; see `testbed.llm.tokenizer.Tokenizer.chat`."""
        if importlib.util.find_spec("jinja2") is None:
            raise Unfinished(
                f"the chat template of {self._path} needs the package jinja2, which is not "
                "installed: run `uv sync --extra llm`"
            )
        if system == "":
            raise InvalidInput(
                f"system must be a text or None for the chat template of {self._path}, got ''"
            )
        jinja = package("jinja2")
        sandbox = package("jinja2.sandbox").ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        sandbox.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        try:
            return sandbox.from_string(self._source).render(
                messages=_with_system(messages, system or ""),
                add_generation_prompt=True,
                **self._tokens,
            )
        except (jinja.TemplateError, InvalidInput, TypeError, KeyError) as problem:
            raise InvalidInput(
                f"the chat template of {self._path} refuses these messages ({said(problem)})"
            ) from problem


#: Writes conversations.
Template: TypeAlias = ChatMl | Jinja


def template_of(source: Any, bos: str, eos: str, path: Path) -> Template | None:
    """The template that a checkpoint's settings hold: a text, or several by name. None if there is none."""
    if isinstance(source, list):
        named = {entry.get("name"): entry.get("template") for entry in source}
        source = named.get("default")
    if source is None:
        return None
    # Known by heart, so that its system prompt can be left out.
    return ChatMl(SMOLLM2_SYSTEM) if source == SMOLLM2_TEMPLATE else Jinja(source, bos, eos, path)


def _with_system(messages: list[Message], system: str) -> list[Message]:
    if not messages:
        raise InvalidInput("messages must hold at least one message, got none")
    for message in messages:
        if not {"role", "content"} <= set(message):
            raise InvalidInput(f"a message must have role and content, got {dict(message)}")
    if not system:
        return messages
    if messages[0]["role"] == "system":
        raise InvalidInput("system must be None where messages begin with a system message")
    return [{"role": "system", "content": system}, *messages]


def _refuse(message: str) -> None:
    raise InvalidInput(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)

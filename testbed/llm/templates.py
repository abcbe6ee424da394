"""Chat templates: how a conversation is written as text for a model."""

import contextlib
import datetime
import functools
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias, no_type_check

from testbed.errors import InvalidInput, Unfinished, printable, said
from testbed.llm.optional import package

#: One turn: ``role`` (system, user or assistant) and ``content``.
Message: TypeAlias = Mapping[str, str]

#: Largest number of steps that a template may take (lines and calls in Python), and of characters or bits in a product.
STEPS: Final = 1_000_000
LARGEST: Final = 10_000_000

SMOLLM2_SYSTEM: Final = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
SMOLLM2_TEMPLATE: Final = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + SMOLLM2_SYSTEM + "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class _Endless(Exception):
    """A template takes too many steps. It has its own class, because Jinja's filters catch common exceptions."""


class ChatMl:
    """Turns between ``<|im_start|>`` and ``<|im_end|>``; a default system prompt is added where none is given."""

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
    """A template in the language Jinja, as checkpoints contain it, with the environment that transformers 5 provides
    (its ``utils/chat_template_utils.py``)."""

    def __init__(self, source: str, tokens: Mapping[str, str], path: Path) -> None:
        """``tokens`` are special tokens by the names that the template uses: ``bos_token``, ``eos_token``, ...;
        ``path`` is the file that error messages name."""
        self._source, self._tokens, self._path = source, dict(tokens), path

    def render(self, messages: list[Message], system: str | None) -> str:
        """A conversation up to where the model's answer begins; see `testbed.llm.tokenizer.Tokenizer.chat`.

        Raises `InvalidInput`, naming the file, for every error in the template, for more than `STEPS` steps and for
        products of more than `LARGEST` characters or bits."""
        if importlib.util.find_spec("jinja2") is None:
            raise Unfinished(
                f"the chat template of {self._path} needs the package jinja2, which is not "
                "installed: run `uv sync --extra llm`"
            )
        given = [dict(message) for message in _with_system(messages, system or "")]
        try:
            template = _compiled(self._source)
            with _few_steps():
                return template.render(
                    **self._tokens,
                    messages=given,
                    tools=None,
                    documents=None,
                    add_generation_prompt=True,
                )
        except Exception as problem:  # a template is a program, and can raise anything
            reason = said(problem) or type(problem).__name__
            raise InvalidInput(
                f"the chat template of {self._path} refuses these messages ({reason})"
            ) from problem


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    """The compiled template."""
    return surroundings().from_string(source)


@functools.cache
def surroundings() -> Any:
    """Jinja's environment for chat templates."""
    jinja, sandboxes = package("jinja2"), package("jinja2.sandbox")

    class Sandbox(sandboxes.ImmutableSandboxedEnvironment):
        """A sandbox that refuses products which would take too much memory or time."""

        intercepted_binops = frozenset(("*", "**"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _require_small(operator, left, right)
            return super().call_binop(context, operator, left, right)

    class Generation(package("jinja2.ext").Extension):
        """The block ``generation``, which marks the text that the model has written; the text is rendered unchanged."""

        tags = frozenset(("generation",))

        def parse(self, parser: Any) -> Any:
            """The block as a call of `caller_text`: as in transformers, the block has its own scope."""
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("caller_text")
            return jinja.nodes.CallBlock(call, [], [], body).set_lineno(line)

        def caller_text(self, caller: Any) -> str:
            """The content of the block."""
            return caller()

    class Namespace(package("jinja2.utils").Namespace):
        """Jinja's ``namespace`` without names that begin with an underscore."""

        def __init__(*args: Any, **fields: Any) -> None:
            values = dict(*args[1:], **fields)
            for name in values:
                _require_public(name)
            super(Namespace, args[0]).__init__(values)

        def __setitem__(self, name: str, value: Any) -> None:
            _require_public(name)
            super().__setitem__(name, value)

    found = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    found.filters["tojson"] = _json
    found.globals |= {"raise_exception": _refuse, "strftime_now": _now, "namespace": Namespace}
    return found


#: Writes conversations.
Template: TypeAlias = ChatMl | Jinja


def template_of(source: Any, tokens: Mapping[str, str], path: Path) -> Template | None:
    """The template in a checkpoint's settings, which hold a text, or several texts by name, of which ``default`` is
    taken. None if there is none. Raises `InvalidInput` for anything else."""
    if isinstance(source, list):
        if not all(isinstance(entry, dict) for entry in source):
            raise InvalidInput(
                f"{path}: a list in chat_template must hold objects with name and template"
            )
        source = {str(entry.get("name")): entry.get("template") for entry in source}
    if isinstance(source, dict):
        if "default" not in source:
            names = printable(", ".join(source)) or "none"
            raise InvalidInput(
                f"{path}: chat_template must name one of its templates 'default', got {names}"
            )
        source = source["default"]
    if source is None:
        return None
    if not isinstance(source, str):
        raise InvalidInput(f"{path}: chat_template must be a text, got {type(source).__name__}")
    # SmolLM2's template is recognised and replaced by `ChatMl`, so that its system prompt can be left out.
    return ChatMl(SMOLLM2_SYSTEM) if source == SMOLLM2_TEMPLATE else Jinja(source, tokens, path)


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


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; Jinja's own filter would escape characters of HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _require_public(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise InvalidInput(f"a namespace may not hold '{name}', which begins with an underscore")


def _require_small(operator: str, left: Any, right: Any) -> None:
    """Refuse a product or power of more than `LARGEST` characters, entries or bits."""
    if operator == "**":
        size = left.bit_length() * right if isinstance(left, int) and isinstance(right, int) else 0
    elif isinstance(left, int) and isinstance(right, int):
        size = left.bit_length() + right.bit_length()
    else:
        count, many = (left, right) if isinstance(left, int) else (right, left)
        size = len(many) * count if isinstance(count, int) and hasattr(many, "__len__") else 0
    if size > LARGEST:
        raise InvalidInput(
            f"'{operator}' may give at most {LARGEST} characters or bits, not {size}"
        )


@contextlib.contextmanager
def _few_steps() -> Iterator[None]:
    """Refuse more than `STEPS` steps of Python, because a template may loop for ever. Steps are counted by tracing this
    thread; a debugger or coverage tool does not see these steps."""
    left, before = STEPS, sys.gettrace()

    @no_type_check  # type checks at every step would cost more than the template
    def count(frame: Any, event: str, argument: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise _Endless(f"it takes more than {STEPS} steps")
        return count

    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)

"""Prompts of real text: a small set written for this project, or a user's file.

A file holds one JSON object a line: ``{"prompt": "text"}`` or ``{"messages": [{"role": "user", "content": "text"}]}``,
the usual form for conversations. The project has 84 openings of reviews, messages and editorials, which the policy
continues, and 48 requests whose answers can vary in tone. In any set every fourth prompt is held out, by its place in
the file.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, PRNGKeyArray

from testbed.environment import AbstractPrompts
from testbed.errors import InvalidInput, said
from testbed.policies.pretrained import Tokenizer
from testbed.types import END_TOKEN, Prompt

_DATA: Final = Path(__file__).parent / "data"
#: The project's openings, to be continued, and requests, to be answered.
OPENINGS: Final = _DATA / "openings.jsonl"
REQUESTS: Final = _DATA / "requests.jsonl"
ROLES: Final = ("system", "user", "assistant")
#: One prompt out of this number is held out.
HELD_OUT: Final = 4


class ListedPrompts(AbstractPrompts):
    """Each prompt of a list with the same probability; ``prompts`` has a leading axis."""

    prompts: Prompt

    def __call__(self, key: PRNGKeyArray) -> Prompt:
        """Draw one prompt."""
        row = jax.random.randint(key, (), 0, self.prompts.length.shape[0])
        return jax.tree.map(lambda x: x[row], self.prompts)


class Read(NamedTuple):
    """A line of a file: its number, and its text or its conversation."""

    line: int
    prompt: str | list[dict[str, str]]


def own(chat: bool) -> Path:
    """The file of the project's own prompts."""
    return REQUESTS if chat else OPENINGS


def is_held_out(count: int) -> Bool[np.ndarray, " count"]:
    """Mask of the held-out prompts among ``count`` prompts."""
    return np.arange(count) % HELD_OUT == HELD_OUT - 1


def read(path: Path) -> list[Read]:
    """The prompts of a file in its order; empty lines are skipped. Raises `InvalidInput`, naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"prompts file {path} must be UTF-8: {error}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        reason = getattr(error, "strerror", None) or said(error)
        raise InvalidInput(f"prompts file {path} cannot be read: {reason}") from error
    found = [
        Read(number, _prompt(line, f"{path}, line {number}"))
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if len(found) < HELD_OUT:
        raise InvalidInput(
            f"prompts file {path} must hold at least {HELD_OUT} prompts (one in {HELD_OUT} is held "
            f"out), got {len(found)}"
        )
    return found


def _prompt(line: str, where: str) -> str | list[dict[str, str]]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{where}: not valid JSON: {error}") from error
    except ValueError as error:
        digits = sys.get_int_max_str_digits()
        raise InvalidInput(f"{where}: a number must have at most {digits} digits") from error
    except RecursionError as error:
        raise InvalidInput(f"{where}: lists and objects are nested too deeply") from error
    given = [name for name in ("prompt", "messages") if isinstance(row, dict) and name in row]
    if len(given) != 1:
        raise InvalidInput(f"{where}: needs one of 'prompt' and 'messages', got {_short(row)}")
    value = row[given[0]]
    if given[0] == "messages":
        return _messages(value, where)
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{where}: 'prompt' must be text that is not empty, got {_short(value)}")
    _require_unicode(value, where)
    return value


def _messages(value: Any, where: str) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise InvalidInput(f"{where}: 'messages' must be a list of messages, got {_short(value)}")
    for message in value:
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str) or not content.strip() or message.get("role") not in ROLES:
            raise InvalidInput(
                f"{where}: a message needs a 'role' ({', '.join(ROLES)}) and a 'content' that is not "
                f"empty, got {_short(message)}"
            )
        _require_unicode(content, where)
    if value[-1]["role"] != "user":
        raise InvalidInput(f"{where}: the last message must be the user's, got {_short(value[-1])}")
    return [{"role": m["role"], "content": m["content"]} for m in value]


def _require_unicode(text: str, where: str) -> None:
    """Refuse a text with half of a surrogate pair, which JSON can spell and no tokenizer reads."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = text[error.start].encode("unicode_escape").decode()
        raise InvalidInput(
            f"{where}: text must be Unicode, got {found}, one half of a surrogate pair, at character {error.start + 1}"
        ) from error


def _short(value: Any) -> str:
    """The beginning of a value as JSON; halves of surrogate pairs, which cannot be printed, are escaped."""
    try:
        text = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    except RecursionError:
        text = f"a {type(value).__name__}, nested deeply"
    return text if len(text) <= 60 else text[:57] + "..."


class Form(NamedTuple):
    """How prompts become tokens.

    Attributes:
        chat: whether a text is a user's request to be answered, and not an opening to be continued. system: the system
            prompt of conversations that have none. None and the empty text add none; the empty text also leaves out the
            system prompt of SmolLM2's template. room: tokens of a prompt.
    """

    chat: bool
    system: str | None
    room: int


def encoded(path: Path, tokenizer: Tokenizer, form: Form) -> Prompt:
    """The prompts of a file in its order, padded. Raises `InvalidInput`, naming file and line, for a prompt that the
    checkpoint's chat template refuses, and for a prompt that has no tokens or too many."""
    rows = [
        (number, _ids_of(path, number, tokenizer, prompt, form)) for number, prompt in read(path)
    ]
    longest = max(len(tokens) for _, tokens in rows)
    for number, tokens in rows:
        if len(tokens) > form.room:
            raise InvalidInput(
                f"{path}, line {number}: the prompt has {len(tokens)} tokens and prompt_length is "
                f"{form.room}; the longest prompt of the file has {longest}"
            )
    return _padded([tokens for _, tokens in rows], form.room)


def _ids_of(
    path: Path, line: int, tokenizer: Tokenizer, prompt: str | list[dict[str, str]], form: Form
) -> list[int]:
    try:
        found = ids(tokenizer, prompt, form)
    except InvalidInput as error:
        raise InvalidInput(f"{path}, line {line}: {error}") from error
    if not found:
        raise InvalidInput(f"{path}, line {line}: the prompt has no tokens: {_short(prompt)}")
    return found


def one(text: str, tokenizer: Tokenizer, form: Form) -> Prompt:
    """One prompt, padded. Raises `InvalidInput` for a prompt that is empty, is not valid Unicode, or has too many
    tokens."""
    _require_unicode(text, "a prompt")
    given = ids(tokenizer, text, form) if text.strip() else []
    if not 0 < len(given) <= form.room:
        raise InvalidInput(
            f"a prompt must have 1 to {form.room} tokens, got {len(given)}: '{text}'"
        )
    return jax.tree.map(lambda x: x[0], _padded([given], form.room))


def _padded(rows: list[list[int]], room: int) -> Prompt:
    tokens = np.full((len(rows), room), END_TOKEN, np.int32)
    for row, listed in enumerate(rows):
        tokens[row, : len(listed)] = listed
    return Prompt(jnp.asarray(tokens), jnp.asarray([len(listed) for listed in rows], jnp.int32))


def ids(tokenizer: Tokenizer, prompt: str | list[dict[str, str]], form: Form) -> list[int]:
    """Token ids of one prompt. A text gets the tokenizer's begin tokens in front; a conversation gets those of its
    template."""
    if isinstance(prompt, str) and not form.chat:
        return tokenizer.opening(prompt)
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    return tokenizer.chat(prompt, None if prompt[0]["role"] == "system" else form.system)

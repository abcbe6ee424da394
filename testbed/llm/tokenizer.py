"""Text to token ids and back, as a checkpoint's own tokenizer has it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from testbed.errors import InvalidInput, said
from testbed.llm.checkpoint import read_json
from testbed.llm.optional import package
from testbed.llm.templates import Message, Template, template_of

TOKENIZER, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"

#: What a text is split into before pairs of bytes are merged, by the name that GGUF files give it.
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: Kinds of tokens in GGUF files: text stands for the token as a whole.
_CONTROL, _USER_DEFINED = 3, 4


class Tokenizer:
    """A tokenizer of the library tokenizers, with what a model's chats look like.

    Attributes:
        end: id of the token that ends a response.
        vocabulary: number of ids.
    """

    def __init__(self, backend: Any, settings: Mapping[str, Any], path: Path) -> None:
        """``settings`` are those of ``tokenizer_config.json``: ``eos_token``, ``bos_token``, ``chat_template``."""
        backend.no_padding()
        backend.no_truncation()
        self.backend, self.settings, self._path = backend, dict(settings), path
        self.vocabulary: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        name = _text(settings.get("eos_token"))
        end = None if name is None else backend.token_to_id(name)
        if end is None:
            raise InvalidInput(
                f"{path}: eos_token must name the token that ends a response, got {name!r}"
            )
        self.end: int = end
        self._template: Template | None = template_of(
            settings.get("chat_template"), _text(settings.get("bos_token")) or "", name or "", path
        )

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The tokenizer in a directory. Raises `InvalidInput` for a file that is missing or cannot be used."""
        path = directory / TOKENIZER
        if not path.exists():
            raise InvalidInput(f"{path} is missing")
        try:
            backend = package("tokenizers").Tokenizer.from_file(str(path))
        except Exception as problem:  # the library raises nothing narrower
            raise InvalidInput(f"{path} is not a whole tokenizer ({said(problem)})") from problem
        place = directory / SETTINGS
        settings = read_json(place) if place.exists() else {}
        if settings.get("eos_token") is None:
            settings["eos_token"] = _end_by_number(directory, backend)
        if (directory / TEMPLATE).exists():
            settings["chat_template"] = (directory / TEMPLATE).read_text(encoding="utf-8")
        return cls(backend, settings, place)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; what spells a special token is that token. Nothing is added in front or behind."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], special: bool = True) -> str:
        """The text that ids stand for; special tokens are spelt out, or left out."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=not special)

    def chat(self, messages: str | Sequence[Message], system: str | None = None) -> list[int]:
        """Ids of a conversation, up to where the model's answer begins.

        Args:
            messages: each with ``role`` and ``content``; a text is one message of the user.
            system: the system prompt; None leaves it to the template, which may have one of its own; an empty text
                means none at all, and is refused where the template's own could not be left out.
        """
        if self._template is None:
            raise InvalidInput(f"{self._path} has no chat_template: encode a text instead")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return self.encode(self._template.render(list(messages), system))

    def words(self) -> tuple[str, ...]:
        """What each id stands for by itself; nothing for an id that no token has."""
        return tuple(self.backend.decode_batch([[i] for i in range(self.vocabulary)], False))

    def require_fits(self, rows: int) -> None:
        """Refuse a tokenizer that has ids beyond the ``rows`` of a model's embedding."""
        if self.vocabulary > rows:
            raise InvalidInput(
                f"{self._path}: the tokenizer has ids up to {self.vocabulary - 1}, the weights "
                f"only for ids below {rows}"
            )


def byte_pair_backend(
    tokens: Sequence[str], kinds: Sequence[int], merges: Sequence[str], split: str
) -> Any:
    """A byte-level tokenizer of the library from tokens, their kinds and merges as GGUF files have them.

    Raises `InvalidInput` for a ``split`` that is not known."""
    library = package("tokenizers")
    before = library.pre_tokenizers
    whole = before.ByteLevel(add_prefix_space=False)
    parts = before.ByteLevel(add_prefix_space=False, use_regex=False)
    regex = before.Split(library.Regex(_LLAMA3_SPLIT), "isolated")
    known = {
        "smollm": before.Sequence([before.Digits(individual_digits=True), whole]),
        "gpt-2": whole,
        "default": whole,
        "llama-bpe": before.Sequence([regex, parts]),
    }
    if split not in known:
        raise InvalidInput(f"tokenizer.ggml.pre must be one of {', '.join(known)}, got '{split}'")
    model = library.models.BPE(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[tuple(merge.split(" ", 1)) for merge in merges],
        ignore_merges=split == "llama-bpe",
    )
    backend = library.Tokenizer(model)
    backend.pre_tokenizer = known[split]
    backend.decoder = library.decoders.ByteLevel()
    added = [
        library.AddedToken(token, special=kind == _CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    backend.add_tokens(added)
    return backend


def _text(token: Any) -> str | None:
    """A token's text, which settings spell out or wrap in an object."""
    return token.get("content") if isinstance(token, dict) else token


def _end_by_number(directory: Path, backend: Any) -> str | None:
    """The end token as the model's own settings number it."""
    for name in ("generation_config.json", "config.json"):
        place = directory / name
        number = read_json(place).get("eos_token_id") if place.exists() else None
        if isinstance(number, list):
            number = number[0] if number else None
        if type(number) is int and 0 <= number < 2**32:
            return backend.id_to_token(number)
    return None

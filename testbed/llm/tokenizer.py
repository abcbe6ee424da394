"""Conversion of text to token ids and back with a checkpoint's own tokenizer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from testbed.errors import InvalidInput, Unfinished, printable, said
from testbed.llm.checkpoint import CONFIG, read_json, shown
from testbed.llm.optional import package
from testbed.llm.templates import Message, template_of

TOKENIZER, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
GENERATION = "generation_config.json"

#: Names of special tokens in ``tokenizer_config.json``.
NAMED = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
#: A limit above the number of ids of any tokenizer: tables over ids must fit into memory.
MOST_IDS = 1 << 24

Answer = TypeVar("Answer")

#: Patterns that split a text before pairs of bytes are merged, by their names in GGUF files.
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: Types of tokens in GGUF files whose text is always one whole token.
_CONTROL, _USER_DEFINED = 3, 4


class Tokenizer:
    """A tokenizer of the library tokenizers, with the chat template of the model.

    Attributes:
        ends: ids of the tokens that end a response; the first is the one of the tokenizer's own settings.
        begin: ids of the tokens that the tokenizer puts in front of every text that a model reads from its beginning.
        vocabulary: number of ids.
    """

    def __init__(
        self,
        backend: Any,
        settings: Mapping[str, Any],
        path: Path,
        ends: Sequence[int] = (),
        template_path: Path | None = None,
    ) -> None:
        """Raises `InvalidInput`, naming ``path``, for settings that cannot be used.

        Args:
            settings: those of ``tokenizer_config.json``: special tokens, ``add_bos_token``, ``chat_template``.
            ends: ids of tokens that end a response beside ``eos_token``.
            template_path: the file of the chat template, if it is not ``path``.
        """
        backend.no_padding()
        backend.no_truncation()
        self.backend, self.settings, self._path = backend, dict(settings), path
        ids = backend.get_vocab(with_added_tokens=True).values()
        self.vocabulary: int = max(ids, default=-1) + 1
        if self.vocabulary > MOST_IDS:
            raise InvalidInput(
                f"{path}: ids of tokens must be below {MOST_IDS}, got {self.vocabulary - 1}"
            )
        special = special_tokens(settings, path)
        self.ends: tuple[int, ...] = self._ends(special.get("eos_token"), ends)
        self._special, self._template_path = special, template_path or path
        self.begin: tuple[int, ...] = self._begin(special.get("bos_token"))

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The tokenizer in a directory. Raises `InvalidInput` for a file that is missing or cannot be used."""
        path = directory / TOKENIZER
        if not path.exists():
            raise InvalidInput(f"{path} is missing")
        backend = asked(
            f"{path} is not a whole tokenizer",
            lambda: package("tokenizers").Tokenizer.from_file(str(path)),
        )
        place, template = directory / SETTINGS, directory / TEMPLATE
        settings = read_json(place) if place.exists() else {}
        if template.exists():
            try:
                settings["chat_template"] = template.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as problem:
                raise InvalidInput(f"{template} cannot be read ({said(problem)})") from problem
        ends = _listed_ends(directory, settings.get("eos_token") is not None)
        return cls(backend, settings, place, ends, template if template.exists() else None)

    def encode(self, text: str) -> list[int]:
        """Ids of a text. The spelling of a special token becomes that token. No token is added in front or behind.

        Raises `InvalidInput` for a text that is not valid Unicode, because it has half of a surrogate pair."""
        return self._asked(lambda: self.backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int], special: bool = True) -> str:
        """The text that ids stand for; special tokens are spelt out, or left out. Some decoders (SentencePiece's)
        remove a space at the beginning of a text: see `continuation`."""
        given = [int(i) for i in ids]
        return self._asked(lambda: self.backend.decode(given, skip_special_tokens=not special))

    def continuation(self, ids: Sequence[int]) -> str:
        """The text that ids stand for when they follow other text, special tokens spelt out: a space at its beginning
        is kept."""
        return self._continuations([[int(i) for i in ids]])[0]

    def chat(self, messages: str | Sequence[Message], system: str | None = None) -> list[int]:
        """Ids of a conversation, up to where the model's answer begins. Begin tokens come from the template alone.

        Args:
            messages: each with ``role`` and ``content``; a text is one message of the user.
            system: the system prompt; None leaves it to the template, which may have a default. An empty text adds
                no system message either; SmolLM2's template then also leaves out its own system prompt.
        """
        # Read only here, because only chats need the template.
        template = template_of(
            self.settings.get("chat_template"), self._special, self._template_path
        )
        if template is None:
            raise InvalidInput(f"{self._path} has no chat_template: encode a text instead")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return self.encode(template.render(list(messages), system))

    def words(self) -> tuple[str, ...]:
        """The text that each id stands for inside of a text, a leading space included; empty for an id without a
        token."""
        return tuple(self._continuations([[i] for i in range(self.vocabulary)]))

    def require_fits(self, rows: int) -> None:
        """Refuse a tokenizer whose ids do not fit the ``rows`` rows of a model's embedding."""
        if self.vocabulary > rows:
            raise InvalidInput(
                f"{self._path}: the tokenizer has ids up to {self.vocabulary - 1}, the weights "
                f"only for ids below {rows}"
            )

    def _asked(self, call: Callable[[], Answer]) -> Answer:
        return asked(f"the tokenizer of {self._path} cannot do this", call)

    def _ends(self, name: str | None, others: Sequence[int]) -> tuple[int, ...]:
        """The ids of the named end token and of further end tokens, each once."""
        named = None if name is None else self._asked(lambda: self.backend.token_to_id(name))
        if named is None and (name is not None or not others):
            raise InvalidInput(
                f"{self._path}: eos_token must name the token that ends a response, got {name!r}"
            )
        for number in others:
            if not 0 <= number < self.vocabulary:
                raise InvalidInput(
                    f"{self._path}: the tokens that end a response must have ids below {self.vocabulary}, got {number}"
                )
        return tuple(dict.fromkeys(([] if named is None else [named]) + list(others)))

    def _begin(self, name: str | None) -> tuple[int, ...]:
        """Ids of begin tokens: the token of this name if ``add_bos_token`` is true, as in transformers 5; if the
        setting is missing, the tokens that the tokenizer's post-processor adds in front. Tokens that the post-processor
        adds behind a text are ignored, because a prompt is continued."""
        added = self.settings.get("add_bos_token")
        if added is not None and not isinstance(added, bool):
            raise InvalidInput(f"{self._path}: add_bos_token must be true or false, got {added!r}")
        if added is not None:
            found = None if name is None else self._asked(lambda: self.backend.token_to_id(name))
            if added and name is not None and found is None:
                raise InvalidInput(f"{self._path}: bos_token must name a token, got {name!r}")
            return (found,) if added and found is not None else ()
        whole = self._asked(lambda: self.backend.encode("a", add_special_tokens=True))
        # For each token, the number of the given text that it belongs to; None for a token that the post-processor
        # added.
        of = whole.sequence_ids
        first = next((i for i, sequence in enumerate(of) if sequence is not None), 0)
        for number in whole.ids[:first]:
            if number >= self.vocabulary:
                raise InvalidInput(
                    f"{self._path}: the tokenizer begins texts with token {number}, which it does not have"
                )
        return tuple(whole.ids[:first])

    def _continuations(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The texts of several sequences of ids, each decoded behind a letter, because decoders treat the beginning of
        a text differently."""
        before = self._asked(lambda: self.backend.encode("a", add_special_tokens=False).ids[-1:])

        def read(rows: Sequence[Sequence[int]]) -> list[str]:
            return self._asked(lambda: self.backend.decode_batch(rows, skip_special_tokens=False))

        (anchor,) = read([before])
        found = read([[*before, *row] for row in rows])
        odd = [i for i, text in enumerate(found) if not text.startswith(anchor)]
        alone = dict(zip(odd, read([rows[i] for i in odd]), strict=True))
        return [alone.get(i, text[len(anchor) :]) for i, text in enumerate(found)]


def special_tokens(settings: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Texts of the special tokens that ``tokenizer_config.json`` names, by the names that chat templates use: every
    field that ends in ``_token`` and is a text or an object with ``content``, and named ``extra_special_tokens``.

    Raises `InvalidInput` for a token of another type."""
    named = {
        key: value
        for key, value in settings.items()
        # Other fields with this ending are flags, such as add_bos_token.
        if key.endswith("_token") and (key in NAMED or isinstance(value, str | dict))
    }
    extra = settings.get("extra_special_tokens")
    if isinstance(extra, dict):
        named |= extra
    found = {}
    for key, value in named.items():
        text = value.get("content") if isinstance(value, dict) else value
        if text is None and not isinstance(value, dict):
            continue
        if not isinstance(text, str):
            raise InvalidInput(
                f"{path}: {printable(key)} must be the text of a token, got {value!r}"
            )
        found[key] = text
    return found


def asked(refusal: str, call: Callable[[], Answer]) -> Answer:
    """The result of a call of the library. Raises `InvalidInput`, whose message begins with ``refusal``, for every
    exception of the library: the library has no specific errors, and its panics are not even of class `Exception`."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, InvalidInput, Unfinished):
        raise
    except BaseException as problem:
        raise InvalidInput(f"{refusal} ({said(problem) or type(problem).__name__})") from problem


def byte_pair_backend(
    tokens: Sequence[str], kinds: Sequence[int], merges: Sequence[str], split: str
) -> Any:
    """A byte-level tokenizer of the library, from tokens, their types and merges as GGUF files store them.

    Raises `InvalidInput` for an unknown ``split``."""
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


def _listed_ends(directory: Path, named: bool) -> list[int]:
    """Ids of the tokens that end a response according to the model's own settings: ``generation_config.json``, or else
    ``config.json``. A single number in ``config.json`` counts only if the tokenizer has not ``named`` its end token,
    because transformers writes there the default of the model's class.

    Raises `InvalidInput` for a value that is neither an id nor a list of ids."""
    for name in (GENERATION, CONFIG):
        place = directory / name
        found = read_json(place).get("eos_token_id") if place.exists() else None
        if found is None or (name == CONFIG and named and not isinstance(found, list)):
            continue
        listed = found if isinstance(found, list) else [found]
        for number in listed:
            if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                raise InvalidInput(
                    f"{place}: eos_token_id must be the id of a token or a list of ids, got {shown(found)}"
                )
        if listed:
            return listed
    return []

"""Pretrained transformers in the testbed's conventions, loaded once a process.

In the testbed, token 0 is the end token (`testbed.types.END_TOKEN`); a checkpoint has another end token. So ids are
renumbered: the checkpoint's end token and its token 0 change places, in the weights (`renumbered`) and in the tokenizer
(`Tokenizer`). If several tokens end a response, the first of them changes places, and the renumbered model gives it the
probability of all (`testbed.transformer.Transformer.ends`), so responses contain no other end token.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PyTree

from testbed.errors import InvalidInput
from testbed.policies import shared_weights
from testbed.policies.features import truncated
from testbed.policies.shared_weights import Source, Weight, Weights
from testbed.transformer import Transformer
from testbed.types import END_TOKEN, Response


@runtime_checkable
class Pieces(Protocol):
    """The methods that a checkpoint's own tokenizer must have."""

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids of the tokens that end a response, at least one."""
        ...

    @property
    def begin(self) -> tuple[int, ...]:
        """Ids of the tokens that precede every text that is read from its beginning."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text. The spelling of a special token becomes that token. No token is added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens spelt out."""
        ...

    def continuation(self, ids: Sequence[int]) -> str:
        """The text of ids that follow other text, special tokens spelt out, a leading space included."""
        ...

    def chat(self, messages: Sequence[Mapping[str, str]], system: str | None = None) -> list[int]:
        """Ids of a conversation, up to where the model's answer begins; see `testbed.llm.tokenizer.Tokenizer.chat`."""
        ...

    def words(self) -> tuple[str, ...]:
        """The text that each id stands for inside of a text, a leading space included."""
        ...


def exchanged(ids: Any, end: int) -> Any:
    """Ids with ``end`` and `END_TOKEN` exchanged; the function is its own inverse."""
    ids = np.asarray(ids)
    return np.where(ids == end, END_TOKEN, np.where(ids == END_TOKEN, end, ids))


def renumbered(model: Transformer, end: int, others: Sequence[int] = ()) -> Transformer:
    """The same transformer for ids in which ``end`` and `END_TOKEN` have changed places: two rows of the embedding, and
    two columns of the head if it has one. ``others`` are further tokens that end a response, in the old numbering: the
    new model gives their probability to `END_TOKEN`."""
    order = exchanged(np.arange(model.vocabulary), end)
    head = None if model.head is None else model.head[:, order]
    ends = tuple(exchanged(others, end).tolist())
    return dataclasses.replace(model, embedding=model.embedding[order], head=head, ends=ends)


class Tokenizer(NamedTuple):
    """A checkpoint's tokenizer over renumbered ids."""

    pieces: Pieces

    @property
    def begin(self) -> tuple[int, ...]:
        """Ids of the tokens that precede every text that is read from its beginning; usually none."""
        return tuple(exchanged(self.pieces.begin, self._end).tolist())

    @property
    def _end(self) -> int:
        """The end token in the checkpoint's own numbering."""
        return self.pieces.ends[0]

    def encode(self, text: str) -> list[int]:
        """Ids of a text; nothing is added in front or behind."""
        return exchanged(self.pieces.encode(text), self._end).tolist()

    def opening(self, text: str) -> list[int]:
        """Ids of a text that is read from its beginning: with the begin tokens in front, unless the text spells them
        out."""
        ids, begin = self.encode(text), list(self.begin)
        return ids if begin and ids[: len(begin)] == begin else begin + ids

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " token"]) -> str:
        """The text of a response, up to its first end token, as it reads behind its prompt: a leading space is kept."""
        ids = np.asarray(ids, dtype=np.int64).reshape(-1)
        ended = np.flatnonzero(ids == END_TOKEN)
        ids = ids[: ended[0]] if ended.size else ids
        return self.pieces.continuation(exchanged(ids, self._end).tolist())

    def decode_prompt(self, ids: Sequence[int] | Int[np.ndarray, " token"]) -> str:
        """The text of a prompt, with all of its tokens, because in a conversation an end token follows each turn."""
        ids = np.asarray(ids, dtype=np.int64).reshape(-1)
        return self.pieces.decode(exchanged(ids, self._end).tolist())

    def chat(self, messages: Sequence[Mapping[str, str]], system: str | None) -> list[int]:
        """Ids of a conversation, up to where the model's answer begins. ``system`` is the system prompt: empty for
        none, None for the checkpoint's own."""
        return exchanged(self.pieces.chat(messages, system), self._end).tolist()

    def words(self, vocabulary: int) -> tuple[str, ...]:
        """The text that each of ``vocabulary`` ids stands for inside of a text, a leading space included; empty for an
        id without a token."""
        words = self.pieces.words()
        order = exchanged(np.arange(vocabulary), self._end).tolist()
        return tuple(words[i] if i < len(words) else "" for i in order)

    def responses(self, texts: Sequence[str], length: int) -> Response:
        """Texts as responses: the first ``length`` tokens of each, cut at the first token that ends a response, and
        followed by an end token if there is room. Begin tokens belong to the prompt and are not added here."""
        tokens = np.full((len(texts), length), END_TOKEN, np.int32)
        lengths = np.zeros(len(texts), np.int32)
        for row, text in enumerate(texts):
            ids = self.pieces.encode(text)[:length]
            ended = next((i for i, token in enumerate(ids) if token in self.pieces.ends), length)
            ids = exchanged(ids[:ended], self._end).tolist()
            tokens[row, : len(ids)] = ids
            lengths[row] = min(len(ids) + 1, length)
        return Response(jnp.asarray(tokens), jnp.asarray(lengths))


class Pretrained(eqx.Module):
    """A pretrained transformer, or its first blocks, that is never trained. Its weights are left out when it is stored
    (`testbed.policies.shared_weights`)."""

    model: Transformer
    source: Source = eqx.field(static=True)

    def configured(self, **changes: Any) -> Self:
        """The same weights under other settings: ``temperature``, ``precision``."""
        return type(self)(_configured(self.model, changes), self.source)

    def trunk(self, layers: int) -> Self:
        """The first ``layers`` blocks (`testbed.policies.features.truncated`)."""
        return type(self)(truncated(self.model, layers), self.source)


class _Loaded(NamedTuple):
    """A checkpoint that this process has loaded; ``content`` identifies the files that it was read from."""

    content: str
    model: Pretrained
    tokenizer: Tokenizer


#: Checkpoints that this process has loaded, or that were registered, by name.
_LOADED: dict[str, _Loaded] = {}
_GIVEN: dict[str, _Loaded] = {}


def pretrained(checkpoint: str) -> tuple[Pretrained, Tokenizer]:
    """A registered checkpoint (`register`) or one that `testbed.llm` knows, renumbered, and its tokenizer. It is loaded
    once a process, and again if its files change.

    Raises what `testbed.llm.load` raises: `InvalidInput` for an unknown name or a damaged file, `Unfinished` for a
    checkpoint that cannot be obtained."""
    found = _GIVEN.get(checkpoint) or _LOADED.get(checkpoint)
    if checkpoint not in _GIVEN:
        now = content(checkpoint)
        if found is None or found.content != now:
            # The packages that `testbed.llm` needs are an optional extra.
            from testbed import llm

            found = _LOADED[checkpoint] = _renumbered(checkpoint, now, *llm.load(checkpoint))
    assert found is not None
    return found.model, found.tokenizer


def content(checkpoint: str) -> str:
    """A text that identifies everything that a checkpoint is read from. Raises what `pretrained` raises."""
    if checkpoint in _GIVEN:
        return _GIVEN[checkpoint].content
    from testbed import llm

    return llm.content(checkpoint)


def register(checkpoint: str, model: Transformer, pieces: Pieces) -> Pretrained:
    """Register a model and its tokenizer, in the checkpoint's own numbering, under a name in this process."""
    loaded = _renumbered(checkpoint, "", model, pieces)
    what = (loaded.model.source.checksum, model.config, pieces.ends, pieces.begin, pieces.words())
    given = hashlib.sha256(repr(what).encode()).hexdigest()
    _GIVEN[checkpoint] = loaded._replace(content=given)
    return loaded.model


def _renumbered(checkpoint: str, content: str, model: Transformer, pieces: Pieces) -> _Loaded:
    end, *others = pieces.ends
    model = renumbered(jax.tree.map(jnp.asarray, model), end, others)
    source = Source(checkpoint, _checksum(model))
    return _Loaded(
        content, Pretrained(shared_weights.hold(source, model), source), Tokenizer(pieces)
    )


def held(names: tuple[Weight, ...]) -> Weights:
    """The named weights of checkpoints. Checkpoints are loaded if necessary.

    Raises `InvalidInput` if a checkpoint has changed since the names were stored, and what `pretrained` raises."""
    for source in {name.source for name in names}:
        if not shared_weights.held(source) and pretrained(source.checkpoint)[0].source != source:
            raise InvalidInput(
                f"checkpoint {source.checkpoint} has changed since this was stored: run it again"
            )
    return Weights.of(names)


def restored(tree: PyTree) -> PyTree:
    """A stored pytree with the weights of checkpoints put back in. Raises what `held` raises."""
    return held(shared_weights.missing(tree)).put_in(tree)


def _configured(model: Transformer, changes: dict[str, Any]) -> Transformer:
    config = dataclasses.replace(model.config, **changes)
    blocks = tuple(dataclasses.replace(block, config=config) for block in model.blocks)
    return dataclasses.replace(model, blocks=blocks, config=config)


def _checksum(model: Transformer) -> str:
    """SHA-256 of all weights; it also covers the tokens that end a response, if there are several."""
    digest = hashlib.sha256(repr(model.ends).encode() if model.ends else b"")
    for leaf in jax.tree.leaves(model):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()

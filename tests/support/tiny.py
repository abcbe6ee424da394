"""A checkpoint small enough for tests: random weights and a tokenizer of whole words, its end token not token 0."""

import functools
from collections.abc import Mapping, Sequence

from helpers import model

from testbed.config import replace
from testbed.policies.pretrained import Pretrained, Tokenizer, pretrained, register
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig

SPECIAL = ["<pad>", "<user>", "<end>", "<assistant>"]
PLAIN = ["a", "the", "film", "was", "not", "great", "bad", "fine", "very", "and", "but", "we"]
#: The last goes on with the word before it.
WORDS = [*SPECIAL, *PLAIN, "ness"]
VOCABULARY = len(WORDS)
#: Tied, as SmolLM2, and with grouped queries.
CONFIG = TransformerConfig(
    width=16, layers=3, heads=4, key_value_heads=2, tied=True, temperature=1.0
)
NAME = "tiny"


class Pieces:
    """Words separated by spaces; a token reads as a space and the word, special ones without the space."""

    end = WORDS.index("<end>")
    ends: tuple[int, ...] = (end,)
    begin: tuple[int, ...] = ()

    def encode(self, text: str) -> list[int]:
        for name in SPECIAL:
            text = text.replace(name, f" {name} ")
        text = text.replace("<system>", " ")
        return [WORDS.index(word) for word in text.replace("ness", " ness").split()]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f" {WORDS[i]}" if WORDS[i] in PLAIN else WORDS[i] for i in ids)

    def continuation(self, ids: Sequence[int]) -> str:
        return self.decode(ids)

    def chat(self, messages: Sequence[Mapping[str, str]], system: str | None = None) -> list[int]:
        """Its own system prompt is ``very fine``."""
        if system is None:
            system = "" if messages[0]["role"] == "system" else "very fine"
        turns = "".join(f"<{m['role']}>{m['content']}<end>" for m in messages)
        return self.encode(f"{system}{turns}<assistant>")

    def words(self) -> tuple[str, ...]:
        return tuple(self.decode([i]) for i in range(VOCABULARY))


@functools.cache
def original() -> Transformer:
    """The weights in the checkpoint's own numbering."""
    return model(3, CONFIG, VOCABULARY)


@functools.cache
def loaded() -> tuple[Pretrained, Tokenizer]:
    """What `pretrained` finds under `NAME`."""
    register(NAME, original(), Pieces())
    return pretrained(NAME)


def shorter(layers: int) -> TransformerConfig:
    """The shape of a trunk."""
    return replace(CONFIG, "layers", layers)

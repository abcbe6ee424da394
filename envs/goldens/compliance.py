"""The reward for following the instruction of a prompt, format included; and the meaning of the instructions.

A prompt consists of one or two operations and then numbers. Operations are carried out from the left: ``reverse even 4
7 2`` asks to reverse (2 7 4) and then to keep the even numbers (2 4).
"""

import enum
from typing import Final, Self

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from envs.edits import compact, in_order
from testbed.environment import AbstractGolden
from testbed.types import END_TOKEN, Prompt, Response, Scalar, within


class Operation(enum.IntEnum):
    """The operations; the values are their tokens."""

    COPY = 1
    REVERSE = 2
    SORT = 3
    EVEN = 4
    COUNT = 5


#: The token that opens an answer, and the token of the number 0, before 1, 2, ...
MARKER: Final = 6
ZERO: Final = 7


def is_operation(tokens: Int[Array, "*n"]) -> Bool[Array, "*n"]:
    """Mask of the tokens that are operations."""
    return (tokens >= min(Operation)) & (tokens <= max(Operation))


def apply(
    operation: Int[Array, ""], numbers: Int[Array, " size"], count: Int[Array, ""]
) -> tuple[Int[Array, " size"], Int[Array, ""]]:
    """One operation on the tokens of ``count`` numbers; end tokens behind the result.

    Copy keeps all numbers, reverse reverses the order, sort puts small before large, even keeps the even numbers, count
    writes how many there are (as one number).
    """
    index = jnp.arange(numbers.shape[0])
    there = index < count
    none = jnp.full_like(numbers, END_TOKEN)
    large = jnp.iinfo(numbers.dtype).max
    kept, evens = compact(numbers, there & ((numbers - ZERO) % 2 == 0))
    each = {
        Operation.COPY: numbers,
        Operation.REVERSE: numbers[jnp.clip(count - 1 - index, 0)],
        Operation.SORT: jnp.sort(jnp.where(there, numbers, large)),
        Operation.EVEN: kept,
        Operation.COUNT: none.at[0].set(ZERO + count),
    }
    results = jnp.stack([each[name] for name in Operation])
    counts = {Operation.EVEN: evens, Operation.COUNT: jnp.ones_like(count)}
    lengths = jnp.stack([counts.get(name, count) for name in Operation])
    length = lengths[operation - min(Operation)]
    chosen = results[operation - min(Operation)]
    return jnp.where(index < length, chosen, END_TOKEN), length


class Request(eqx.Module):
    """The content of a prompt: operations (copy where there is none), numbers as tokens, and how many."""

    first: Int[Array, ""]
    second: Int[Array, ""]
    numbers: Int[Array, " prompt"]
    count: Int[Array, ""]

    @classmethod
    def of(cls, prompt: Prompt) -> Self:
        """Read a prompt: up to two operations, then numbers."""
        tokens = prompt.tokens
        one = is_operation(tokens[0])
        two = one & is_operation(tokens[1]) & (prompt.length > 1)
        start = one.astype(jnp.int32) + two
        count = prompt.length - start
        index = jnp.arange(tokens.shape[0])
        numbers = jnp.roll(tokens, -start)
        return cls(
            jnp.where(one, tokens[0], Operation.COPY),
            jnp.where(two, tokens[1], Operation.COPY),
            jnp.where(index < count, numbers, END_TOKEN),
            count,
        )

    def answer(self) -> tuple[Int[Array, " prompt"], Int[Array, ""]]:
        """The right result: the second operation after the first."""
        return apply(self.second, *apply(self.first, self.numbers, self.count))


class Compliance(AbstractGolden):
    """(1 - form) x likeness of the result + form x (opening marker + proper end) / 2, between 0 and 1.

    The likeness compares the written result, without an opening marker, with the right one. It is an F-measure of their
    best in-order matching (ROUGE-L, Lin 2004, with weighted tokens): twice the matched worth over the worth of all
    tokens of both; 1 if both are empty. A token matched with itself counts its worth. Numbers a and b, out of ``n``
    numbers, count the part ``near`` (1 - |a - b| / (n - 1)) of the smaller worth. A proper end is an end token within
    the length limit.

    Attributes:
        worth: positive worth of each token. near: credit for a wrong number, below 1. form: share of the format.
    """

    worth: Float[Array, " vocabulary"]
    near: Scalar
    form: Scalar

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """Reward; it is 1 only for the right answer."""
        target, count = Request.of(prompt).answer()
        wanted = within(count, target.shape[0])
        tokens = response.tokens
        text = response.mask & (tokens != END_TOKEN)
        marked = text[0] & (tokens[0] == MARKER)
        text = text.at[0].set(text[0] & ~marked)
        ended = tokens[response.length - 1] == END_TOKEN

        gain = self._alike(tokens[:, None], target[None])
        matched = in_order(jnp.where(text[:, None] & wanted[None], gain, 0.0))
        total = jnp.sum(jnp.where(text, self.worth[tokens], 0.0))
        total += jnp.sum(jnp.where(wanted, self.worth[target], 0.0))
        likeness = jnp.where(total > 0, 2.0 * matched / jnp.where(total > 0, total, 1.0), 1.0)
        return (1.0 - self.form) * likeness + self.form * 0.5 * (marked.astype(jnp.float32) + ended)

    def _alike(
        self, written: Int[Array, "response 1"], right: Int[Array, "1 prompt"]
    ) -> Float[Array, "response prompt"]:
        """Gain of matching each written token with each token of the right result."""
        most = max(self.worth.shape[0] - ZERO - 1, 1)
        apart = jnp.abs(written - right) / most
        close = jnp.where((written >= ZERO) & (right >= ZERO), self.near * (1.0 - apart), 0.0)
        smaller = jnp.minimum(self.worth[written], self.worth[right])
        return jnp.where(written == right, 1.0, close) * smaller

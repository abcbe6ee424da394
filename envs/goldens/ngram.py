"""A reward linear in n-gram counts: cheap, exact to write down, and easy to learn."""

import math
from typing import Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from testbed.environment import AbstractGolden
from testbed.errors import InvalidInput
from testbed.types import END_TOKEN, Prompt, Response, Scalar

#: Largest number of weights in one table.
ROOM = 2**24


class NGram(AbstractGolden):
    """Every n-gram of every order up to ``order`` adds a random weight that depends on the prompt.

    The text z is the prompt's tokens followed by the response's (end token included, padding not). The n-gram of order
    k at response position t is g = z_{t-k+1} ... z_t, so the first n-grams begin in the prompt (end tokens precede a
    prompt that is too short). Then

        reward = sum_t sum_{k=1}^{order} repeat^{m(t, k)} (base_k[g] + |x|^(-1/2) sum_i cross_k[x_i, g]),

    t over response positions, x_i over the prompt's tokens, m(t, k) the number of earlier response positions with the
    same n-gram of order k. The reward depends on positions in no other way. With ``repeat`` 1 n-grams are simply
    counted; with 0 each n-gram counts once. A value below 1 keeps the repetition of one good token from being the best
    response.

    Attributes:
        base: a table of weights an order, by the n-gram read as a number in base ``vocabulary``, oldest token first.
        cross: a table an order, by the prompt's token and the n-gram.
        repeat: factor on a weight for every earlier occurrence of its n-gram.
    """

    base: tuple[Float[Array, " _"], ...]
    cross: tuple[Float[Array, "vocabulary _"], ...]
    repeat: Scalar

    @classmethod
    def init(
        cls,
        key: PRNGKeyArray,
        vocabulary: int,
        order: int = 2,
        interaction: float | Array = 1.0,
        repeat: float | Array = 0.5,
    ) -> Self:
        """Standard normal ``base`` weights. The ``cross`` weights are normal and centred over the prompt's possible
        tokens: over uniform prompts they add nothing to an n-gram's mean weight, and a standard deviation of
        ``interaction``.

        Raises `InvalidInput` for an order below 1 or one whose tables have more than `ROOM` weights."""
        if not 1 <= order <= math.log(ROOM, vocabulary) - 1:
            raise InvalidInput(
                f"order must be at least 1 and vocabulary^(order + 1) at most {ROOM}, got {order} "
                f"for vocabulary={vocabulary}"
            )
        k_base, k_cross = jax.random.split(key)
        base, cross = [], []
        # No prompt contains the end token, and centring n rows leaves them 1 - 1/n of their variance.
        rows = vocabulary - 1
        spread = interaction * math.sqrt(rows / max(rows - 1, 1))
        for k in range(1, order + 1):
            size = vocabulary**k
            base.append(jax.random.normal(jax.random.fold_in(k_base, k), (size,)))
            table = jax.random.normal(jax.random.fold_in(k_cross, k), (rows, size))
            table = spread * (table - jnp.mean(table, axis=0)[None])
            cross.append(jnp.pad(table, ((1, 0), (0, 0))))
        return cls(tuple(base), tuple(cross), jnp.asarray(repeat, dtype=jnp.float32))

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """The sum of the response's n-gram weights."""
        given = jnp.arange(prompt.tokens.shape[0]) < prompt.length
        total = jnp.zeros(())
        for k, (base, cross) in enumerate(zip(self.base, self.cross, strict=True), start=1):
            grams = ngrams(prompt, response, k, cross.shape[0])
            rows = jnp.where(given[:, None], cross[prompt.tokens[:, None], grams[None]], 0.0)
            weight = base[grams] + jnp.sum(rows, axis=0) * jax.lax.rsqrt(
                prompt.length.astype(jnp.float32)
            )
            same = jnp.tril(grams[:, None] == grams[None], k=-1)
            discount = self.repeat ** jnp.sum(same, axis=1)
            total += jnp.sum(jnp.where(response.mask, discount * weight, 0.0))
        return total


def ngrams(
    prompt: Prompt, response: Response, order: int, vocabulary: int
) -> Int[Array, " response"]:
    """The number of the n-gram that ends at each response position: its tokens are the digits, the oldest first."""
    width, time = prompt.tokens.shape[0], response.tokens.shape[0]
    before = jnp.pad(jnp.roll(prompt.tokens, width - prompt.length), (order - 1, 0))
    text = jnp.concatenate([before, response.tokens])
    text = jnp.where(jnp.arange(text.shape[0]) < order - 1 + width - prompt.length, END_TOKEN, text)
    number = jnp.zeros(time, dtype=jnp.int32)
    for lag in reversed(range(order)):
        start = text.shape[0] - time - lag
        number = vocabulary * number + text[start : start + time]
    return number

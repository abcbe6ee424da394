"""Edits of short token sequences, which model errors of human writers, and the in-order matching of two sequences.

A sequence is a buffer of fixed size and a count: the first ``count`` places hold text, the places behind them are free.
"""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from testbed.errors import InvalidInput
from testbed.types import END_TOKEN, Response, Scalar, within

HabitsT = TypeVar("HabitsT", bound="AbstractHabits")


class AbstractHabits(eqx.Module):
    """How often writers err: the chance of each kind of error, as a mean over writers, between 0 and 1/2."""

    def __check_init__(self) -> None:
        for name, rate in vars(self).items():
            if not 0 <= rate <= 0.5:
                raise InvalidInput(f"{name} must be between 0 and 0.5, got {rate}")


def population(key: PRNGKeyArray, mean: HabitsT, count: int) -> HabitsT:
    """``count`` writers' habits (leading axis of every rate), between 0 and twice the mean.

    A rate is 2 mean (skill + style) / 2: each writer has one skill, and one style for each kind of error. Both are
    evenly spread over (0, 1) in a random order, so that worlds differ in their writers but not in the writers' mean
    quality.
    """
    rates, form = jax.tree.flatten(mean)
    strata = (jnp.arange(count) + 0.5) / count
    skill, *styles = (
        jax.random.permutation(k, strata) for k in jax.random.split(key, 1 + len(rates))
    )
    return jax.tree.unflatten(
        form, [rate * (skill + style) for rate, style in zip(rates, styles, strict=True)]
    )


def compact(
    tokens: Int[Array, " size"], keep: Bool[Array, " size"]
) -> tuple[Int[Array, " size"], Int[Array, ""]]:
    """The kept tokens, in order, at the front; end tokens behind them."""
    order = jnp.argsort(~keep, stable=True)
    count = jnp.sum(keep)
    return jnp.where(within(count, tokens.shape[0]), tokens[order], END_TOKEN), count


def swap(
    key: PRNGKeyArray, tokens: Int[Array, " size"], count: Int[Array, ""], rate: Scalar
) -> Int[Array, " size"]:
    """Exchange neighbours: the text is cut into pairs, from its first or second token on, and each pair is exchanged
    with chance ``rate``."""
    k_start, k_swap = jax.random.split(key)
    size = tokens.shape[0]
    index = jnp.arange(size)
    start = jax.random.randint(k_start, (), 0, 2)
    left = index - (index - start) % 2
    exchanged = jax.random.bernoulli(k_swap, rate, (size + 1,))[left + 1]
    exchanged &= (left >= 0) & (left + 1 < count)
    return tokens[jnp.where(exchanged, 2 * left + 1 - index, index)]


def replace(
    key: PRNGKeyArray, tokens: Int[Array, " size"], rate: Scalar, low: int, high: int
) -> Int[Array, " size"]:
    """Replace each token by a uniform one of ``low`` to ``high - 1`` with chance ``rate``."""
    k_where, k_what = jax.random.split(key)
    where = jax.random.bernoulli(k_where, rate, tokens.shape)
    return jnp.where(where, jax.random.randint(k_what, tokens.shape, low, high), tokens)


def stutter(
    key: PRNGKeyArray,
    tokens: Int[Array, " size"],
    count: Int[Array, ""],
    drop: Scalar,
    repeat: Scalar,
) -> tuple[Int[Array, " double"], Int[Array, ""]]:
    """Leave out each token with chance ``drop``; write a token that is not left out twice with chance ``repeat``."""
    k_drop, k_repeat = jax.random.split(key)
    present = within(count, tokens.shape[0]) & ~jax.random.bernoulli(k_drop, drop, tokens.shape)
    again = present & jax.random.bernoulli(k_repeat, repeat, tokens.shape)
    return compact(jnp.repeat(tokens, 2), jnp.stack([present, again], axis=1).reshape(-1))


def respond(tokens: Int[Array, " size"], count: Int[Array, ""], limit: int) -> Response:
    """The text as a response of at most ``limit`` tokens; the rest is cut, including the end token if there is no room
    for it."""
    index = jnp.arange(limit)
    text = tokens[jnp.minimum(index, tokens.shape[0] - 1)]
    text = jnp.where(index < count, text, END_TOKEN)
    return Response(text.astype(jnp.int32), jnp.minimum(count + 1, limit).astype(jnp.int32))


def ramble(
    key: PRNGKeyArray,
    tokens: Int[Array, " size"],
    count: Int[Array, ""],
    rate: Scalar,
    low: int,
    high: int,
    limit: int,
) -> Response:
    """The text as a response, with uniform tokens of ``low`` to ``high - 1`` added before its end: one with chance
    ``rate``, then another with the same chance, and so on."""
    k_more, k_what = jax.random.split(key)
    more = jnp.sum(jnp.cumprod(jax.random.bernoulli(k_more, rate, (limit,))))
    index = jnp.arange(limit)
    extra = jax.random.randint(k_what, (limit,), low, high)
    text = jnp.where(index < count, tokens[jnp.minimum(index, tokens.shape[0] - 1)], extra)
    return respond(text, count + more, limit)


def in_order(gain: Float[Array, "first second"]) -> Scalar:
    """The largest total gain of matching two sequences in order, ``gain[i, j] >= 0`` for matching element i of the
    first with element j of the second. If the gain is 1 for equal elements and 0 otherwise, the result is the length of
    their longest common subsequence (Wagner and Fischer 1974)."""

    def step(best: Float[Array, " second"], row: Float[Array, " second"]):
        before = jnp.concatenate([jnp.zeros(1), best[:-1]])
        return jax.lax.cummax(jnp.maximum(best, before + row), axis=0), None

    best, _ = jax.lax.scan(step, jnp.zeros(gain.shape[1]), gain)
    return best[-1]

"""A geometric mixture of two policies, sampled without being trained."""

import functools

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from testbed import decode
from testbed.logprob import Policy
from testbed.policies.tabular import Tabular
from testbed.transformer import Transformer
from testbed.types import Prompt, Scalar


class Geometric(eqx.Module):
    """The policy proportional to first^(1 - weight) second^weight, something to sample from.

    Of tables it is the mixture of whole responses. Of transformers it is the product of next-token distributions,
    normalised at every token (Munos et al. 2023, arXiv 2312.00886, section 7): that of whole responses would need the
    sum over all of them. The two agree where weight is 0 or 1, and at the last token.

    Attributes:
        first, second: policies of one kind. weight: of the second, from 0 to 1.
    """

    first: Policy
    second: Policy
    weight: float | Scalar


def mix(first: Array, second: Array, weight: float | Scalar) -> Array:
    """(1 - weight) first + weight second; what weighs nothing may be infinite."""
    weight = jnp.asarray(weight)
    parts = ((1.0 - weight, first), (weight, second))
    return sum(
        (jnp.where(share > 0, share * part, jnp.zeros_like(part)) for share, part in parts),
        start=jnp.zeros_like(first),
    )


@decode.sample.register(Geometric)
def sample(
    model: Geometric, prompts: Prompt, keys: Key[Array, " n"], time: int, count: int
) -> decode.Sample:
    """Sample with the keys of the policies' own sampling; see `Geometric`."""
    return _sample(model.first, model.second, model.weight, prompts, keys, time, count)


@functools.singledispatch
def _sample(
    first: Transformer,
    second: Transformer,
    weight: float | Scalar,
    prompts: Prompt,
    keys: Key[Array, " n"],
    time: int,
    count: int,
) -> decode.Sample:
    """Token by token; normalisers of the two cancel in the softmax."""

    def combine(logits: tuple[decode.Logits, ...]) -> decode.Logits:
        left, right = logits
        return mix(left, right, weight)

    return decode.write((first, second), combine, prompts, keys, time, count)


@_sample.register(Tabular)
def _sample_table(
    first: Tabular,
    second: Tabular,
    weight: float | Scalar,
    prompts: Prompt,
    keys: Key[Array, " n"],
    time: int,
    count: int,
) -> decode.Sample:
    """As the table that the mixture is."""
    mixed: Float[Array, "prompt response"] = mix(first.logits, second.logits, weight)
    table = Tabular(mixed, first.vocabulary, first.time)
    return decode.sample(table, prompts, keys, time, count)

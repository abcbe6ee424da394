"""A geometric mixture of two policies: it can be sampled, and is not trained."""

from typing import cast

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Key

from testbed import decode
from testbed.logprob import Policy
from testbed.policies.tabular import Tabular
from testbed.transformer import Transformer
from testbed.types import Prompt, Scalar


class Geometric(eqx.Module):
    """The policy proportional to first^(1 - weight) second^weight, to sample from.

    For tables it is the mixture of whole responses. For transformers it is the product of next-token distributions,
    normalised at every token (Munos et al. 2023, arXiv 2312.00886, section 7): the mixture of whole responses would
    need the sum over all of them. The two agree where weight is 0 or 1, and at the last token.

    Attributes:
        first, second: policies of one kind. weight: of the second, from 0 to 1.
    """

    first: Policy
    second: Policy
    weight: float | Scalar


def mix(first: Array, second: Array, weight: float | Scalar) -> Array:
    """(1 - weight) first + weight second; an array with weight 0 may hold infinities."""
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
    """Sample with the same keys as the policies' own sampling; see `Geometric`. Transformers are mixed token by token:
    the normalisers of both policies cancel in the softmax."""
    first, second = model.first, model.second
    if isinstance(first, Tabular) and isinstance(second, Tabular):
        mixed = mix(first.logits, second.logits, model.weight)
        table = Tabular(mixed, first.vocabulary, first.time)
        return decode.sample(table, prompts, keys, time, count)

    def combine(logits: tuple[decode.Logits, ...]) -> decode.Logits:
        left, right = logits
        return mix(left, right, model.weight)

    models = cast("tuple[Transformer, ...]", (first, second))
    return decode.write(models, combine, prompts, keys, time, count)

"""The exact expected loss of a comparison, for tasks whose responses can be enumerated (`testbed.exact.quantities`)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from testbed.exact.quantities import Matrix, Row, kl, supported
from testbed.losses.base import AbstractLoss, ScoredPair, expected
from testbed.types import PairScores, Scalar


def population_loss(
    loss: AbstractLoss,
    policy: Row,
    reference: Row,
    data: Row,
    preference: Matrix,
    lengths: Int[Array, " response"],
    reward: Row | None = None,
) -> Scalar:
    """Expected loss of one comparison: both responses independently from the data policy, then the label.

    A response may be compared with itself, as in data. Policy and reference must give every response a positive
    probability, and the probability that a comparison is skipped must not depend on the pair. Some losses read
    ``lengths`` (in tokens) and the teacher's ``reward`` (default: 0). KL(policy || reference) is exact, and has no
    gradient, as in training; the data's preferred response (`ScoredPair.target`) is one from the data policy.
    """
    reward = jnp.zeros_like(policy) if reward is None else reward
    divergence = jax.lax.stop_gradient(kl(policy, reference))
    target = jnp.sum(jnp.where(supported(data), jnp.exp(data) * policy, 0.0))

    def one(first: Array, second: Array) -> Scalar:
        ours, theirs = (PairScores(row[first], row[second]) for row in (policy, reference))
        margin = reward[first] - reward[second]
        return expected(
            loss,
            ScoredPair(
                ours,
                theirs,
                lengths[first],
                lengths[second],
                preference[first, second],
                margin,
                divergence,
                target,
            ),
        )

    index = jnp.arange(policy.shape[0])
    each = jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None))(index, index)
    chance = jnp.exp(data)
    return chance @ each @ chance


def restricted_optimum(reference: Row, exponent: Row, data: Row) -> Row:
    """Where plain gradient descent on the population loss of a softmax table ends, started from the reference, if the
    data's support is not full.

    ``exponent`` is what the full-support optimum multiplies the reference by, as a logarithm: p(y > mu) / beta for
    `Ipo`, r / (T beta) for `Dpo` under Bradley-Terry labels of temperature T. A loss of h sees differences of logits
    between responses of the data and nothing else, since normalisers cancel. So its minimisers agree with the
    exponent on differences *within* the support and say nothing about the rest; and its gradient is zero off the
    support and sums to zero over it (h does not change if all logits do), so descent keeps every logit off the support
    and the sum of those on it. The one minimiser that it can reach moves the support's logits by the exponent less its
    plain mean over the support. The others keep their logits, not their probabilities."""
    inside = supported(data)
    mean = jnp.sum(jnp.where(inside, exponent, 0.0)) / jnp.sum(inside)
    return jax.nn.log_softmax(reference + jnp.where(inside, exponent - mean, 0.0))

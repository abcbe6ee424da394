"""Exact quantities and optima, for tasks whose responses can be enumerated.

Every function is written for one prompt: a row holds a number for each of the R responses of
`testbed.exact.enumeration.all_responses`. Policies are given as log-probabilities (nats; -inf for a response with
probability 0). The row of the *data* policy mu is the distribution from which both responses of a comparison are drawn,
independently. Apply `jax.vmap` over prompts outside; a preference matrix has R^2 entries, so use `jax.lax.map` for
functions of it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from testbed import logprob
from testbed.environment import World
from testbed.logprob import Policy
from testbed.preference import AbstractLabeler
from testbed.types import Prompt, Response, Scalar

Row = Float[Array, " response"]
Matrix = Float[Array, "response response"]


def tabulate(
    function: Callable[[Prompt, Response], Scalar], prompts: Prompt, responses: Response
) -> Float[Array, "prompt response"]:
    """``function`` of every prompt with every response, such as a world's reward, one prompt at a time."""
    return jax.lax.map(lambda prompt: jax.vmap(lambda r: function(prompt, r))(responses), prompts)


def log_table(
    policy: Policy, prompts: Prompt, responses: Response
) -> Float[Array, "prompt response"]:
    """A policy's log-probability (nats) of every response to every prompt.

    Each response is scored alone behind its prompt: if all responses were packed together, attention would cover R^2
    T^2 positions, nearly all of them masked."""

    def one(prompt: Prompt) -> Row:
        count = responses.length.shape[0]
        repeated = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), prompt)
        return logprob.score(policy, repeated, jax.tree.map(lambda x: x[:, None], responses))[:, 0]

    return jax.lax.map(one, prompts)


def supported(data: Row) -> Bool[Array, " response"]:
    """Mask of the responses that have a positive probability."""
    return jnp.exp(data) > 0


def value(policy: Row, reward: Row) -> Scalar:
    """Expected reward."""
    return jnp.sum(jnp.exp(policy) * reward)


def kl(policy: Row, reference: Row) -> Scalar:
    """KL(policy || reference) in nats; infinite if the policy leaves the reference's support."""
    return jnp.sum(jnp.where(supported(policy), jnp.exp(policy) * (policy - reference), 0.0))


def entropy(policy: Row) -> Scalar:
    """Entropy of whole responses in nats."""
    return -jnp.sum(jnp.where(supported(policy), jnp.exp(policy) * policy, 0.0))


def total_variation(first: Row, second: Row) -> Scalar:
    """Half the summed absolute difference of two policies' probabilities."""
    return 0.5 * jnp.sum(jnp.abs(jnp.exp(first) - jnp.exp(second)))


def win_rate(policy: Row, opponent: Row, reward: Row) -> Scalar:
    """Probability that the policy's response has the larger reward; a tie counts one half. Takes R log R steps."""
    order = jnp.argsort(reward)
    sorted_reward = reward[order]
    below = jnp.concatenate([jnp.zeros(1), jnp.cumsum(jnp.exp(opponent)[order])])
    left, right = (jnp.searchsorted(sorted_reward, reward, side=side) for side in ("left", "right"))
    return jnp.sum(jnp.exp(policy) * 0.5 * (below[left] + below[right]))


def chi_square(target: Row, data: Row) -> Scalar:
    """E over the target of target/data, less one; infinite if the target's support is not inside the data's."""
    ratio = jnp.where(supported(target), jnp.exp(2.0 * target - data), 0.0)
    return jnp.sum(ratio) - 1.0


def max_ratio(target: Row, data: Row) -> Scalar:
    """Largest target/data over the target's support, the concentrability of the data; infinite if a response with
    positive probability under the target never occurs in the data."""
    return jnp.max(jnp.where(supported(target), jnp.exp(target - data), 0.0))


def support(target: Row, data: Row) -> Scalar:
    """Share of the target's mass on responses that have a positive probability in the data."""
    return jnp.sum(jnp.where(supported(data), jnp.exp(target), 0.0))


def preference_matrix(
    labeler: AbstractLabeler, world: World, prompt: Prompt, responses: Response
) -> Matrix:
    """P(row is preferred to column) when the labeler reads the row's response first, among comparisons that the labeler
    does not skip."""
    views = jax.vmap(lambda response: labeler.view(world, prompt, response))(responses)
    against_all = jax.vmap(labeler.preference, in_axes=(None, 0))
    return jax.vmap(against_all, in_axes=(0, None))(views, views)


def preferred(preference: Matrix, data: Row) -> Row:
    """p(y > mu): the probability that each response is preferred to one drawn from the data policy, averaged over both
    orders of reading."""
    either_order = 0.5 * (preference + 1.0 - preference.T)
    return either_order @ jnp.exp(data)


def rlhf_optimum(reference: Row, reward: Row, beta: float | Scalar) -> Row:
    """argmax of E[reward] - beta KL(policy || reference): ref exp(r / beta) / Z (arXiv 2305.18290, eq. 4).

    This is also the minimiser of the population `Dpo` loss if labels are Bradley-Terry with temperature T and the data
    has full support, with ``T beta`` for beta: then P(y > y') = sigmoid((r - r') / T), and the loss is least if beta h
    = (r - r') / T on every pair."""
    return jax.nn.log_softmax(reference + reward / beta)


def ipo_optimum(reference: Row, preference: Matrix, data: Row, beta: float | Scalar) -> Row:
    """ref exp(p(y > mu) / beta) / Z: argmax of E[p(y > mu)] - beta KL(policy || reference), and the minimiser of the
    population `Ipo` loss if mu has full support (arXiv 2310.12036, theorem 2; its tau is our beta).

    The expected loss of a pair is h^2 - (2 p - 1) h / beta, up to a constant, so the best rho of a response is
    E_mu[rho] + (p(y > mu) - 1/2) / beta, which all responses can attain at once."""
    return jax.nn.log_softmax(reference + preferred(preference, data) / beta)

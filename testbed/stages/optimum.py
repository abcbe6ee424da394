"""The exact IPO optimum, for tasks whose responses can be listed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from testbed.environment import AbstractTask
from testbed.exact import enumeration, quantities
from testbed.exact.optimum import Optimum
from testbed.logprob import Policy
from testbed.preference import AbstractLabeler
from testbed.stages.data import Labelled
from testbed.stages.golden import Standardised


class FoundOptimum(NamedTuple):
    """The optimum, and facts measured of it."""

    optimum: Optimum
    facts: dict[str, Array]


def find_optimum(
    task: AbstractTask,
    labeler: AbstractLabeler,
    beta: float | Float[Array, ""],
    golden: Standardised,
    start: Policy,
    data: Labelled,
) -> FoundOptimum:
    """The exact IPO optimum, sft exp(p(y > mu) / beta) / Z (arXiv 2310.12036, theorem 2): mu is the data policy, and p
    the labeler's preference among comparisons that it does not skip. Measured: the distance of the SFT policy from the
    optimum, and the share of the optimum's mass on responses in D_golden's labelled pairs."""
    prompts = enumeration.all_prompts(task.vocabulary, task.prompt_length)
    every = enumeration.all_responses(task.vocabulary, task.response_length)
    reference = quantities.log_table(start, prompts, every)

    def one(row: tuple) -> Float[Array, " response"]:
        prompt, reference, policy = row
        preference = quantities.preference_matrix(labeler, golden.world, prompt, every)
        return quantities.ipo_optimum(reference, preference, policy, beta)

    optimum = Optimum(prompts, every, jax.lax.map(one, (prompts, reference, data.policy)))
    pairs = data.data.pairs
    rows = enumeration.prompt_index(pairs.prompt, task.vocabulary)
    held = jnp.zeros(reference.shape, dtype=bool)
    for text in (pairs.winner, pairs.loser):
        place = enumeration.response_index(text, task.vocabulary)
        held = held.at[rows, place].max(pairs.weight > 0)
    inside = jnp.sum(jnp.where(held, jnp.exp(optimum.policy), 0.0), axis=1)
    distance = jax.vmap(quantities.total_variation)(reference, optimum.policy)
    facts = {"sft_optimum_distance": jnp.mean(distance), "data_support_mass": jnp.mean(inside)}
    return FoundOptimum(optimum, facts)

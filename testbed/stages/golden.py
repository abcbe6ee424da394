"""Standardisation of the golden reward: all worlds share one scale."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from testbed import decode
from testbed.environment import AbstractTask, World
from testbed.stages.sft import FineTuned
from testbed.stages.world import Seed
from testbed.streams import Stream, stream


class Standardised(NamedTuple):
    """The world with a standardised golden reward, the rewards of SFT samples, and facts measured of them."""

    world: World
    rewards: Float[Array, " sample"]
    facts: dict[str, Array]


def standardise(task: AbstractTask, seed: Seed, world: World, base: FineTuned) -> Standardised:
    """Zero mean and unit variance of the golden reward over SFT samples, unless the task's rewards have a fixed scale.
    Measured: the share of variance within prompts, and the samples' length."""
    key = stream(jax.random.key(seed), Stream.STANDARDISE)
    count, each = task.standardising
    prompts = jax.vmap(world.prompts)(jax.random.split(stream(key, Stream.PROMPTS), count))
    keys = jax.random.split(stream(key, Stream.SAMPLES), count)
    samples = decode.sample(base.policy, prompts, keys, task.response_length, each).response
    reward = jax.vmap(jax.vmap(world.golden, in_axes=(None, 0)))(prompts, samples)
    centre, spread = jnp.mean(reward), jnp.std(reward)
    scale = jnp.where(spread > 0, spread, 1.0)
    within = jnp.mean(jnp.var(reward, axis=1, ddof=1)) / scale**2
    if task.standardised:
        centre, scale = jnp.zeros(()), jnp.ones(())
    length = jnp.mean(samples.length.astype(jnp.float32))
    scaled = eqx.tree_at(lambda w: (w.centre, w.scale), world, (centre, scale))
    facts = {"within_prompt_variance": within, "sft_length": length}
    return Standardised(scaled, ((reward - centre) / scale).reshape(-1), facts)

"""Labelers that judge by their impressions of a response while they read it."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from envs.labelers.bradley_terry import choice
from testbed.environment import World
from testbed.preference import AbstractLabeler, View, decided
from testbed.types import END_TOKEN, Prompt, Response, Scalar


class AbstractImpressions(AbstractLabeler):
    """Bradley-Terry on a perceived reward: the mean impression, weighted by ``discount ** age``."""

    temperature: eqx.AbstractVar[float]
    discount: eqx.AbstractVar[float]

    @abc.abstractmethod
    def age(self, response: Response) -> Int[Array, " response"]:
        """How far in the past each token's impression counts as; behind the end the values are arbitrary."""

    def view(self, world: World, prompt: Prompt, response: Response) -> View:
        """The perceived reward."""
        age = self.age(response)
        return View(remembered(world, prompt, response, self.discount, age), response)

    def outcomes(self, first: View, second: View) -> Float[Array, " outcome"]:
        """P(first), P(second); never a tie or a skip."""
        return decided(choice(first.reward - second.reward, self.temperature))


def impressions(world: World, prompt: Prompt, response: Response) -> Float[Array, " response"]:
    """Golden reward, in SFT standard deviations, of the first 1, 2, ... tokens; behind the end, of all of them."""
    time = jnp.arange(response.tokens.shape[0], dtype=response.length.dtype)

    def impression(length: Int[Array, ""]) -> Scalar:
        tokens = jnp.where(time < length, response.tokens, END_TOKEN)
        return world.reward(prompt, Response(tokens, length))

    return jax.vmap(impression)(jnp.minimum(time + 1, response.length))


def remembered(
    world: World,
    prompt: Prompt,
    response: Response,
    discount: float | Scalar,
    age: Int[Array, " response"],
) -> Scalar:
    """Mean impression, each weighted by ``discount ** age``."""
    # A running product, because the slope of a power of 0 is not finite; behind the end ages may be negative.
    factors = jnp.full(response.tokens.shape[0], discount, jnp.float32).at[0].set(1.0)
    powers = jnp.cumprod(factors)[jnp.where(response.mask, age, 0)]
    weights = jnp.where(response.mask, powers, 0.0)
    return jnp.sum(weights * impressions(world, prompt, response)) / jnp.sum(weights)

"""A labeler whose last impressions count most (the recency effect of Miller and Campbell 1959)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from envs.checks import non_negative, share
from envs.labelers.bradley_terry import choice
from envs.labelers.impressions import remembered
from testbed.environment import World
from testbed.preference import AbstractLabeler, View, decided
from testbed.types import Prompt, Response


class Recency(AbstractLabeler):
    """Bradley-Terry on a perceived reward: the mean over t of the golden reward of a response's first t tokens, with
    weights discount^(length - t).

    Attributes:
        temperature: noise, in SFT standard deviations of golden reward; 0 decides by the sign.
        discount: weight of an impression relative to the one after, from 0 (the golden reward of the whole response
            decides: Bradley-Terry) to 1 (the plain mean of all impressions).
    """

    temperature: float = 1.0
    discount: float = 0.7

    def __check_init__(self) -> None:
        non_negative(self, "temperature")
        share(self, "discount")

    def view(self, world: World, prompt: Prompt, response: Response) -> View:
        """The perceived reward."""
        age = response.length - 1 - jnp.arange(response.tokens.shape[0])
        return View(remembered(world, prompt, response, self.discount, age), response)

    def outcomes(self, first: View, second: View) -> Float[Array, " outcome"]:
        """P(first), P(second); never a tie or a skip."""
        return decided(choice(first.reward - second.reward, self.temperature))

"""A labeler to whom large differences look alike."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from envs.labelers.bradley_terry import choice
from testbed.config import ranges
from testbed.config.ranges import hyper
from testbed.preference import AbstractLabeler, View, decided


class Clipped(AbstractLabeler):
    """sigmoid(clip(d, -most, most) / temperature), d the difference of golden rewards.

    Attributes:
        most: the largest difference that is perceived. temperature: noise.
    """

    most: float = hyper(2.0, above=0)
    temperature: float = hyper(0.5, least=0)

    def __check_init__(self) -> None:
        ranges.check(self)

    def outcomes(self, first: View, second: View) -> Float[Array, " outcome"]:
        """P(first), P(second), P(tie), P(skip); the last two are 0."""
        difference = jnp.clip(first.reward - second.reward, -self.most, self.most)
        return decided(choice(difference, self.temperature))

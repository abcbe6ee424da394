"""A labeler that can answer with a tie (Rao and Kupper 1967, "Ties in paired-comparison experiments")."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from envs.labelers.bradley_terry import choice
from testbed.config.ranges import hyper
from testbed.preference import AbstractLabeler, View


class Ties(AbstractLabeler):
    """Bradley-Terry with a threshold below which a difference is not noticed.

    Attributes:
        temperature: noise, in SFT standard deviations of golden reward; at 0 every difference below the threshold is a
            tie and every other one is labelled by its sign.
        threshold: smallest difference that wins more often than not, in SFT standard deviations: the logarithm of Rao
            and Kupper's theta, times the temperature. 0 is Bradley-Terry.
    """

    temperature: float = hyper(1.0, least=0)
    threshold: float = hyper(0.5, least=0)

    def outcomes(self, first: View, second: View) -> Float[Array, " outcome"]:
        """sigmoid((d - threshold) / temperature), sigmoid((-d - threshold) / temperature) and the rest, a tie."""
        difference = first.reward - second.reward
        wins = choice(difference - self.threshold, self.temperature)
        loses = choice(-difference - self.threshold, self.temperature)
        # P(tie) is computed as a product: 1 - wins - loses loses all its digits where ties are rare.
        units = self.threshold / jnp.where(self.temperature > 0, self.temperature, 1.0)
        room = jnp.where(
            self.temperature > 0, -jnp.expm1(-2.0 * units), jnp.where(self.threshold > 0, 1.0, 0.0)
        )
        return jnp.stack([wins, loses, room * (1.0 - wins) * (1.0 - loses), jnp.zeros_like(wins)])

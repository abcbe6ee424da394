"""The Bradley-Terry labeler (Bradley and Terry 1952): P(1 beats 2) = sigmoid((r1 - r2) / temperature)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from testbed.config.ranges import hyper
from testbed.preference import AbstractLabeler, View, decided
from testbed.types import Scalar


class BradleyTerry(AbstractLabeler):
    """Labels by a logistic difference of golden rewards.

    Attributes:
        temperature: noise, in SFT standard deviations of golden reward; 0 is the deterministic label of
            arXiv 2405.08448 (an exact tie is a fair coin).
    """

    temperature: float = hyper(1.0, least=0)

    def outcomes(self, first: View, second: View) -> Float[Array, " outcome"]:
        """P(first), P(second); never a tie or a skip."""
        return decided(choice(first.reward - second.reward, self.temperature))


def choice(difference: Scalar, temperature: float | Scalar) -> Scalar:
    """sigmoid(difference / temperature), and its limit at temperature 0: 0, 1/2 or 1."""
    deterministic = 0.5 * (1.0 + jnp.sign(difference))
    noisy = jax.nn.sigmoid(difference / jnp.where(temperature > 0, temperature, 1.0))
    return jnp.where(temperature > 0, noisy, deterministic)

"""The Bradley-Terry labeler (Bradley and Terry 1952): P(1 beats 2) = sigmoid((r1 - r2) / temperature)."""

import math

import jax
import jax.numpy as jnp

from testbed.errors import InvalidInput
from testbed.preference import AbstractLabeler
from testbed.types import Scalar


class BradleyTerry(AbstractLabeler):
    """Labels by a logistic difference of golden rewards.

    Attributes:
        temperature: noise, in SFT standard deviations of golden reward; 0 is the deterministic label of
            arXiv 2405.08448 (an exact tie is a fair coin).
    """

    temperature: float = 1.0

    def __check_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise InvalidInput(f"temperature must be 0 or more and finite, got {self.temperature}")

    def probability(self, first_reward: Scalar, second_reward: Scalar) -> Scalar:
        """P(first is labelled the winner)."""
        difference = first_reward - second_reward
        deterministic = 0.5 * (1.0 + jnp.sign(difference))
        noisy = jax.nn.sigmoid(difference / jnp.where(self.temperature > 0, self.temperature, 1.0))
        return jnp.where(self.temperature > 0, noisy, deterministic)

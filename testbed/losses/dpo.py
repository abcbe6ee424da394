"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, eq. 7)."""

import math

import jax

from testbed.errors import InvalidInput
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar


class Dpo(AbstractLoss):
    """-log sigmoid(beta h), h from log-probabilities summed over tokens.

    Attributes:
        beta: strength of the KL regularisation, > 0; larger stays closer to the reference.
    """

    beta: float = 0.1

    def __check_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise InvalidInput(f"beta must be > 0 and finite, got {self.beta}")

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        return -jax.nn.log_sigmoid(self.beta * pair.margin())

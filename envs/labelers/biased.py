"""A labeler with a bias for length and for the position on the screen (Zheng et al. 2023, arXiv 2306.05685)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from envs.labelers.bradley_terry import choice
from testbed.config.ranges import hyper
from testbed.preference import AbstractLabeler, View, decided
from testbed.types import Scalar


class Biased(AbstractLabeler):
    """P(first) = sigmoid((d + length_bias (length1 - length2) + position_bias) / temperature).

    Attributes:
        temperature: noise, in SFT standard deviations of golden reward; 0 decides by the sign.
        length_bias: worth of one more token, in SFT standard deviations; negative favours short responses.
        position_bias: worth of being shown first, in SFT standard deviations; negative favours the second.
    """

    temperature: float = hyper(1.0, least=0)
    length_bias: float = hyper(0.1)
    position_bias: float = hyper(0.2)

    def outcomes(self, first: View, second: View) -> Float[Array, " outcome"]:
        """P(first), P(second); never a tie or a skip."""
        worth = first.reward - second.reward + self.length_bias * longer(first, second)
        return decided(choice(worth + self.position_bias, self.temperature))


def longer(first: View, second: View) -> Scalar:
    """Number of tokens that ``first`` has more than ``second``."""
    return (first.response.length - second.response.length).astype(jnp.float32)

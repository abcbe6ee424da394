"""A general preference that no reward explains: responses can beat each other in a circle, like rock, paper and
scissors.

The model follows the blade-chest model (Chen and Joachims 2016, "Modeling intransitivity in matchup and comparison
data") and the general preference model (Zhang et al. 2024, arXiv 2410.02197): a score <R v1, v2> with skew-symmetric R,
here with unit vectors v in the plane and R a quarter turn.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from envs.labelers import style
from envs.labelers.bradley_terry import choice
from testbed.config.ranges import hyper
from testbed.preference import AbstractLabeler, View, decided
from testbed.types import Response, Scalar


class Intransitive(AbstractLabeler):
    """P(first) = sigmoid(((1 - strength) d + 2 strength sin(phase1 - phase2)) / temperature).

    The phase of a response is the argument of its mean over tokens of exp(2 pi i phi token), phi the golden ratio.
    Among three responses that are a third of a turn apart, each beats the next. With the factor 2, the sine of two
    random phases has the same standard deviation as the difference d of two SFT rewards, sqrt(2).

    Attributes:
        temperature: noise, in SFT standard deviations of golden reward; 0 decides by the sign.
        strength: how much of the margin is cyclic, from 0 (Bradley-Terry) to 1 (the golden reward has no influence).
    """

    temperature: float = hyper(1.0, least=0)
    strength: float = hyper(0.5, least=0, most=1)

    def outcomes(self, first: View, second: View) -> Float[Array, " outcome"]:
        """P(first), P(second); never a tie or a skip."""
        worth = (1.0 - self.strength) * (first.reward - second.reward)
        cyclic = 2.0 * self.strength * lead(first.response, second.response)
        return decided(choice(worth + cyclic, self.temperature))


def lead(first: Response, second: Response) -> Scalar:
    """sin(phase1 - phase2); 0 if a response's tokens cancel, so that it has no phase."""
    a, b = style.features(first, 1), style.features(second, 1)
    size = jnp.sqrt(jnp.sum(a**2) * jnp.sum(b**2))
    return jnp.where(size > 0, (a[1] * b[0] - a[0] * b[1]) / jnp.where(size > 0, size, 1.0), 0.0)

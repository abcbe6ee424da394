"""People who rate both responses on a scale: P(1 beats 2) = Phi((r1 - r2) / (spread sqrt(2 / raters))).

Thurstone's law of comparative judgement, case V (Thurstone 1927): each person's rating of a response is normal about
its reward, independently and with the same standard deviation, and the response of the higher mean rating is preferred.
"""

import math

import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from envs.labelers.bradley_terry import BradleyTerry
from testbed.config.ranges import hyper
from testbed.preference import AbstractLabeler, View, decided


class Raters(AbstractLabeler):
    """Labels by mean ratings of both responses (Thurstone 1927, case V).

    Attributes:
        spread: standard deviation of one person's rating, in SFT standard deviations of golden reward; 0 is a
            deterministic label (an exact tie is a fair coin). For worlds of human ratings `envs.ratings.spread` gives
            the standard deviation in rating points.
        raters: how many people rate each response.
    """

    spread: float = hyper(1.0, least=0)
    raters: int = hyper(1, least=1, static=True)

    def outcomes(self, first: View, second: View) -> Float[Array, " outcome"]:
        """P(first), P(second); never a tie or a skip."""
        difference = first.reward - second.reward
        deterministic = 0.5 * (1.0 + jnp.sign(difference))
        spread = jnp.where(self.spread > 0, self.spread, 1.0)
        noisy = ndtr(difference / (spread * math.sqrt(2.0 / self.raters)))
        return decided(jnp.where(self.spread > 0, noisy, deterministic))

    def nearest(self) -> BradleyTerry:
        """The most similar Bradley-Terry labeler: the logistic distribution function of 1.702 x is within 0.01 of
        Phi(x) (Haley 1952)."""
        return BradleyTerry(self.spread * math.sqrt(2.0 / self.raters) / 1.702)

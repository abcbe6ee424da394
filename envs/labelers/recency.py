"""A labeler whose last impressions count most (the recency effect of Miller and Campbell 1959)."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from envs.labelers.impressions import AbstractImpressions
from testbed.config.ranges import hyper
from testbed.types import Response


class Recency(AbstractImpressions):
    """Bradley-Terry on a perceived reward: the mean over t of the golden reward of a response's first t tokens, with
    weights discount^(length - t).

    Attributes:
        temperature: noise, in SFT standard deviations of golden reward; 0 decides by the sign.
        discount: weight of an impression relative to the one after, from 0 (the golden reward of the whole response
            decides: Bradley-Terry) to 1 (the plain mean of all impressions).
    """

    temperature: float = hyper(1.0, least=0)
    discount: float = hyper(0.7, least=0, most=1)

    def age(self, response: Response) -> Int[Array, " response"]:
        """See `AbstractImpressions`."""
        return response.length - 1 - jnp.arange(response.tokens.shape[0])

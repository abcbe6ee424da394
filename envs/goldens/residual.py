"""A golden reward in standard deviations within a prompt, optionally without its dependence on length."""

from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from testbed.environment import AbstractGolden
from testbed.types import Prompt, Response, Scalar, each_with_prompt

#: Number of rewards computed at a time.
BATCH = 64


class Residual(AbstractGolden):
    """(golden - slope x length - centre) / scale.

    Attributes:
        slope: reward a token, 0 to keep the dependence on length. centre: mean over samples. scale: standard deviation
            within prompts of the remaining reward, in the golden's own unit.
    """

    golden: AbstractGolden
    slope: Scalar
    centre: Scalar
    scale: Scalar

    @classmethod
    def standardised(
        cls, golden: AbstractGolden, prompts: Prompt, samples: Response, without_length: bool
    ) -> Self:
        """Standardise over ``each`` samples to each of ``n`` prompts. The mean becomes 0, the variance within prompts 1
        (a constant reward keeps scale 1), and, if ``without_length``, the least-squares slope on length within prompts
        0."""
        reward, length = rewards(golden, prompts, samples), samples.length.astype(jnp.float32)
        own = _within(length)
        slope = jnp.zeros(())
        if without_length:
            square = jnp.sum(own**2)
            product = jnp.sum(own * _within(reward))
            slope = jnp.where(square > 0, product / jnp.where(square > 0, square, 1.0), 0.0)
        rest = reward - slope * length
        spread = jnp.sqrt(jnp.mean(jnp.var(rest, axis=1, ddof=1)))
        return cls(golden, slope, jnp.mean(rest), jnp.where(spread > 0, spread, 1.0))

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """The remaining reward, in standard deviations within a prompt."""
        length = response.length.astype(jnp.float32)
        return (self.golden(prompt, response) - self.slope * length - self.centre) / self.scale


@eqx.filter_jit
def rewards(golden: AbstractGolden, prompts: Prompt, samples: Response) -> Float[Array, "n each"]:
    """Golden rewards of ``each`` samples to each of ``n`` prompts, computed in batches."""
    texts = each_with_prompt(prompts, samples)
    found = jax.lax.map(lambda pair: golden(*pair), texts, batch_size=BATCH)
    return found.reshape(samples.length.shape)


def _within(values: Float[Array, "n each"]) -> Float[Array, "n each"]:
    """Deviations from each prompt's mean."""
    return values - jnp.mean(values, axis=1, keepdims=True)

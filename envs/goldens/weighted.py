"""A weighted sum of golden rewards, each standardised first so that weights mean the same everywhere."""

from collections.abc import Sequence
from typing import Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from testbed.environment import AbstractGolden
from testbed.types import Prompt, Response, Scalar


class WeightedGolden(AbstractGolden):
    """sum_i weight_i (golden_i - center_i) / scale_i."""

    goldens: tuple[AbstractGolden, ...]
    weights: Float[Array, " golden"]
    centres: Float[Array, " golden"]
    scales: Float[Array, " golden"]

    @classmethod
    def standardised(
        cls,
        goldens: Sequence[AbstractGolden],
        weights: Sequence[float | Array],
        prompts: Prompt,
        responses: Response,
    ) -> Self:
        """Standardise every part over ``n`` sampled responses (a constant part keeps scale 1)."""
        values = jnp.stack([jax.vmap(golden)(prompts, responses) for golden in goldens])
        spread = jnp.std(values, axis=1)
        return cls(
            tuple(goldens),
            jnp.stack([jnp.asarray(w, dtype=jnp.float32) for w in weights]),
            jnp.mean(values, axis=1),
            jnp.where(spread > 0, spread, 1.0),
        )

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """The weighted sum, in standard deviations of the parts."""
        values = jnp.stack([golden(prompt, response) for golden in self.goldens])
        return jnp.sum(self.weights * (values - self.centres) / self.scales)

"""A taste for responses that say many different things."""

import jax.numpy as jnp

from testbed.environment import AbstractGolden
from testbed.types import Prompt, Response, Scalar


class Variety(AbstractGolden):
    """The number of different tokens, the end token included: repetition adds nothing."""

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """The number of different tokens."""
        tokens = response.tokens
        repeated = jnp.any(jnp.tril(tokens[:, None] == tokens[None], k=-1), axis=1)
        return jnp.sum(response.mask & ~repeated).astype(jnp.float32)

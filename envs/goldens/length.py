"""A taste for long responses."""

import jax.numpy as jnp

from testbed.environment import AbstractGolden
from testbed.types import Prompt, Response, Scalar


class Length(AbstractGolden):
    """The number of tokens, the end token included."""

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """Length in tokens."""
        return response.length.astype(jnp.float32)

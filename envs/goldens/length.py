"""A taste for long responses."""

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from envs.pretrained_rewards import AbstractTaste
from testbed.environment import AbstractGolden
from testbed.policies.pretrained import Pretrained
from testbed.types import Prompt, Response, Scalar


class Length(AbstractGolden):
    """The number of tokens, the end token included."""

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """Length in tokens."""
        return response.length.astype(jnp.float32)


class LengthTaste(AbstractTaste):
    """Long responses (`Length`); for smoke tests."""

    def golden(
        self, key: PRNGKeyArray, model: Pretrained, learnt: None, prompts: Prompt, samples: Response
    ) -> Length:
        """The same golden reward in every world."""
        return Length()

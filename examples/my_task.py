"""A user's own task in one file, and the first study, `gap`, on it: a token's worth depends on the token before it.

testbed inspect examples/my_task.py --quick
testbed run examples/my_task.py --preset smoke
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from envs.neural import AbstractNetworkTask
from sweeps.studies import gap
from testbed.environment import AbstractGolden, World
from testbed.transformer_config import TransformerConfig
from testbed.types import Prompt, Response, Scalar


class Steps(AbstractGolden):
    """The summed worth of every step from one token to the next; the first step starts at the prompt's last token."""

    worth: Float[Array, "vocabulary vocabulary"]

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """Reward of one response."""
        before = jnp.roll(response.tokens, 1).at[0].set(prompt.tokens[prompt.length - 1])
        return jnp.sum(jnp.where(response.mask, self.worth[before, response.tokens], 0.0))


class Paths(AbstractNetworkTask):
    """Find a path of worthy steps. Writers are random networks, as in `Neural`; a world draws the worth of each step.

    Attributes:
        vocabulary: token ids, including the end token. prompt_length, response_length: tokens.
        writers: how many; ``writer`` their shape, ``closing`` how readily they end. order: not used.
        staying: cost of writing a token again, so that no repeated token is worth much.
    """

    vocabulary: int = eqx.field(static=True, default=16)
    prompt_length: int = eqx.field(static=True, default=4)
    response_length: int = eqx.field(static=True, default=8)
    writers: int = eqx.field(static=True, default=4)
    writer: TransformerConfig = TransformerConfig(width=16, layers=1, heads=2, key_value_heads=2)
    closing: float = 0.1
    order: int = eqx.field(static=True, default=0)
    staying: float = 1.0

    def world(self, key: PRNGKeyArray) -> World:
        """Draw writers and the worth of each step."""
        k_worth, *keys = jax.random.split(key, 4)
        prompts, writers, _, _ = self.written(*keys)
        worth = jax.random.normal(k_worth, (self.vocabulary, self.vocabulary))
        return World(
            prompts, writers, Steps(jnp.fill_diagonal(worth, -self.staying, inplace=False))
        )


study = gap.study.derived("my_task", "Online against offline, on a task of one's own", task=Paths())

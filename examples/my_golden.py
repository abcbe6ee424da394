"""A user's own golden reward in one file, in a world of the testbed, and the first study, `gap`, in this world.

testbed inspect examples/my_golden.py --quick
testbed run examples/my_golden.py --preset smoke
"""

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from envs.summarize import Summarize
from sweeps.studies import gap
from testbed.environment import AbstractGolden, World
from testbed.types import Prompt, Response, Scalar, within


class Mentions(AbstractGolden):
    """How many of the prompt's tokens the response mentions, minus ``price`` for each token of the response."""

    price: float = 0.5

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """Reward of one response."""
        equal = prompt.tokens[:, None] == response.tokens[None]
        mentioned = jnp.any(equal & response.mask[None], axis=1)
        asked = within(prompt.length, prompt.tokens.shape[0])
        count = jnp.sum(mentioned & asked).astype(jnp.float32)
        return count - self.price * response.length.astype(jnp.float32)


class Mentioning(Summarize):
    """`Summarize` with its prompts and writers; all tokens of the prompt have the same worth.

    Attributes:
        price: cost of a token of the response, in tokens mentioned.
    """

    price: float = 0.5

    def world(self, key: PRNGKeyArray) -> World:
        """Draw prompts and writers; the reward is the same in every world."""
        drawn = super().world(key)
        return World(drawn.prompts, drawn.writers, Mentions(self.price))


study = gap.study.derived(
    "my_golden", "Online against offline, under a reward of one's own", task=Mentioning()
)

"""A labeler that skips hard comparisons."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from envs.labelers.bradley_terry import BradleyTerry
from testbed.config.ranges import hyper
from testbed.environment import World
from testbed.errors import InvalidInput
from testbed.preference import AbstractLabeler, Outcome, View
from testbed.types import Prompt, Response


class Skips(AbstractLabeler):
    """Any labeler, but P(skip) = rate exp(-|d| / scale): the closer the two rewards, the likelier no answer.

    Attributes:
        labeler: who answers the comparisons that are not skipped; its own skips are kept.
        rate: probability of skipping a comparison of equal rewards.
        scale: the difference, in SFT standard deviations of golden reward, at which the probability has fallen to 1/e
            of the rate; infinite skips at random, whatever the comparison.
    """

    labeler: AbstractLabeler = BradleyTerry()
    rate: float = hyper(0.5, least=0, most=1)
    scale: float = 1.0

    def __check_init__(self) -> None:
        if not self.scale > 0:
            raise InvalidInput(f"scale must be more than 0 (infinite too), got {self.scale}")

    def view(self, world: World, prompt: Prompt, response: Response) -> View:
        """The view of the inner labeler."""
        return self.labeler.view(world, prompt, response)

    def outcomes(self, first: View, second: View) -> Float[Array, " outcome"]:
        """P(skip), and the inner labeler's answers with the remaining probability."""
        skipped = self.rate * jnp.exp(-jnp.abs(first.reward - second.reward) / self.scale)
        chance = (1.0 - skipped) * self.labeler.outcomes(first, second)
        return chance.at[Outcome.SKIP].add(skipped)

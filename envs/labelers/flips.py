"""Labels flipped at random, whatever the comparison (the label noise of robust DPO, arXiv 2403.00409)."""

from jaxtyping import Array, Float

from envs.labelers.bradley_terry import BradleyTerry
from testbed.config.ranges import hyper
from testbed.environment import World
from testbed.preference import AbstractLabeler, Outcome, View
from testbed.types import Prompt, Response


class Flips(AbstractLabeler):
    """Any labeler, some of whose answers are reversed at random; its ties and skips stay.

    Attributes:
        labeler: who answers.
        rate: probability of a flip, from 0 to one half, where answers carry no information.
    """

    labeler: AbstractLabeler = BradleyTerry()
    rate: float = hyper(0.1, least=0, most=0.5)

    def view(self, world: World, prompt: Prompt, response: Response) -> View:
        """The view of the inner labeler."""
        return self.labeler.view(world, prompt, response)

    def outcomes(self, first: View, second: View) -> Float[Array, " outcome"]:
        """(1 - rate) P(answer) + rate P(opposite answer)."""
        chance = self.labeler.outcomes(first, second)
        opposite = chance[Outcome.FIRST], chance[Outcome.SECOND]
        flipped = chance.at[Outcome.SECOND].set(opposite[0]).at[Outcome.FIRST].set(opposite[1])
        return (1.0 - self.rate) * chance + self.rate * flipped

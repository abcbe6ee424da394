"""Soft labels: the probability of a preference in place of a draw."""

from jaxtyping import Array, Float, PRNGKeyArray

from envs.labelers.bradley_terry import BradleyTerry
from testbed.environment import World
from testbed.preference import AbstractLabeler, Outcome, View
from testbed.types import Label, Prompt, Response


class Soft(AbstractLabeler):
    """The mean of infinitely many labels of the same comparison.

    The weight of a label is the probability that the comparison is not skipped, so that its loss is the expected loss.

    Attributes:
        labeler: whose labels. A labeler around this one (`Flips` of `Soft`) draws again: soft labels come outermost.
    """

    labeler: AbstractLabeler = BradleyTerry()

    def view(self, world: World, prompt: Prompt, response: Response) -> View:
        """The view of the inner labeler."""
        return self.labeler.view(world, prompt, response)

    def outcomes(self, first: View, second: View) -> Float[Array, " outcome"]:
        """The outcomes of the inner labeler."""
        return self.labeler.outcomes(first, second)

    def __call__(self, key: PRNGKeyArray, first: View, second: View) -> Label:
        """The inner labeler's preference; ``key`` is not used."""
        chance = self.outcomes(first, second)
        return Label(self.preference(first, second), 1.0 - chance[Outcome.SKIP])

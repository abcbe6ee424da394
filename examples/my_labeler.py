"""A user's own labeler in one file, and the first study, `gap`, with its labels: people whose attention lapses.

    testbed run examples/my_labeler.py --preset smoke
    testbed run examples/my_labeler.py --preset smoke --set labeler.rate=0.3

If the file is moved to `envs/labelers/`, every study can use the labeler, and the tests of its family include it.
"""

from jaxtyping import Array, Float

from envs.labelers.bradley_terry import choice
from sweeps.studies import gap
from testbed.errors import InvalidInput
from testbed.preference import AbstractLabeler, View, decided

BIBTEX = """@article{wichmann2001psychometric,
  title = {The psychometric function: I. Fitting, sampling, and goodness of fit},
  author = {Wichmann, Felix A. and Hill, N. Jeremy},
  journal = {Perception and Psychophysics},
  year = {2001},
}"""


class Lapses(AbstractLabeler):
    """rate / 2 + (1 - rate) sigmoid(d / temperature), d the difference of golden rewards (Wichmann and Hill 2001).

    Attributes:
        rate: share of comparisons that are answered by a coin, between 0 and 1.
        temperature: noise of the other answers, in SFT standard deviations of golden reward.
    """

    rate: float = 0.1
    temperature: float = 0.5

    def __check_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise InvalidInput(f"rate must be between 0 and 1, got {self.rate}")
        if not 0 <= self.temperature < float("inf"):
            raise InvalidInput(f"temperature must be 0 or more and finite, got {self.temperature}")

    def outcomes(self, first: View, second: View) -> Float[Array, " outcome"]:
        """P(first), P(second), P(tie), P(skip); the last two are 0."""
        attentive = choice(first.reward - second.reward, self.temperature)
        return decided(self.rate / 2 + (1 - self.rate) * attentive)


study = gap.study.derived(
    "my_labeler", "Online against offline, labels by lapses", labeler=Lapses()
)

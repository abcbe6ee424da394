"""The deterministic labeler of arXiv 2405.08448: the response of higher golden reward always wins."""

from jaxtyping import Array, Float

from envs.labelers.bradley_terry import choice
from testbed.preference import AbstractLabeler, View, decided


class Deterministic(AbstractLabeler):
    """Labels by the sign of the difference of golden rewards; an exact tie is a fair coin."""

    def outcomes(self, first: View, second: View) -> Float[Array, " outcome"]:
        """0 or 1 for P(first), 1/2 at an exact tie; never a tie or a skip."""
        return decided(choice(first.reward - second.reward, 0.0))

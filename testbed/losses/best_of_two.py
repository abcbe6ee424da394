"""Best-of-2 fine-tuning (Tang et al. 2024, arXiv 2405.08448, eq. 3)."""

from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar


class BestOfTwo(AbstractLoss):
    """-log pi(y_w|x): imitate the winner, summed over tokens; neither the loser nor the reference enters."""

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        return -pair.policy.winner

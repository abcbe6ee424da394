"""Best-of-2 fine-tuning."""

from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar


class BestOfTwo(AbstractLoss):
    """-log pi(y_w|x), summed over tokens: imitate the winner (Tang et al. 2024, arXiv 2405.08448, eq. 3).

    The loss uses neither the loser nor the reference, so only the data hold the policy back. The population optimum is
    the distribution of winners, 2 mu(y) p(y > mu) for pairs drawn from mu.
    """

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        return -pair.policy.winner

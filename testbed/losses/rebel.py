"""Regression to relative rewards."""

from testbed.config.ranges import hyper
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar


class Rebel(AbstractLoss):
    """(beta h - (r_w - r_l))^2: regress the margin on the difference of rewards (Gao et al. 2024, arXiv 2404.16767,
    algorithm 1, with 1/beta for eta).

    Rewards are the teacher's (`ScoredPair.reward_margin`), so the loss learns from the size of the difference and
    ignores the label: nothing changes if winner and loser swap. The paper's reference is the previous iterate:
    ``reference=Refreshed(...)``. With a fixed reference and data of full support the population optimum is ref exp(r /
    beta) / Z (`testbed.exact.quantities.rlhf_optimum`), whatever the data's distribution. Log-probabilities are summed
    over tokens. The authors' code has (h - eta (r_w - r_l))^2, which is eta^2 times this loss, so learning rates do not
    transfer.

    Attributes:
        beta: strength of the KL regularisation, > 0; larger stays closer to the reference.
    """

    beta: float = hyper(0.1, above=0)

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        return (self.beta * pair.margin() - pair.reward_margin) ** 2

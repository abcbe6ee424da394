"""Reward-weighted regression."""

import jax

from testbed.config.ranges import hyper
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar


class WeightedSft(AbstractLoss):
    """-(w log pi(y_w) + (1 - w) log pi(y_l)), w = sigmoid((r_w - r_l) / beta): imitate both responses, weighted by
    exp(r / beta) (Peng et al. 2019, arXiv 1910.00177, algorithm 1; Peters and Schaal 2007, ICML).

    The weights of the papers are exp(advantage / beta), unbounded and relative to a learnt value; the weights here are
    normalised within the pair, which needs no value. Rewards are the teacher's (`ScoredPair.reward_margin`), so nothing
    changes if winner and loser swap. The loss has no reference: beta is the strength of the KL to the data's policy.
    The population optimum for pairs drawn from mu is 2 mu(y) E[sigmoid((r(y) - r(y')) / beta)], y' from mu; the optimum
    of the papers is mu exp(r / beta) / Z. Two samples only tell which of them is better, so the optimum here is never
    more than twice mu. In the limit of beta to 0 the loss is `BestOfTwo` on noise-free labels. Log-probabilities are
    summed over tokens.

    Attributes:
        beta: strength of the KL regularisation towards the data, > 0; larger stays closer to it.
    """

    beta: float = hyper(0.1, above=0)

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        advantage = pair.reward_margin / self.beta
        winner = jax.nn.sigmoid(advantage) * pair.policy.winner
        return -winner - jax.nn.sigmoid(-advantage) * pair.policy.loser

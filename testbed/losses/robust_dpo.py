"""Robust DPO."""

import jax

from testbed.config.ranges import hyper
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar


class RobustDpo(AbstractLoss):
    """[-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)] / (1 - 2e): an unbiased estimate of `Dpo`'s loss on clean
    labels (Chowdhury et al. 2024, arXiv 2403.00409, section 3).

    If each label was flipped with probability e, the expectation of this loss over the flip is the loss on the original
    label, so the population optimum on flipped labels is that of `Dpo` on clean ones. The estimate is unbiased for
    flips, but not for Bradley-Terry noise. The loss falls without bound as h grows (slope -e / (1 - 2e) beta), so the
    margins of pairs whose labels never disagree grow for ever. TRL's ``robust`` agrees.

    Attributes:
        beta: strength of the KL regularisation, > 0; larger stays closer to the reference.
        flips: e, the probability that a label was flipped, from 0 (`Dpo`) to below 1/2.
    """

    beta: float = hyper(0.1, above=0)
    flips: float = hyper(0.1, least=0, below=0.5)

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        z = self.beta * pair.margin()
        right, wrong = -jax.nn.log_sigmoid(z), -jax.nn.log_sigmoid(-z)
        return ((1.0 - self.flips) * right - self.flips * wrong) / (1.0 - 2.0 * self.flips)

"""Kahneman-Tversky optimisation."""

import jax

from testbed.config.ranges import hyper
from testbed.losses.base import AbstractLoss, Extra, ScoredPair
from testbed.types import Scalar


class Kto(AbstractLoss):
    """The mean of desirable sigmoid(beta (z0 - rho(y_w))) and undesirable sigmoid(beta (rho(y_l) - z0)), where z0 is
    KL(policy || reference) without a gradient (Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8).

    The paper learns from single responses; here a pair is one desirable and one undesirable example. The paper's
    lambda_y - v(x, y) equals lambda_y sigmoid(-(...)) here. z0 is the batch's estimate as in the paper and HALOs
    (`ScoredPair.kl`; exact where responses can be enumerated), one number for both terms. The older ``kto_pair`` of TRL
    and PaddleNLP took the mean log-ratio of the batch's losers as z0 of winners and the reverse, which is neither a KL
    nor a function of a pair. Log-probabilities are summed over tokens. The loss saturates, so pairs that are far from
    the target have almost no gradient. No population optimum is known in closed form.

    Attributes:
        beta: strength of the KL regularisation, > 0; larger is less averse to risk, and moves less.
        desirable: the paper's lambda_D, the weight of winners, 0 or more.
        undesirable: the paper's lambda_U, the weight of losers, 0 or more.
    """

    beta: float = hyper(0.1, above=0)
    desirable: float = hyper(1.0, least=0)
    undesirable: float = hyper(1.0, least=0)

    @property
    def extras(self) -> frozenset[Extra]:
        """The KL."""
        return frozenset({Extra.KL})

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        rho, z0 = pair.log_ratios(), jax.lax.stop_gradient(pair.kl)
        winner = self.desirable * jax.nn.sigmoid(self.beta * (z0 - rho.winner))
        loser = self.undesirable * jax.nn.sigmoid(self.beta * (rho.loser - z0))
        return 0.5 * (winner + loser)

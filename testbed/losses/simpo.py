"""Simple preference optimisation."""

import equinox as eqx
import jax

from testbed.config.ranges import hyper
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar


class SimPo(AbstractLoss):
    """-log sigmoid(beta (log pi(y_w) / |y_w| - log pi(y_l) / |y_l|) - gamma), log-probabilities averaged over tokens
    (Meng et al. 2024, arXiv 2405.14734, eq. 6).

    There is no reference to stay close to: beta scales the log-likelihood a token, and with a larger beta a smaller
    difference is enough. Public codes differ in the meaning of the margin: the authors' code and HALOs take the ratio
    gamma / beta, TRL's CPOTrainer takes gamma. Both are available here. No population optimum is known in closed form.

    Attributes:
        beta: scale of the log-likelihood a token, > 0; the paper uses 2 to 10.
        gamma: margin that the winner should have, 0 or more.
        ratio: take ``gamma`` for the ratio gamma / beta, so that the margin is beta times as large.
    """

    beta: float = hyper(2.0, above=0)
    gamma: float = hyper(1.0, least=0)
    ratio: bool = eqx.field(static=True, default=False)

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        mean = pair.mean_logprobs()
        gamma = self.beta * self.gamma if self.ratio else self.gamma
        return -jax.nn.log_sigmoid(self.beta * (mean.winner - mean.loser) - gamma)

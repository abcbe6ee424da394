"""Self-play preference optimisation."""

from testbed.config.ranges import hyper
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar


class Sppo(AbstractLoss):
    """(rho(y_w) - 1/(2 beta))^2 + (rho(y_l) + 1/(2 beta))^2: regress each log-ratio on how often the response wins (Wu
    et al. 2024, arXiv 2405.00675, eq. 4.7, with 1/beta for eta).

    The target of a log-ratio is (P - 1/2) / beta with P = 1 for the winner and 0 for the loser, as in TRL's
    ``sppo_hard``. The expectation over a label of preference p, p l(pair) + (1 - p) l(pair.swapped), has P = p and 1 -
    p instead, up to the constant 2 p (1 - p) / beta^2, since p (a - 1/2)^2 + (1 - p) (a + 1/2)^2 = (a - (p - 1/2))^2 +
    p (1 - p). This expectation is the authors' loss, except that the authors take P from a preference model and average
    the two terms instead of summing them. The paper's reference is the previous iterate: ``reference=Refreshed(...)``.

    The paper replaces the log-normaliser by 1/(2 beta). Then no policy has rho(y) = (p(y > mu) - 1/2) / beta =: t(y)
    for all y, unless the mean of exp(t) under the reference is 1. The population optimum is rho(y) = t(y) - W(c ref(y)
    / mu(y) exp(t(y))), W Lambert's function, with the constant c for which the result is a policy. If mu is the
    reference and t is small, the optimum is close to ref exp(t) / Z.

    Attributes:
        beta: strength of the KL regularisation, > 0; larger stays closer to the reference.
    """

    beta: float = hyper(0.1, above=0)

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        rho, target = pair.log_ratios(), 1.0 / (2.0 * self.beta)
        return (rho.winner - target) ** 2 + (rho.loser + target) ** 2

"""Conservative DPO."""

import jax

from testbed.config.ranges import hyper
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar


class ConservativeDpo(AbstractLoss):
    """-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h): labels smoothed by e (Mitchell 2023, "A note on DPO with
    noisy preferences", eq. 3).

    The loss equals `Dpo` in expectation over labels that are flipped with probability e. For a pair it is least where
    sigmoid(beta h) = 1 - e, so margins stay finite even if labels never disagree. TRL's ``label_smoothing`` and
    OpenRLHF's are the same. For noisy labels of preference p, the best beta h is the log-odds of (1 - 2e) p + e. Under
    Bradley-Terry these log-odds are not differences of a function of the responses, so there is no closed-form optimum
    unless e is 0.

    Attributes:
        beta: strength of the KL regularisation, > 0; larger stays closer to the reference.
        smoothing: e, the share of labels taken to be wrong, from 0 (`Dpo`) to below 1/2.
    """

    beta: float = hyper(0.1, above=0)
    smoothing: float = hyper(0.1, least=0, below=0.5)

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        z = self.beta * pair.margin()
        right, wrong = -jax.nn.log_sigmoid(z), -jax.nn.log_sigmoid(-z)
        return (1.0 - self.smoothing) * right + self.smoothing * wrong

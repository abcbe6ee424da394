"""Direct preference optimisation."""

import jax

from testbed.config.ranges import hyper
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar


class Dpo(AbstractLoss):
    """-log sigmoid(beta h), h from log-probabilities summed over tokens (Rafailov et al. 2023, arXiv 2305.18290, eq.
    7).

    The population optimum under Bradley-Terry labels is `testbed.exact.quantities.rlhf_optimum`. TRL, HALOs and
    OpenRLHF agree with the paper.

    Attributes:
        beta: strength of the KL regularisation, > 0; larger stays closer to the reference.
    """

    beta: float = hyper(0.1, above=0)

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        return -jax.nn.log_sigmoid(self.beta * pair.margin())

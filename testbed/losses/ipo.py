"""Identity preference optimisation."""

import equinox as eqx

from testbed.config.ranges import hyper
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar


class Ipo(AbstractLoss):
    """(h - 1/(2 beta))^2, the squared distance of the margin from its target (Azar et al. 2023, arXiv 2310.12036, eq.
    17).

    The paper (its tau is our beta) uses whole-response log-probabilities, as do the original DPO repository and
    OpenRLHF. TRL's DPOTrainer and HALOs average them over tokens under the same name, which rescales h by about the
    response length. Both forms are available here. The population optimum of the summed form is
    `testbed.exact.quantities.ipo_optimum`.

    Attributes:
        beta: strength of the KL regularisation, > 0; larger stays closer to the reference.
        length_normalised: average log-ratios over tokens instead of summing them.
    """

    beta: float = hyper(0.1, above=0)
    length_normalised: bool = eqx.field(static=True, default=False)

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        return (pair.margin(self.length_normalised) - 1.0 / (2.0 * self.beta)) ** 2

"""Sequence likelihood calibration."""

from typing import Literal

import equinox as eqx
import jax

from testbed.config.ranges import hyper
from testbed.losses.base import AbstractLoss, Extra, ScoredPair
from testbed.types import Scalar

Target = Literal["winner", "data"]


class Slic(AbstractLoss):
    """max(0, delta - log pi(y_w) + log pi(y_l)) - weight log pi(target), log-probabilities summed over tokens (Zhao et
    al. 2023, arXiv 2305.10425, section 2).

    The loss has no reference: the cross-entropy of the target holds the policy back (its weight is the paper's lambda).
    The paper tries the SFT target of the prompt and the best-ranked candidate, and finds little difference. Here the
    corresponding targets are the data's preferred response to the prompt and the pair's winner; offline the two are the
    same unless labels are soft. HALOs takes the winner. TRL's SLiC is the hinge of `Gpo`. No population optimum is
    known in closed form.

    Attributes:
        delta: margin of log-likelihood that the winner should have (nats), 0 or more.
        weight: weight of the cross-entropy, 0 or more; larger stays closer to the target.
        target: whose cross-entropy: the pair's ``winner``, or the ``data``'s preferred response to the prompt.
    """

    delta: float = hyper(1.0, least=0)
    weight: float = hyper(0.5, least=0)
    target: Target = eqx.field(static=True, default="winner")

    @property
    def extras(self) -> frozenset[Extra]:
        """The data's preferred response, if that is the target."""
        return frozenset({Extra.TARGET} if self.target == "data" else ())

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        calibration = jax.nn.relu(self.delta - pair.policy.winner + pair.policy.loser)
        target = pair.target if self.target == "data" else pair.policy.winner
        return calibration - self.weight * target

"""DPO-Positive."""

from typing import Literal

import equinox as eqx
import jax

from testbed.config.ranges import hyper
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar

Place = Literal["inside", "outside"]


class DpoPositive(AbstractLoss):
    """-log sigmoid(beta (h - weight max(0, -rho(y_w)))): `Dpo` with a penalty where the winner loses likelihood (Pal et
    al. 2024, arXiv 2402.13228, eq. 3).

    The penalty (its weight is the paper's lambda) is inside the sigmoid, so it fades once the policy's margin is large.
    Public codes disagree. PaddleNLP has had the penalty inside and, in another version, outside: added as weight max(0,
    -rho(y_w)), it never fades and is not scaled by beta. LLaMA2-Accessory subtracts the penalty from the loss, which
    rewards what the paper punishes. The first two are available here. Log-probabilities are summed over tokens. No
    population optimum is known in closed form.

    Attributes:
        beta: strength of the KL regularisation, > 0; larger stays closer to the reference.
        weight: weight of the penalty, from 0 (`Dpo`); the paper uses 50.
        penalty: where it stands, ``inside`` the sigmoid (the paper) or ``outside``.
    """

    beta: float = hyper(0.1, above=0)
    weight: float = hyper(50.0, least=0)
    penalty: Place = eqx.field(static=True, default="inside")

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        lost = self.weight * jax.nn.relu(-pair.log_ratios().winner)
        if self.penalty == "outside":
            return lost - jax.nn.log_sigmoid(self.beta * pair.margin())
        return -jax.nn.log_sigmoid(self.beta * (pair.margin() - lost))

"""Generalised preference optimisation."""

from collections.abc import Callable, Mapping
from typing import Final, Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from testbed.config.ranges import hyper
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar

#: Above this number exp is continued by its tangent; float32 can still hold exp(80).
STEEPEST: Final = 80.0

Function = Literal["logistic", "hinge", "square", "exponential", "truncated_square", "savage"]


def _exponential(z: Scalar) -> Scalar:
    """exp(-z); below z = -STEEPEST its tangent there."""
    capped = jnp.minimum(-z, STEEPEST)
    return jnp.exp(capped) * (1.0 - z - capped)


FUNCTIONS: Final[Mapping[str, Callable[[Scalar], Scalar]]] = {
    "logistic": lambda z: -jax.nn.log_sigmoid(z),
    "hinge": lambda z: jax.nn.relu(1.0 - z),
    "square": lambda z: (1.0 - z) ** 2,
    "exponential": _exponential,
    "truncated_square": lambda z: jax.nn.relu(1.0 - z) ** 2,
    "savage": lambda z: jax.nn.sigmoid(-z) ** 2,
}


class Gpo(AbstractLoss):
    """f(beta h), where f(z) is log(1 + exp(-z)) (logistic), max(0, 1 - z) (hinge), (1 - z)^2 (square), exp(-z)
    (exponential), max(0, 1 - z)^2 (truncated_square) or 1 / (1 + exp(z))^2 (savage) (Tang et al. 2024, arXiv
    2402.05749, table 1).

    Log-probabilities are summed over tokens. Logistic is `Dpo`. TRL, RSO and others call the hinge SLiC; the loss of
    the SLiC-HF paper is `Slic`, which has no reference. Square is beta^2 times `Ipo` with beta/2, since (1 - beta h)^2
    = beta^2 (h - 1/beta)^2, so learning rates and betas do not transfer between the two. Savage is not convex. The
    exponential continues along its tangent where exp(-beta h) exceeds e^80.

    Population optima for data mu of full support: ref exp(2 p(y > mu) / beta) / Z for square. Under Bradley-Terry
    labels of temperature T, ref exp(r / (T beta)) / Z for logistic and savage, which are both least at sigmoid(beta h)
    = p, and ref exp(r / (2 T beta)) / Z for exponential. The truncated square has the optimum of square if |beta h| <=
    1 there for every pair, which holds unless p(y > mu) varies by more than 1/2. The hinge has no optimum in closed
    form.

    Attributes:
        beta: strength of the KL regularisation, > 0; larger stays closer to the reference.
        function: which f.
    """

    beta: float = hyper(0.1, above=0)
    function: Function = eqx.field(static=True, default="logistic")

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        return FUNCTIONS[self.function](self.beta * pair.margin())

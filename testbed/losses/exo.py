"""Efficient exact optimisation."""

import jax
import jax.numpy as jnp

from testbed.config.ranges import hyper
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar


class Exo(AbstractLoss):
    """s log(s / q) + (1 - s) log((1 - s) / (1 - q)), s = sigmoid(beta h), q = (1 - e) p + e (1 - p): the reverse KL
    from the policy's choice between the two responses to the label's, p smoothed by e (Ji et al. 2024, arXiv
    2402.00856, eq. 16 for K = 2).

    `Dpo` is the forward KL instead, up to a constant. The paper has certain labels, p = 1; here soft labels enter the
    target q. The loss does not change if winner and loser swap, so the expectation over the label that training takes
    leaves it unchanged. For soft Bradley-Terry labels of temperature T its population optimum is then, as e goes to 0,
    that of `Dpo`, ref exp(r / (T beta)) / Z. This does not hold for drawn labels: the mean of the losses over a label
    that is 1 with probability p is least at beta h = (2p - 1) log((1 - e) / e). TRL's ``exo_pair`` takes e = 1e-3; the
    authors' code takes log-odds of 10, that is e = 4.5e-5.

    Attributes:
        beta: strength of the KL regularisation, > 0; larger stays closer to the reference.
        smoothing: e, the share of labels taken to be wrong, between 0 and 1/2, exclusive.
    """

    beta: float = hyper(0.1, above=0)
    smoothing: float = hyper(1e-3, above=0, below=0.5)

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        z, p = self.beta * pair.margin(), pair.preference
        towards_winner = (1.0 - self.smoothing) * p + self.smoothing * (1.0 - p)
        towards_loser = self.smoothing * p + (1.0 - self.smoothing) * (1.0 - p)
        winner = jax.nn.sigmoid(z) * (jax.nn.log_sigmoid(z) - jnp.log(towards_winner))
        loser = jax.nn.sigmoid(-z) * (jax.nn.log_sigmoid(-z) - jnp.log(towards_loser))
        return winner + loser

"""Odds-ratio preference optimisation."""

from typing import Final

import jax
import jax.numpy as jnp

from testbed.config.ranges import hyper
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar

#: Largest log-probability a token, in nats below certainty: the odds of a text with probability 1 are infinite.
CERTAIN: Final = 1e-6


class Orpo(AbstractLoss):
    """-m_w - weight log sigmoid(log odds(m_w) - log odds(m_l)), where m = log pi(y) / |y| is the log-probability a
    token and odds(m) = exp(m) / (1 - exp(m)) (Hong et al. 2024, arXiv 2403.07691, eqs. 6 and 7).

    There is no reference; the negative log-likelihood of the winner holds the policy to the data. Here, as in
    LLaMA-Factory, it is averaged over the tokens of each response. The authors' code and TRL take the mean over all
    tokens of the batch instead, so long winners weigh more, and by default they include the tokens of the prompt:
    neither form is a function of a pair. The weight is the paper's lambda (TRL names it beta, although it is no KL
    strength: larger moves further). The probability a token that enters the odds is at most exp(-1e-6). No population
    optimum is known in closed form.

    Attributes:
        weight: weight of the odds-ratio term, 0 or more.
    """

    weight: float = hyper(0.1, least=0)

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        mean = pair.mean_logprobs()
        ratio = _log_odds(mean.winner) - _log_odds(mean.loser)
        return -mean.winner - self.weight * jax.nn.log_sigmoid(ratio)


def _log_odds(logprob: Scalar) -> Scalar:
    """log(p / (1 - p)) from log p."""
    logprob = jnp.minimum(logprob, -CERTAIN)
    return logprob - jax.nn.log1mexp(-logprob)

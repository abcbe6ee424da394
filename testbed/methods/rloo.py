"""REINFORCE leave-one-out."""

import equinox as eqx

from testbed.config.ranges import hyper
from testbed.methods.base import (
    AbstractResponseGradient,
    Each,
    Penalty,
    Rollouts,
    Tokens,
    less_others,
    weighted,
)


class Rloo(AbstractResponseGradient):
    """-(R_i - mean of the group's other R_j) log pi(y_i|x), R the reward less beta rho(y); written as a ratio of
    probabilities, so that stale responses count right (Ahmadian et al. 2024, arXiv 2402.14740, section 2; the
    estimator is that of Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!").

    A response is one action, and nothing is clipped, as in the paper; TRL's trainer of the same name clips ratios (of
    whole responses) as PPO does.

    Attributes:
        beta: strength of the KL regularisation; larger stays closer to the reference.
        kl: where its penalty stands: ``reward`` (unbiased), or in the loss as the estimate ``k1``, ``k2`` or ``k3``.
        group: responses to a prompt, 2 or more.
    """

    beta: float = hyper(0.1, least=0)
    kl: Penalty = eqx.field(static=True, default="reward")
    group: int = hyper(4, least=2, static=True)

    @property
    def count(self) -> int:
        """The size of the group."""
        return self.group

    def losses(self, logprobs: Tokens, rollouts: Rollouts, returns: Each) -> Each:
        """The loss of each response."""
        return weighted(logprobs, rollouts, less_others(returns, axis=1))

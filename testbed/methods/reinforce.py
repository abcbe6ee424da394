"""REINFORCE on whole responses, one to a prompt."""

from typing import Literal

import equinox as eqx

from testbed.config.ranges import hyper
from testbed.errors import InvalidInput
from testbed.methods.base import (
    AbstractResponseGradient,
    Each,
    Penalty,
    Rollouts,
    Tokens,
    less_others,
    weighted,
)
from testbed.source import Request


class Reinforce(AbstractResponseGradient):
    """-(R - b) log pi(y|x), R the reward less beta rho(y), one response to a prompt; written as a ratio of
    probabilities, so that stale responses count right (Williams 1992, "Simple statistical gradient-following
    algorithms", section 4; for language models Ahmadian et al. 2024, arXiv 2402.14740, section 2).

    The baseline b does not depend on the response: it is 0, or the mean return of the batch's other prompts. The
    paper's baseline is a running mean of all earlier rewards, which no batch holds; neither baseline changes the
    expected gradient.

    Attributes:
        beta: strength of the KL regularisation; larger stays closer to the reference.
        kl: where its penalty stands: ``reward`` (unbiased), or in the loss as the estimate ``k1``, ``k2`` or ``k3``.
        baseline: ``batch`` (mean return of the other prompts) or ``none``.
    """

    beta: float = hyper(0.1, least=0)
    kl: Penalty = eqx.field(static=True, default="reward")
    baseline: Literal["none", "batch"] = eqx.field(static=True, default="batch")

    def request(self, batch_size: int) -> Request:
        """See `AbstractPolicyGradient`. Refuses a batch of one prompt if the baseline needs other prompts."""
        if self.baseline == "batch" and batch_size < 2:
            raise InvalidInput(
                f"batch_size must be 2 or more for the baseline 'batch' of Reinforce, the mean of the other prompts, "
                f"got {batch_size}"
            )
        return super().request(batch_size)

    def losses(self, logprobs: Tokens, rollouts: Rollouts, returns: Each) -> Each:
        """The loss of each response."""
        advantages = less_others(returns, axis=0) if self.baseline == "batch" else returns
        return weighted(logprobs, rollouts, advantages)

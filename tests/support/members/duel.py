"""Of two responses to a prompt, the better one is made likelier by as much as it is better."""

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


class Duel(AbstractResponseGradient):
    """-(R - R') log pi(y|x), R' the return of the other response to the prompt.

    Attributes:
        beta: strength of the KL regularisation. kl: where its penalty stands.
    """

    beta: float = hyper(0.1, least=0)
    kl: Penalty = eqx.field(static=True, default="reward")

    @property
    def count(self) -> int:
        """Responses to a prompt."""
        return 2

    def losses(self, logprobs: Tokens, rollouts: Rollouts, returns: Each) -> Each:
        """The loss of each response."""
        return weighted(logprobs, rollouts, less_others(returns, axis=1))

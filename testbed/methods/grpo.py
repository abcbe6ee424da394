"""Group relative policy optimisation, as published and "done right"."""

import equinox as eqx
import jax.numpy as jnp

from testbed.config.ranges import hyper
from testbed.methods.base import AbstractResponseGradient, Each, Penalty, Rollouts, Tokens, clipped
from testbed.types import Response

#: Added to the standard deviation of a group's returns, which may be 0. The value is TRL's; verl has 1e-6.
EPSILON = 1e-4


class Grpo(AbstractResponseGradient):
    """mean over tokens of -min(w A, clip(w, 1 - clip, 1 + clip) A), w a token's ratio of probabilities, A a response's
    return less its group's mean over the group's standard deviation (Shao et al. 2024, arXiv 2402.03300, eq. 3 and
    section 4.1.2).

    The paper's penalty is ``kl="k3"`` inside the mean over tokens, with beta 0.04. Here the penalty is in the reward by
    default, because only then its gradient is that of the KL. The standard deviation has group - 1 as its divisor, as
    in TRL and verl (the paper does not say).

    With neither normalisation the method is Dr. GRPO (Liu et al. 2025, arXiv 2503.20783, section 3.1): tokens are
    summed, and A is the return less the group's mean, whose expected gradient on fresh texts is that of Rloo times
    (group - 1) / group. Its authors' code divides the sum by a constant, the length limit; this only rescales the
    learning rate (and a penalty in the loss is divided by the same constant). Each normalisation biases the gradient:
    standard deviations weigh prompts and returns by how much a group differs, and lengths reduce the weight of a token
    in a long response (21 and 12 degrees off the objective's gradient in the world of
    tests/testbed/test_estimators.py).

    Attributes:
        beta: strength of the KL regularisation; larger stays closer to the reference.
        kl: where its penalty stands: ``reward``, or in the loss as the estimate ``k1``, ``k2`` or ``k3`` (the paper's).
        group: responses to a prompt, 2 or more.
        clip: how far from 1 a token's ratio may go before it has no gradient; without effect on fresh texts.
        normalise_std: divide advantages by the group's standard deviation.
        normalise_length: average over a response's tokens instead of summing them.
    """

    beta: float = hyper(0.1, least=0)
    kl: Penalty = eqx.field(static=True, default="reward")
    group: int = hyper(4, least=2, static=True)
    clip: float = hyper(0.2, above=0)
    normalise_std: bool = eqx.field(static=True, default=True)
    normalise_length: bool = eqx.field(static=True, default=True)

    @property
    def count(self) -> int:
        """The size of the group."""
        return self.group

    def total(self, tokens: Tokens, responses: Response) -> Each:
        """Sum or mean over a response's tokens."""
        total = jnp.sum(tokens, axis=-1)
        return total / responses.length.astype(total.dtype) if self.normalise_length else total

    def losses(self, logprobs: Tokens, rollouts: Rollouts, returns: Each) -> Each:
        """The loss of each response."""
        advantages = returns - jnp.mean(returns, axis=1, keepdims=True)
        if self.normalise_std:
            variance = jnp.sum(advantages**2, axis=1, keepdims=True) / (self.group - 1)
            advantages = advantages / (jnp.sqrt(variance) + EPSILON)
        by_token = jnp.broadcast_to(advantages[..., None], logprobs.shape)
        each = clipped(logprobs, rollouts, by_token, jnp.asarray(self.clip))
        return self.total(each, rollouts.responses)

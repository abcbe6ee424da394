"""Nash mirror descent by policy gradient."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from testbed.config.ranges import hyper
from testbed.logprob import Policy
from testbed.methods.base import AbstractResponseGradient, Each, Penalty, Rollouts, Tokens, weighted
from testbed.policies.geometric_mixture import Geometric
from testbed.source import Ledger, Request, TrainingInputs
from testbed.types import Scalar


class Duel(eqx.Module):
    """The rollout function of one response to a prompt by the policy, whose reward is the teacher's P(y > y') - 1/2
    against one response by the geometric mixture of policy and reference.

    Attributes:
        mixing: weight of the reference in the mixture.
    """

    mixing: float | Scalar

    def __call__(
        self, inputs: TrainingInputs, policy: Policy, rows: Int[Array, " n"], key: PRNGKeyArray
    ) -> Rollouts:
        """Write both responses and keep the policy's."""
        opponent = Geometric(policy, inputs.reference, self.mixing)
        ours, theirs = (
            inputs.sample(writer, rows, part, count=1)
            for writer, part in zip((policy, opponent), jax.random.split(key), strict=True)
        )
        first, second = (
            jax.tree.map(lambda x: x[:, 0], texts.response) for texts in (ours, theirs)
        )
        reward: Float[Array, " n"] = jax.nn.sigmoid(
            inputs.teacher.margin(inputs.prompts(rows), first, second)
        )
        both = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), ours.response, theirs.response)
        spent = Ledger.fresh(both, judgements=1)
        return Rollouts.judged(inputs, rows, ours, reward[:, None] - 0.5, spent)


class NashMd(AbstractResponseGradient):
    """-(P(y > y') - 1/2 - beta rho(y)) log pi(y|x), y by the policy, y' by the mixture pi^(1 - mixing) ref^mixing;
    written as a ratio of probabilities, so that stale responses count right (Munos et al. 2023, arXiv 2312.00886,
    section 7, Nash-MD-PG; its tau is our beta, its beta our mixing).

    P = sigmoid(teacher's margin), the probability of a Bradley-Terry judge of temperature 1. The opponent has no
    gradient. With ``mixing`` 0 this is self-play, with 1 the best response to the reference. For tables the mixture is
    that of whole responses, for transformers that of next tokens; see `testbed.policies.geometric_mixture.Geometric`.

    TRL's trainer multiplies each token's log-ratio with the gradient of that token alone. This is ``kl="k2"`` here and
    not the paper's gradient, which is ``kl="reward"``.

    Attributes:
        beta: strength of the KL regularisation; larger stays closer to the reference.
        mixing: weight of the reference in the opponent, from 0 to 1.
        kl: where its penalty stands: ``reward`` (the paper's), or in the loss as the estimate ``k1``, ``k2`` or ``k3``.
    """

    beta: float = hyper(0.1, least=0)
    mixing: float = hyper(0.125, least=0, most=1)
    kl: Penalty = eqx.field(static=True, default="reward")

    def request(self, batch_size: int) -> Request:
        """One response by the policy and one by the mixture to every prompt."""
        return Request(batch_size, Duel(self.mixing))

    def losses(self, logprobs: Tokens, rollouts: Rollouts, returns: Each) -> Each:
        """The loss of each response."""
        return weighted(logprobs, rollouts, returns)

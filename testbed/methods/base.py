"""Shared parts of policy gradients and related methods: their texts, and the KL penalty that keeps the policy near the
reference.

A KL penalty of strength beta can be part of the return, or part of the loss as an estimate whose gradient is taken
through the policy's log-probabilities. For a token with log-ratio l = log pi - log ref, the estimates are k1 = l, k2 =
l^2 / 2 and k3 = exp(-l) - 1 + l (Schulman 2020, "Approximating KL divergence", joschu.net/blog/kl-approx.html). A good
estimate of the KL need not have a good gradient (Tang and Munos 2025, arXiv 2506.09477). On fresh texts the expected
gradients are

- reward: that of KL(pi || ref), exactly;
- k1: zero. It penalises nothing, and adds noise;
- k2: the sum over tokens of the gradient of the next token's KL(pi || ref), with the distribution of prefixes held
  fixed. The gradient ignores that a token leads to prefixes where the two policies differ, so it is exact only for
  responses of one token;
- k3: the same with KL(ref || pi) for the next token's KL.

On the random tables of tests/testbed/test_estimators.py (3 tokens, at most 3 of them in a response, KL 0.71 nats), k2's
expected gradient has 0.92 of the true one's length and points 16 degrees off; k3's has 1.07 and 28 degrees. There 3000
steps of Rloo with beta 0.3 end at the exact optimum with ``reward`` (less than 0.001 nats of KL away), 0.12 nats from
it with k2 and 0.39 with k3; with k1 nothing holds the policy. On stale texts none of the three estimates is corrected.
"""

import abc
import functools
from typing import ClassVar, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from testbed import config, decode, logprob
from testbed.errors import InvalidInput
from testbed.logprob import Policy
from testbed.objective import AbstractObjective
from testbed.source import AbstractSource, Ledger, Request, RolloutFunction, TrainingInputs
from testbed.types import Prompt, Response, Scalar

#: Where the KL penalty stands; see the docstring of this module.
Penalty: TypeAlias = Literal["reward", "k1", "k2", "k3"]
Tokens: TypeAlias = Float[Array, "n count response"]
Each: TypeAlias = Float[Array, "n count"]

#: Largest logarithm of a ratio of probabilities. A larger one is cut, and has no gradient. Healthy runs stay below 1;
#: without this limit, the exponential is infinite once a policy has diverged.
LARGEST = 30.0


class Rollouts(eqx.Module):
    """``count`` responses to each of ``n`` prompts, with numbers recorded when they were written.

    Attributes:
        behaviour: log-probabilities (nats) of their tokens under the policy that wrote them.
        reference: the same under the reference policy of the time.
        reward: of each response; see `rewards`.
        rows: which of the data's prompts they answer. spent: what they cost.
    """

    prompts: Prompt
    responses: Response
    behaviour: Tokens
    reference: Tokens
    reward: Each
    rows: Int[Array, " n"]
    spent: Ledger

    @classmethod
    def judged(
        cls,
        inputs: TrainingInputs,
        rows: Int[Array, " n"],
        written: decode.Sample,
        reward: Each,
        spent: Ledger,
    ) -> "Rollouts":
        """The rollouts of a sample, with scores under the reference."""
        prompts, responses = inputs.prompts(rows), written.response
        reference = logprob.score_tokens(inputs.reference, prompts, responses)
        return cls(prompts, responses, written.logprobs, reference, reward, rows, spent)


def rewards(inputs: TrainingInputs, rows: Int[Array, " n"], responses: Response) -> Each:
    """The teacher's margin of each response over the data's preferred response to the same prompt.

    This turns any preference model into a reward, a pairwise one too. If the teacher compares rewards, the margin is
    the reward less a constant of the prompt. The constant cancels within a group, and elsewhere adds variance but no
    bias."""
    count = responses.length.shape[1]
    prompts, rivals = (inputs.prompts(rows), inputs.preferred(rows))
    prompts, rivals = jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), (prompts, rivals))
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), responses)
    return inputs.teacher.margin(prompts, flat, rivals).reshape(-1, count)


@functools.cache
def write_group(count: int) -> RolloutFunction:
    """The rollout function of `Rollouts` with ``count`` responses to a prompt; one function for each count, because
    compiled programs are cached by this function."""

    def rollout(
        inputs: TrainingInputs, policy: Policy, rows: Int[Array, " n"], key: PRNGKeyArray
    ) -> Rollouts:
        written = inputs.sample(policy, rows, key, count)
        reward = rewards(inputs, rows, written.response)
        spent = Ledger.fresh(written.response, judgements=count)
        return Rollouts.judged(inputs, rows, written, reward, spent)

    return rollout


class AbstractWriting(AbstractObjective):
    """A method that learns from newly written texts of the policy."""

    #: The kind of method, for the error message that refuses a source.
    what: ClassVar[str] = ""

    def refuse(self, source: AbstractSource) -> None:
        """Refuse sources that do not write texts."""
        if not source.writes:
            raise InvalidInput(
                f"loss {type(self).__name__} {self.what}learns from responses that the policy has just written, and "
                f"{config.spell(source)} gives it others': use source Online(), Snapshot(refresh_every=...) or "
                f"Reuse(epochs=...)"
            )


class AbstractPolicyGradient(AbstractWriting):
    """Ascends the expected reward less beta KL(policy || reference), by the score function of the policy's own
    responses.

    Attributes:
        beta: strength of the KL regularisation.
        kl: where its penalty stands.
    """

    what: ClassVar[str] = "is a policy gradient: it "

    beta: eqx.AbstractVar[float]
    kl: eqx.AbstractVar[Penalty]

    @property
    def count(self) -> int:
        """Number of responses to a prompt."""
        return 1

    def request(self, batch_size: int) -> Request:
        """`count` responses to every prompt, and their rewards."""
        return Request(batch_size, write_group(self.count), self.count, judgements=self.count)

    def total(self, tokens: Tokens, responses: Response) -> Each:
        """A response's loss from the losses of its tokens: their sum."""
        return jnp.sum(tokens, axis=-1)

    def price(self, logprobs: Tokens, rollouts: Rollouts) -> Tokens:
        """The part of each token's reward that the KL penalty takes, without a gradient.

        The penalty uses the present policy's log-probabilities. Public codes store those of the time of writing. On
        fresh texts both are the same; on stale texts the stored ones would give the gradient of another objective."""
        if self.kl != "reward":
            return jnp.zeros_like(logprobs)
        return jax.lax.stop_gradient(self.beta * (logprobs - rollouts.reference))

    def penalty(self, logprobs: Tokens, rollouts: Rollouts) -> Tokens:
        """The part of each token's loss that the KL penalty adds. As in public codes, stale texts are not
        reweighted."""
        log_ratio = logprobs - rollouts.reference
        if self.kl == "k1":
            return self.beta * log_ratio
        if self.kl == "k2":
            return self.beta * 0.5 * log_ratio**2
        if self.kl == "k3":
            return self.beta * (ratio(-log_ratio) - 1.0 + log_ratio)
        return jnp.zeros_like(logprobs)


class AbstractResponseGradient(AbstractPolicyGradient):
    """A policy gradient that treats a response as one action with one return."""

    @abc.abstractmethod
    def losses(self, logprobs: Tokens, rollouts: Rollouts, returns: Each) -> Each:
        """The loss of each response, from the policy's log-probabilities of its tokens and its return, which has no
        gradient."""

    def value(
        self, policy: Policy, critic: PyTree, inputs: TrainingInputs, batch: Rollouts
    ) -> Scalar:
        """Mean loss over responses, with the KL penalty. Its gradient is minus that of the objective, but its value is
        not the objective's: on fresh texts the value is minus the mean advantage, which a baseline keeps near 0."""
        logprobs = logprob.score_tokens(policy, batch.prompts, batch.responses)
        returns = batch.reward - jnp.sum(self.price(logprobs, batch), axis=-1)
        each = self.losses(logprobs, batch, returns)
        return jnp.mean(each + self.total(self.penalty(logprobs, batch), batch.responses))


def ratio(log_ratio: Array) -> Array:
    """exp, with the argument limited to `LARGEST`."""
    return jnp.exp(jnp.minimum(log_ratio, LARGEST))


def weighted(logprobs: Tokens, rollouts: Rollouts, advantages: Each) -> Each:
    """-A pi(y|x) / behaviour(y|x), by the probabilities of whole responses.

    On fresh texts its gradient is -A grad log pi. The gradient of stale texts is corrected exactly, but its variance
    grows with the distance between the two policies."""
    return -advantages * ratio(jnp.sum(logprobs - rollouts.behaviour, axis=-1))


def clipped(logprobs: Tokens, rollouts: Rollouts, advantages: Tokens, clip: Scalar) -> Tokens:
    """-min(w A, clip(w, 1 - clip, 1 + clip) A) of each token, w its ratio of probabilities; 0 behind the end
    (Schulman et al. 2017, arXiv 1707.06347, eq. 7)."""
    weight = ratio(logprobs - rollouts.behaviour)
    near = jnp.clip(weight, 1.0 - clip, 1.0 + clip)
    least = jnp.minimum(weight * advantages, near * advantages)
    return jnp.where(rollouts.responses.mask, -least, 0.0)


def less_others(returns: Each, axis: int) -> Each:
    """Each return less the mean of the other returns along an axis: a baseline that does not depend on the response
    itself."""
    count = returns.shape[axis]
    others = (jnp.sum(returns, axis=axis, keepdims=True) - returns) / (count - 1)
    return returns - others

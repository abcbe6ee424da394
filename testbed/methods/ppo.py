"""Proximal policy optimisation with a value function."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from testbed import logprob
from testbed.config.ranges import hyper
from testbed.logprob import Policy
from testbed.methods.base import AbstractPolicyGradient, Penalty, Rollouts, Tokens, clipped
from testbed.source import TrainingInputs
from testbed.types import Scalar


class Ppo(AbstractPolicyGradient):
    """-min(w A, clip(w, 1 - clip, 1 + clip) A) + value_weight (V - target)^2 / 2 summed over tokens, w a token's ratio
    of probabilities, A by generalised advantage estimation (Schulman et al. 2017, arXiv 1707.06347, eq. 7 and 9;
    Schulman et al. 2016, arXiv 1506.02438, eq. 16).

    A token is an action. Its reward is -beta times its log-ratio to the reference; the last token also gets the
    response's reward. The episode ends at an end token or at the length limit, and the value behind its end is 0.
    Losses are summed over a response's tokens and averaged over responses, which makes the gradient unbiased for
    ``gae_lambda=1`` without whitening; TRL averages over the tokens of the batch, which differs by the mean length.

    Difference to public codes: a rollout function does not see a value function, so advantages and value targets are
    not those of the time of writing. They are computed anew at every step, from the present values and the present
    penalty, without a gradient. With fresh texts this is PPO; with `Reuse` it is what Andrychowicz et al. 2020 (arXiv
    2006.05990, section 3.5) recommend, taken to every step. A clip of the value's change would need the old values, and
    is not available.

    The value function is linear in the policy's last hidden states, as in TRL's ``AutoModelForCausalLMWithValueHead``,
    where the value loss also trains the policy's trunk. Other codes, TRL's later trainer among them, use a separate
    network for values; ``shared_trunk=False`` is closer to that. Values start at 0. For tables the value function is a
    table.

    Attributes:
        beta: strength of the KL regularisation; larger stays closer to the reference.
        kl: where its penalty stands: ``reward`` (by token), or in the loss as the estimate ``k1``, ``k2`` or ``k3``.
        clip: how far from 1 a token's ratio may go before it has no gradient; without effect on fresh texts.
        value_weight: weight of the value loss.
        discount: factor on rewards for every token that they come later.
        gae_lambda: 1 for returns less values, which is unbiased; 0 for one-step differences of values.
        whiten: give the batch's advantages mean 0 and variance 1 (over tokens, as TRL and verl do). This rescales the
            reward and a penalty in it alike, but not a penalty in the loss.
        shared_trunk: whether the value loss has a gradient with respect to the policy.
    """

    beta: float = hyper(0.1, least=0)
    kl: Penalty = eqx.field(static=True, default="reward")
    clip: float = hyper(0.2, above=0)
    value_weight: float = hyper(0.1, least=0)
    discount: float = hyper(1.0, above=0, most=1)
    gae_lambda: float = hyper(0.95, least=0, most=1)
    whiten: bool = eqx.field(static=True, default=True)
    shared_trunk: bool = eqx.field(static=True, default=True)

    def critic(self, policy: Policy) -> PyTree:
        """The value function."""
        return logprob.value_head(policy)

    def value(
        self, policy: Policy, critic: PyTree, inputs: TrainingInputs, batch: Rollouts
    ) -> Scalar:
        """Mean over responses of the policy's loss, the value loss and the KL penalty."""
        responses, mask = batch.responses, batch.responses.mask
        logits, values = logprob.response_values(
            policy, critic, batch.prompts, responses, self.shared_trunk
        )
        logprobs, values = logprob.token_logprobs(logits, responses), jnp.where(mask, values, 0.0)
        last = jnp.arange(mask.shape[-1])[None, None] == responses.length[..., None] - 1
        rewards = jnp.where(last, batch.reward[..., None], 0.0) - self.price(logprobs, batch)
        now = jax.lax.stop_gradient(values)
        advantages = estimated(rewards, now, jnp.asarray(self.discount), self.gae_lambda)
        target = advantages + now
        if self.whiten:
            advantages = whitened(advantages, mask)
        each = clipped(logprobs, batch, advantages, jnp.asarray(self.clip))
        each = each + self.value_weight * 0.5 * (values - target) ** 2
        return jnp.mean(self.total(each + self.penalty(logprobs, batch), responses))


def estimated(
    rewards: Tokens, values: Tokens, discount: float | Scalar, gae_lambda: float | Scalar
) -> Tokens:
    """Generalised advantages: the sum of the differences r_t + discount V_{t+1} - V_t from a token on, each later token
    with weight ``discount gae_lambda`` relative to the one before. Rewards and values are 0 behind the end."""
    later = jnp.concatenate([values[..., 1:], jnp.zeros_like(values[..., :1])], axis=-1)
    differences = rewards + discount * later - values

    def back(advantage: Array, difference: Array) -> tuple[Array, Array]:
        advantage = difference + discount * gae_lambda * advantage
        return advantage, advantage

    by_time = jnp.moveaxis(differences, -1, 0)
    _, found = jax.lax.scan(back, jnp.zeros_like(by_time[0]), by_time, reverse=True)
    return jnp.moveaxis(found, 0, -1)


def whitened(advantages: Tokens, mask: Bool[Array, "n count response"]) -> Tokens:
    """Advantages less their mean, divided by their standard deviation (from the unbiased variance); both over
    tokens."""
    count = jnp.sum(mask).astype(advantages.dtype)
    centred = jnp.where(mask, advantages - jnp.sum(jnp.where(mask, advantages, 0.0)) / count, 0.0)
    variance = jnp.sum(centred**2) / jnp.maximum(count - 1.0, 1.0)
    return centred * jax.lax.rsqrt(variance + 1e-8)

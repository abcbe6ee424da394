"""What is measured of a policy, inside the compiled program: one fixed pytree an evaluation.

Definitions follow arXiv 2405.08448, appendices D and E.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from testbed import decode, logprob
from testbed.experiment import EvaluationConfig
from testbed.preference import AbstractPreference, GoldenPreference
from testbed.sources.base import Dataset
from testbed.streams import Stream, stream
from testbed.transformer import Transformer
from testbed.types import Prompt, Response, Scalar


class Opponent(eqx.Module):
    """The golden baseline's fixed answers to the fixed evaluation prompts, and their golden rewards."""

    prompts: Prompt
    responses: Response
    reward: Float[Array, " n"]


class Metrics(eqx.Module):
    """One evaluation of a policy.

    Attributes:
        kl, kl_se: KL(policy || SFT) in nats a response, and its standard error.
        win_rate, win_rate_se: share of prompts on which the golden reward prefers the policy's answer to the golden
            baseline's; a tie counts one half.
        golden_reward, golden_reward_se: mean, in SFT standard deviations.
        proxy_reward: mean margin of the proxy over the baseline's answers (log-odds); proxy_win_rate: its sign.
        data_accuracy: share of D_golden's pairs on which sign(h) agrees with the golden reward.
        self_accuracy: the same on two samples of the policy.
        winner_logprob_change, loser_logprob_change: of D_golden's responses against SFT, nats a response.
        entropy: of the next token along the policy's own samples, nats a token. length: tokens a response.
    """

    kl: Scalar
    kl_se: Scalar
    win_rate: Scalar
    win_rate_se: Scalar
    golden_reward: Scalar
    golden_reward_se: Scalar
    proxy_reward: Scalar
    proxy_win_rate: Scalar
    data_accuracy: Scalar
    self_accuracy: Scalar
    winner_logprob_change: Scalar
    loser_logprob_change: Scalar
    entropy: Scalar
    length: Scalar


def mean_se(x: Float[Array, " n"]) -> tuple[Scalar, Scalar]:
    """Mean and its standard error."""
    return jnp.mean(x), jnp.std(x, ddof=1) / jnp.sqrt(x.shape[0])


def kl_and_entropy(
    policy: Transformer, reference: Transformer, prompts: Prompt, responses: Response
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Per response: the sum over positions of the exact categorical KL of the next token (unbiased for the KL of
    whole responses when the responses are the policy's; arXiv 2405.08448, appendix D), and the mean entropy."""
    stacked = jax.tree.map(lambda x: x[:, None], responses)
    ours, theirs = (
        jax.nn.log_softmax(logprob.response_logits(model, prompts, stacked)[:, 0], axis=-1)
        for model in (policy, reference)
    )
    probability = jnp.exp(ours)
    kl = jnp.sum(probability * (ours - theirs), axis=-1)
    entropy = -jnp.sum(probability * ours, axis=-1)
    mask = responses.mask
    mean_entropy = jnp.sum(jnp.where(mask, entropy, 0.0), axis=-1) / responses.length
    return jnp.sum(jnp.where(mask, kl, 0.0), axis=-1), mean_entropy


def agreement(h: Float[Array, " n"], truth: Float[Array, " n"]) -> Scalar:
    """Share of pairs on which the policy's margin ``h`` has the sign of ``truth``; an exact 0 counts one half."""
    return jnp.mean(0.5 * (1.0 + jnp.sign(h) * jnp.sign(truth)))


def evaluate(
    config: EvaluationConfig,
    policy: Transformer,
    reference: Transformer,
    data: Dataset,
    golden: GoldenPreference,
    proxy: AbstractPreference,
    opponent: Opponent,
    key: PRNGKeyArray,
) -> Metrics:
    """Evaluate a policy against its reference (SFT) and the golden baseline."""
    time = opponent.responses.tokens.shape[-1]
    prompts = opponent.prompts
    few = jax.tree.map(lambda x: x[: config.kl_prompts], prompts)
    first = _answers(policy, prompts, stream(key, Stream.FIRST_RESPONSE), time)
    second = _answers(policy, few, stream(key, Stream.SECOND_RESPONSE), time)
    few_first = jax.tree.map(lambda x: x[: config.kl_prompts], first)

    reward = jax.vmap(golden.world.reward)(prompts, first)
    # The same text is a tie, whatever rounding in two programs makes of its two rewards.
    same = jnp.all(first.tokens == opponent.responses.tokens, axis=-1)
    wins = 0.5 * (1.0 + jnp.sign(jnp.where(same, 0.0, reward - opponent.reward)))
    margin = jnp.where(same, 0.0, proxy.margin(prompts, first, opponent.responses))
    kl, entropy = kl_and_entropy(policy, reference, few, few_first)

    known = jax.tree.map(lambda x: x[: config.pairs], data)
    # Scored again under the reference: the data's own scores come from another program, and their rounding would
    # decide the comparisons of a policy that has not moved.
    ours, theirs = (logprob.score_pairs(model, known.pairs) for model in (policy, reference))
    winner, loser = ours.winner - theirs.winner, ours.loser - theirs.loser

    both = jax.tree.map(lambda a, b: jnp.stack([a, b], axis=1), few_first, second)
    own = logprob.score(policy, few, both) - logprob.score(reference, few, both)
    truth = golden.margin(few, few_first, second)

    return Metrics(
        *mean_se(kl),
        *mean_se(wins),
        *mean_se(reward),
        proxy_reward=jnp.mean(margin),
        proxy_win_rate=jnp.mean(0.5 * (1.0 + jnp.sign(margin))),
        data_accuracy=agreement(winner - loser, known.golden_margin),
        self_accuracy=agreement(own[:, 0] - own[:, 1], truth),
        winner_logprob_change=jnp.mean(winner),
        loser_logprob_change=jnp.mean(loser),
        entropy=jnp.mean(entropy),
        length=jnp.mean(first.length.astype(jnp.float32)),
    )


def _answers(policy: Transformer, prompts: Prompt, key: PRNGKeyArray, time: int) -> Response:
    """One response to each prompt."""
    keys = jax.random.split(key, prompts.length.shape[0])
    sampled = decode.sample(policy, prompts, keys, time, count=1).response
    return jax.tree.map(lambda x: x[:, 0], sampled)

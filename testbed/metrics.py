"""What is measured of a policy, inside the compiled program: one fixed pytree an evaluation.

Definitions follow arXiv 2405.08448, appendices D and E.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt

from testbed import decode, logprob
from testbed.batches import in_portions, long_map
from testbed.exact import quantities
from testbed.logprob import Policy
from testbed.policies.trainable import trained
from testbed.preference import AbstractPreference, GoldenPreference
from testbed.recorded_runs.pair_stream import Windows
from testbed.source import Dataset
from testbed.streams import Stream, stream
from testbed.types import Prompt, Response, Scalar

#: Which quantiles of the golden reward over prompts are measured.
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
#: On how many of the fixed prompts the policy's answers are kept.
SHOWN = 2


class Opponent(eqx.Module):
    """The golden baseline's fixed answers to the fixed evaluation prompts, and their golden rewards."""

    prompts: Prompt
    responses: Response
    reward: Float[Array, " n"]


class Optimum(eqx.Module):
    """The policy that theory says is learnt, where all prompts and responses can be listed: its log-probability of
    every response to every prompt, in the order of `testbed.exact.enumeration`."""

    prompts: Prompt
    responses: Response
    policy: Float[Array, "prompt response"]

    def apart(self, policy: Policy) -> tuple[Scalar, Scalar]:
        """Total variation between a policy and it, and KL(policy || optimum) in nats: exact, means over prompts."""
        ours = quantities.log_table(policy, self.prompts, self.responses)
        each = (
            jax.vmap(measure)(ours, self.policy)
            for measure in (quantities.total_variation, quantities.kl)
        )
        distance, divergence = map(jnp.mean, each)
        return distance, divergence


class Yardstick(eqx.Module):
    """What a policy is measured by.

    Attributes:
        reference: the SFT policy. data: the pairs of D_golden that are classified. golden, proxy: the judges.
        opponent: the golden baseline, on the fixed prompts; the first ``few`` of them estimate the KL.
        stream: windows of an online run's stream, if they are classified. optimum: the exact one, if it is asked for.
    """

    reference: Policy
    data: Dataset
    golden: GoldenPreference
    proxy: AbstractPreference
    opponent: Opponent
    stream: Windows | None
    optimum: Optimum | None
    few: int = eqx.field(static=True)


class Metrics(eqx.Module):
    """One evaluation of a policy.

    Attributes:
        kl, kl_se: KL(policy || SFT) in nats a response, and its standard error.
        win_rate, win_rate_se: share of prompts on which the golden reward prefers the policy's answer to the golden
            baseline's; a tie counts one half.
        golden_reward, golden_reward_se: mean, in SFT standard deviations. golden_reward_quantile: `QUANTILES` over
            prompts.
        proxy_reward: mean margin of the proxy over the baseline's answers (log-odds); proxy_win_rate: its sign.
        data_accuracy: share of D_golden's pairs on which sign(h) agrees with the golden reward.
        self_accuracy: the same on two samples of the policy.
        winner_logprob_change, loser_logprob_change: of D_golden's responses against SFT, nats a response.
        entropy: of the next token along the policy's own samples, nats a token. length: tokens a response.
        answer: tokens of the answers to the first `SHOWN` prompts.
        policy_checksum: of all bits of the policy's trained parameters (`checksum`).
        stream_accuracy: as data_accuracy, in each window of an online run's stream (arXiv 2405.08448, figure 6).
        optimum_distance: mean total variation between policy and exact IPO optimum; optimum_kl: KL(policy || optimum)
            in nats a response.
    """

    kl: Scalar
    kl_se: Scalar
    win_rate: Scalar
    win_rate_se: Scalar
    golden_reward: Scalar
    golden_reward_se: Scalar
    golden_reward_quantile: Float[Array, " quantile"]
    proxy_reward: Scalar
    proxy_win_rate: Scalar
    data_accuracy: Scalar
    self_accuracy: Scalar
    winner_logprob_change: Scalar
    loser_logprob_change: Scalar
    entropy: Scalar
    length: Scalar
    answer: Int[Array, "shown response"]
    policy_checksum: UInt[Array, ""]
    stream_accuracy: Float[Array, " window"] | None = None
    optimum_distance: Scalar | None = None
    optimum_kl: Scalar | None = None

    @property
    def columns(self) -> dict[str, Array]:
        """Every number by the name of its column: what was not asked for has none, and of a list each has its own,
        counted from 1. Tokens are no numbers."""
        found: dict[str, Array] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and field.name != "answer":
                found |= numbered(field.name, value)
        return found

    @property
    def tokens(self) -> dict[str, Array]:
        """The tokens of `answer` by prompt and place, ``answer_1_1`` and so on."""
        return numbered("answer", self.answer)


def numbered(name: str, values: Array) -> dict[str, Array]:
    """A list of numbers as columns ``name_1``, ``name_2`` and so on, a list of lists as ``name_1_1``; a number alone as
    ``name``."""
    if not values.ndim:
        return {name: values}
    parts = (numbered(f"{name}_{i + 1}", values[i]) for i in range(values.shape[0]))
    return {key: value for part in parts for key, value in part.items()}


def checksum(policy: Policy) -> UInt[Array, ""]:
    """32 bits that all bits of the parameters enter, each with its place: policies whose parameters are equal bit for
    bit have equal ones. A parameter that differs in any bit changes it for certain, because the mixing of a word can
    be undone (the finaliser of MurmurHash3, Appleby 2011); other differences go unseen once in 2^32.
    """
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(policy)]
    kinds = [jnp.dtype(f"uint{8 * leaf.dtype.itemsize}") for leaf in leaves]
    words = [
        jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)
        for leaf, kind in zip(leaves, kinds, strict=True)
    ]
    mixed = jnp.concatenate(words)
    mixed = mixed + jnp.arange(mixed.shape[0], dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)


def mean_se(x: Float[Array, " n"]) -> tuple[Scalar, Scalar]:
    """Mean and its standard error."""
    return jnp.mean(x), jnp.std(x, ddof=1) / jnp.sqrt(x.shape[0])


class Comparison(eqx.Module):
    """Responses under a policy and its reference, each (n, count).

    Attributes:
        kl: sum over positions of the exact categorical KL of the next token, unbiased for the KL of whole responses
            when the responses are the policy's (arXiv 2405.08448, appendix D), in nats.
        entropy: of the policy's next token, mean over positions, in nats.
        log_ratio: log pi(y|x) - log ref(y|x), summed over tokens, in nats.
    """

    kl: Float[Array, "n count"]
    entropy: Float[Array, "n count"]
    log_ratio: Float[Array, "n count"]


def compare(policy: Policy, reference: Policy, prompts: Prompt, responses: Response) -> Comparison:
    """Compare two policies on ``count`` responses to each of ``n`` prompts; one pass under each."""
    return in_portions(
        lambda texts: _compare(policy, reference, *texts),
        (prompts, responses),
        logprob.logits_size(policy, responses),
    )


def _compare(policy: Policy, reference: Policy, prompts: Prompt, responses: Response) -> Comparison:
    ours, theirs = (
        jax.nn.log_softmax(logprob.response_logits(model, prompts, responses), axis=-1)
        for model in (policy, reference)
    )
    probability, mask = jnp.exp(ours), responses.mask
    kl = jnp.sum(probability * (ours - theirs), axis=-1)
    entropy = -jnp.sum(probability * ours, axis=-1)
    chosen = jnp.take_along_axis(ours - theirs, responses.tokens[..., None], axis=-1)[..., 0]
    kl, entropy, log_ratio = (
        jnp.sum(jnp.where(mask, x, 0.0), axis=-1) for x in (kl, entropy, chosen)
    )
    return Comparison(kl, entropy / responses.length, log_ratio)


def agreement(h: Float[Array, " n"], truth: Float[Array, " n"]) -> Scalar:
    """Share of pairs on which the policy's margin ``h`` has the sign of ``truth``; an exact 0 counts one half."""
    return jnp.mean(0.5 * (1.0 + jnp.sign(h) * jnp.sign(truth)))


def evaluate(policy: Policy, by: Yardstick, key: PRNGKeyArray) -> Metrics:
    """Evaluate a policy against its reference (SFT) and the golden baseline."""
    few, opponent, known = by.few, by.opponent, by.data.golden_margin
    first, second = _answers(policy, opponent, few, key)
    reward, again = _rewards(by.golden, opponent.prompts, first, second)

    # The same text is a tie, whatever rounding in two programs makes of its two rewards.
    same = jnp.all(first.tokens == opponent.responses.tokens, axis=-1)
    wins = 0.5 * (1.0 + jnp.sign(jnp.where(same, 0.0, reward - opponent.reward)))
    margin = by.proxy.margin(opponent.prompts, first, opponent.responses)
    margin = jnp.where(same, 0.0, margin)

    prompts = jax.tree.map(lambda x: x[:few], opponent.prompts)
    both = jax.tree.map(lambda a, b: jnp.stack([a[:few], b], axis=1), first, second)
    own = compare(policy, by.reference, prompts, both)

    # Scored again under the reference: the data's own scores come from another program, and their rounding would
    # decide the comparisons of a policy that has not moved.
    count, pairs = known.shape[0], by.data.pairs
    if by.stream is not None:
        pairs = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), pairs, by.stream.pairs)
    ours, theirs = (logprob.score_pairs(model, pairs) for model in (policy, by.reference))
    winner, loser = ours.winner - theirs.winner, ours.loser - theirs.loser
    h = winner - loser

    distance, divergence = by.optimum.apart(policy) if by.optimum is not None else (None, None)
    return Metrics(
        *mean_se(own.kl[:, 0]),
        *mean_se(wins),
        *mean_se(reward),
        golden_reward_quantile=jnp.quantile(reward, jnp.asarray(QUANTILES)),
        proxy_reward=jnp.mean(margin),
        proxy_win_rate=jnp.mean(0.5 * (1.0 + jnp.sign(margin))),
        data_accuracy=agreement(h[:count], known),
        self_accuracy=agreement(own.log_ratio[:, 0] - own.log_ratio[:, 1], reward[:few] - again),
        winner_logprob_change=jnp.mean(winner[:count]),
        loser_logprob_change=jnp.mean(loser[:count]),
        entropy=jnp.mean(own.entropy[:, 0]),
        length=jnp.mean(first.length.astype(jnp.float32)),
        answer=first.tokens[:SHOWN],
        policy_checksum=checksum(trained(policy)),
        stream_accuracy=None if by.stream is None else by.stream.accuracy(h[count:]),
        optimum_distance=distance,
        optimum_kl=divergence,
    )


def _answers(
    policy: Policy, opponent: Opponent, few: int, key: PRNGKeyArray
) -> tuple[Response, Response]:
    """An answer to every prompt, and another to the first ``few``, sampled together."""
    count, time = opponent.responses.tokens.shape
    keys = [
        jax.random.split(stream(key, name), size)
        for name, size in ((Stream.FIRST_RESPONSE, count), (Stream.SECOND_RESPONSE, few))
    ]
    prompts = _and_first(opponent.prompts, few)
    sampled = decode.sample(policy, prompts, jnp.concatenate(keys), time, count=1).response
    return (
        jax.tree.map(lambda x: x[:count, 0], sampled),
        jax.tree.map(lambda x: x[count:, 0], sampled),
    )


def _rewards(
    golden: GoldenPreference, prompts: Prompt, first: Response, second: Response
) -> tuple[Float[Array, " n"], Float[Array, " few"]]:
    """Golden rewards of an answer to every prompt and of another to the first few."""
    few = second.length.shape[0]
    texts = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    reward = long_map(lambda text: golden.world.reward(*text), (_and_first(prompts, few), texts))
    return reward[: first.length.shape[0]], reward[first.length.shape[0] :]


def _and_first(prompts: Prompt, few: int) -> Prompt:
    """All prompts, and the first ``few`` of them once more."""
    return jax.tree.map(lambda x: jnp.concatenate([x, x[:few]]), prompts)

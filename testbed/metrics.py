"""Measurements of a policy inside the compiled program; `testbed.metric_table` declares each metric."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, PRNGKeyArray, UInt

from testbed import decode, logprob
from testbed.batches import in_portions, long_map
from testbed.evaluation_set import Opponent, agreement, numbered
from testbed.exact.optimum import Optimum
from testbed.logprob import Policy
from testbed.metric_table import BY_PROMPT, QUANTILES
from testbed.policies.trainable import trained
from testbed.preference import AbstractPreference, GoldenPreference
from testbed.recorded_runs.pair_stream import Windows
from testbed.source import Dataset
from testbed.streams import Stream, stream
from testbed.types import Prompt, Response, Scalar

#: Number of fixed prompts for which the policy's answers are kept.
SHOWN = 2


class EvaluationInputs(eqx.Module):
    """The inputs, besides the policy, of an evaluation.

    Attributes:
        reference: the SFT policy. data: the pairs of D_golden that are classified. golden, proxy: the judges.
        opponent: its answers to the fixed prompts; the first ``few`` of these prompts estimate the KL.
        stream: windows of an online run's stream, if they are classified. optimum: the exact optimum, if it is
            requested.
    """

    reference: Policy
    data: Dataset
    golden: GoldenPreference
    proxy: AbstractPreference
    opponent: Opponent
    stream: Windows | None
    optimum: Optimum | None
    few: int = eqx.field(static=True)


def columns(found: Mapping[str, Array]) -> dict[str, Array]:
    """The results of `evaluate` by column name, but for the outcomes by prompt; each entry of a list has its own
    column, counted from 1."""
    vectors = {column.name for column in BY_PROMPT}
    scalars = {name: x for name, x in found.items() if name not in vectors}
    return {key: own for name, x in scalars.items() for key, own in numbered(name, x).items()}


def by_prompt(found: Mapping[str, Array]) -> Float32[Array, "outcome prompt"]:
    """The outcomes on every prompt in the results of `evaluate`, in the order of `BY_PROMPT`."""
    return jnp.stack([found[column.name] for column in BY_PROMPT])


def checksum(policy: Policy) -> UInt[Array, ""]:
    """A checksum of 32 bits that depends on every bit of the parameters and on its position: policies whose parameters
    are equal bit for bit have equal checksums. A difference in a single parameter changes the checksum for certain,
    because the mixing of a word can be undone (the finaliser of MurmurHash3, Appleby 2011); other differences go
    undetected once in 2^32."""
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
    """The mean and its standard error."""
    return jnp.mean(x), jnp.std(x, ddof=1) / jnp.sqrt(x.shape[0])


class Comparison(eqx.Module):
    """Responses under a policy and its reference, each (n, count).

    Attributes:
        kl: sum over positions of the exact categorical KL of the next token, unbiased for the KL of whole responses
            when the responses are the policy's (arXiv 2405.08448, appendix D), in nats.
        entropy: entropy of the policy's next token, mean over positions, in nats.
        log_ratio: log pi(y|x) - log ref(y|x), summed over tokens, in nats.
    """

    kl: Float[Array, "n count"]
    entropy: Float[Array, "n count"]
    log_ratio: Float[Array, "n count"]


def compare(policy: Policy, reference: Policy, prompts: Prompt, responses: Response) -> Comparison:
    """Compare two policies on ``count`` responses to each of ``n`` prompts, with one pass under each policy."""
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


def evaluate(policy: Policy, by: EvaluationInputs, key: PRNGKeyArray) -> dict[str, Array]:
    """Measure a policy against its reference (SFT) and the opponent. Returns every requested metric of
    `testbed.metric_table.POLICY` (a list under one name); the outcomes of `BY_PROMPT`, one number a prompt; and
    ``answer``, the tokens of the answers to the first `SHOWN` prompts."""
    few, opponent, known = by.few, by.opponent, by.data.golden_margin
    first, second = _answers(policy, opponent, few, key)
    reward, again = _rewards(by.golden, opponent.prompts, first, second)

    # Equal texts are a tie, although rounding in two programs may give them different rewards.
    same = jnp.all(first.tokens[:, None] == opponent.responses.tokens, axis=-1)
    better = jnp.sign(jnp.where(same, 0.0, reward[:, None] - opponent.reward))
    wins = jnp.mean(0.5 * (1.0 + better), axis=1)
    # The proxy reads one answer: a reading costs as much as a training step's, k of them as much as many steps.
    theirs = jax.tree.map(lambda x: x[:, 0], opponent.responses)
    margin = by.proxy.margin(opponent.prompts, first, theirs)
    margin = jnp.where(same[:, 0], 0.0, margin)

    prompts = jax.tree.map(lambda x: x[:few], opponent.prompts)
    both = jax.tree.map(lambda a, b: jnp.stack([a[:few], b], axis=1), first, second)
    own = compare(policy, by.reference, prompts, both)

    # Scored again under the reference: the scores stored with the data come from another program, and for a policy
    # that equals SFT their rounding would decide the comparisons.
    count, pairs = known.shape[0], by.data.pairs
    if by.stream is not None:
        pairs = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), pairs, by.stream.pairs)
    ours, theirs = (logprob.score_pairs(model, pairs) for model in (policy, by.reference))
    winner, loser = ours.winner - theirs.winner, ours.loser - theirs.loser
    h = winner - loser

    found = {
        **_with_error("kl", own.kl[:, 0]),
        **_with_error("win_rate", wins),
        **_with_error("golden_reward", reward),
        "golden_reward_by_prompt": reward,
        "win_by_prompt": wins,
        "golden_reward_quantile": jnp.quantile(reward, jnp.asarray(QUANTILES)),
        "proxy_reward": jnp.mean(margin),
        "proxy_win_rate": jnp.mean(0.5 * (1.0 + jnp.sign(margin))),
        "data_accuracy": agreement(h[:count], known),
        "self_accuracy": agreement(own.log_ratio[:, 0] - own.log_ratio[:, 1], reward[:few] - again),
        "winner_logprob_change": jnp.mean(winner[:count]),
        "loser_logprob_change": jnp.mean(loser[:count]),
        "entropy": jnp.mean(own.entropy[:, 0]),
        "length": jnp.mean(first.length.astype(jnp.float32)),
        "answer": first.tokens[:SHOWN],
        "policy_checksum": checksum(trained(policy)),
    }
    if by.stream is not None:
        found["stream_accuracy"] = by.stream.accuracy(h[count:])
    if by.optimum is not None:
        found["optimum_distance"], found["optimum_kl"] = by.optimum.apart(policy)
    return found


def _with_error(name: str, x: Float[Array, " n"]) -> dict[str, Array]:
    """`mean_se` under a metric's name."""
    return dict(zip((name, f"{name}_se"), mean_se(x), strict=True))


def _answers(
    policy: Policy, opponent: Opponent, few: int, key: PRNGKeyArray
) -> tuple[Response, Response]:
    """An answer to every prompt, and a second one to the first ``few`` prompts, sampled together."""
    count, _, time = opponent.responses.tokens.shape
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
    """Golden rewards of an answer to every prompt and of a second one to the first few prompts."""
    few = second.length.shape[0]
    texts = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    reward = long_map(lambda text: golden.world.reward(*text), (_and_first(prompts, few), texts))
    return reward[: first.length.shape[0]], reward[first.length.shape[0] :]


def _and_first(prompts: Prompt, few: int) -> Prompt:
    """All prompts, followed by the first ``few`` of them again."""
    return jax.tree.map(lambda x: jnp.concatenate([x, x[:few]]), prompts)

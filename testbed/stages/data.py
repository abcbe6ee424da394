"""The labelled data: from the texts that a data policy chooses from to the reference scores."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from testbed import logprob
from testbed.data.collect import Written, balanced, collect, described, label, make_pool
from testbed.data.spec import DataSpec, Pool, PoolSpec
from testbed.environment import AbstractTask
from testbed.preference import AbstractLabeler
from testbed.source import Dataset
from testbed.stages.golden import Standardised
from testbed.stages.sft import FineTuned
from testbed.stages.world import Seed, corpus_key
from testbed.streams import Stream, stream


class Labelled(NamedTuple):
    """D_golden, held-out pairs, facts measured of them, and the data policy if responses can be listed:
    log-probabilities of every response to every prompt."""

    data: Dataset
    test: Dataset
    facts: dict[str, Array]
    policy: Float[Array, "row text"] | None


def gather(
    task: AbstractTask,
    spec: PoolSpec,
    seed: Seed,
    golden: Standardised,
    base: FineTuned,
    written: Written,
) -> Pool:
    """The texts that a data policy chooses from, and on which coverage is measured."""
    key = stream(jax.random.key(seed), Stream.DATA)
    return make_pool(task, golden.world, base.policy, spec, written, corpus_key(seed), key)


def make_data(
    task: AbstractTask,
    labeler: AbstractLabeler,
    spec: DataSpec,
    seed: Seed,
    label_seed: Seed,
    golden: Standardised,
    base: FineTuned,
    written: Written,
    pool: Pool | None,
) -> Labelled:
    """Collect the data according to the config's dials, and label them. Without a pool the data are the writers'
    texts, of which no coverage is measured."""
    key = stream(jax.random.key(seed), Stream.DATA)
    corpus, policy, facts = collect(task, spec, pool, written.corpus, key)
    # Both parts go through one program, which compiles once.
    texts = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), corpus, written.held_out)
    labels = stream(jax.random.key(label_seed), Stream.LABELS)
    labelled, reward = label(golden.world, base.policy, labeler, texts, labels)
    count = spec.pairs
    data, test = (
        jax.tree.map(lambda x, part=part: x[part], labelled)
        for part in (slice(count), slice(count, None))
    )
    data = balanced(data)
    facts |= described(data, reward[:count], golden.rewards)
    return Labelled(data, test, facts, policy if task.enumerable else None)


def rescore(sft: FineTuned, data: Labelled) -> Dataset:
    """D_golden with reference scores by the policy's own SFT policy, if the data were made with an SFT policy of
    another shape."""
    scores = logprob.score_pairs(sft.policy, data.data.pairs)
    return eqx.tree_at(lambda d: d.reference, data.data, scores)


def own_data(scores: Dataset | None, data: Labelled) -> Dataset:
    """D_golden with the scores that the policy learns from: ``scores`` if there are any, else those of ``data``."""
    return scores or data.data

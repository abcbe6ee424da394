"""The golden baseline: the opponent in the win rate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from testbed import decode, train
from testbed.environment import AbstractTask
from testbed.evaluation_set import Opponent
from testbed.preference import GoldenPreference
from testbed.source import Dataset, TrainingInputs
from testbed.sources.online import Online
from testbed.stages.golden import Standardised
from testbed.stages.sft import FineTuned
from testbed.stages.world import DrawnWorld, Seed
from testbed.streams import Stream, stream
from testbed.types import Pair, PairScores


class TrainedBaseline(NamedTuple):
    """The opponent, and facts measured of it."""

    opponent: Opponent
    facts: dict[str, Array]


def train_baseline(
    task: AbstractTask,
    baseline: train.OnlineRun,
    count: int,
    seed: Seed,
    golden: Standardised,
    base: FineTuned,
    world: DrawnWorld,
) -> TrainedBaseline:
    """Train the golden baseline (arXiv 2405.08448, section 4) online against the golden preference. The result holds
    its answers to the ``count`` fixed evaluation prompts, the first prompts of the corpus, one answer each."""
    corpus, plan = world.written.corpus, baseline.train(Online())
    # The baseline learns from its own samples: it uses only the data's prompts, and the first response as the preferred
    # one.
    nothing = jnp.zeros_like(corpus.prompts.length, dtype=jnp.float32)
    pairs = Pair(corpus.prompts, corpus.first, corpus.second, nothing, nothing)
    prompts_only = Dataset(pairs, PairScores(nothing, nothing), nothing)
    inputs = TrainingInputs(prompts_only, base.policy, GoldenPreference(golden.world))
    key = stream(jax.random.key(seed), Stream.BASELINE)
    state = train.init(plan, inputs)
    state = train.advance(plan, inputs, state, key, jnp.asarray(0), jnp.asarray(baseline.steps))
    prompts = jax.tree.map(lambda x: x[:count], corpus.prompts)
    keys = jax.random.split(stream(key, Stream.BASELINE_RESPONSES), count)
    policy, time = train.present(inputs, state), task.response_length
    answers = decode.sample(policy, prompts, keys, time, count=1).response
    answers = jax.tree.map(lambda x: x[:, 0], answers)
    reward = jax.vmap(golden.world.reward)(prompts, answers)
    facts = {"baseline_reward": jnp.mean(reward), "baseline_diverged_step": state.diverged_step}
    return TrainedBaseline(Opponent(prompts, answers, reward), facts)

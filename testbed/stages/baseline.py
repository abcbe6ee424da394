"""The opponent in the win rate: the golden baseline, or the SFT policy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from testbed import decode, train
from testbed.data.collect import Corpus, Written
from testbed.environment import AbstractTask
from testbed.evaluation_set import Opponent
from testbed.preference import GoldenPreference
from testbed.source import Dataset, TrainingInputs
from testbed.sources.online import Online
from testbed.stages.golden import Standardised
from testbed.stages.sft import FineTuned
from testbed.stages.world import Seed
from testbed.streams import Stream, stream
from testbed.types import Pair, PairScores, Response


class TrainedBaseline(NamedTuple):
    """The opponent, and facts measured of it."""

    opponent: Opponent
    facts: dict[str, Array]


def train_baseline(
    task: AbstractTask,
    baseline: train.OnlineRun,
    count: int,
    each: int,
    seed: Seed,
    golden: Standardised,
    base: FineTuned,
    texts: Written,
) -> TrainedBaseline:
    """Train the golden baseline (arXiv 2405.08448, section 4) online against the golden preference; without steps the
    opponent is the SFT policy itself. The result holds ``each`` answers to each of the ``count`` fixed evaluation
    prompts, the first prompts of the corpus. The first answers do not depend on ``each``."""
    corpus, key = texts.corpus, stream(jax.random.key(seed), Stream.BASELINE)
    policy, diverged = base.policy, jnp.asarray(-1, dtype=jnp.int32)
    if baseline.steps:
        plan, inputs = baseline.train(Online()), _inputs(corpus, golden, base)
        state = train.init(plan, inputs)
        steps = jnp.asarray(baseline.steps)
        state = train.advance(plan, inputs, state, key, jnp.asarray(0), steps)
        policy, diverged = train.present(inputs, state), state.diverged_step
    prompts = jax.tree.map(lambda x: x[:count], corpus.prompts)

    def answer(keys: Key[Array, " n"]) -> tuple[Response, Float[Array, " n"]]:
        answers = decode.sample(policy, prompts, keys, task.response_length, count=1).response
        answers = jax.tree.map(lambda x: x[:, 0], answers)
        return answers, jax.vmap(golden.world.reward)(prompts, answers)

    keys = jax.random.split(stream(key, Stream.BASELINE_RESPONSES), each * count)
    if each == 1:
        answers, reward = jax.tree.map(lambda x: x[:, None], answer(keys))
    else:
        # One answer to every prompt at a time, so that memory does not grow with the number of answers.
        found = jax.lax.map(answer, keys.reshape(each, count))
        answers, reward = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), found)
    facts = {
        "baseline_reward": jnp.mean(reward),
        "baseline_diverged_step": diverged,
        "baseline_steps": jnp.asarray(float(baseline.steps)),
    }
    return TrainedBaseline(Opponent(prompts, answers, reward), facts)


def _inputs(corpus: Corpus, golden: Standardised, base: FineTuned) -> TrainingInputs:
    """The inputs of the baseline's training. It learns from its own samples: it uses only the data's prompts, and the
    first response as the preferred one."""
    nothing = jnp.zeros_like(corpus.prompts.length, dtype=jnp.float32)
    pairs = Pair(corpus.prompts, corpus.first, corpus.second, nothing, nothing)
    prompts_only = Dataset(pairs, PairScores(nothing, nothing), nothing)
    return TrainingInputs(prompts_only, base.policy, GoldenPreference(golden.world))

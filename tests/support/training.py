"""Short runs on a few pairs, and what sources give, for the tests of sources."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers import (
    BATCH,
    advance,
    init,
    training_inputs,
    world,
)

from testbed.losses.ipo import Ipo
from testbed.optimiser import OptimiserConfig
from testbed.preference import GoldenPreference
from testbed.recorded_runs.recorded_run import Made, Recorded
from testbed.references.fixed import Fixed
from testbed.source import AbstractSource, Batch, Request, TrainingInputs, write_pairs
from testbed.stages import online_run
from testbed.train import OnlineRun, TrainConfig, TrainState

KEY = jax.random.key(2)
STEPS = 10
RATE = OptimiserConfig(1e-2, warmup=2.0)


def plan(source: AbstractSource, loss: Any = None, reference: Any = None) -> TrainConfig:
    return TrainConfig(source, loss or Ipo(beta=0.1), RATE, BATCH, reference or Fixed())


def go(config: TrainConfig, given: TrainingInputs | None = None, steps: int = STEPS) -> TrainState:
    given = training_inputs() if given is None else given
    return advance(config, given, init(config, given), KEY, jnp.asarray(0), jnp.asarray(steps))


def with_prepared(prepared: Any) -> TrainingInputs:
    given = training_inputs()
    return TrainingInputs(given.data, given.reference, given.teacher, prepared)


def made_run() -> OnlineRun:
    return OnlineRun(Ipo(beta=0.1), RATE, STEPS, BATCH)


@functools.cache
def made(loss: Any = None) -> Made:
    """An online run of `STEPS`, recorded."""
    run = OnlineRun(loss or Ipo(beta=0.1), RATE, STEPS, BATCH)
    record = jax.jit(online_run.make)
    return record(Recorded(run), training_inputs(), GoldenPreference(world()), KEY)


def same(left: Any, right: Any) -> bool:
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def batches(
    source: AbstractSource, policies: list[Any], given: TrainingInputs | None = None
) -> list[Batch]:
    """What a source gives at steps 0, 1, ... while the policy is one after the other."""
    given = training_inputs() if given is None else given
    state = jax.jit(lambda s, g, p: s.init(g, p, Request(BATCH, write_pairs)))(
        source, given, policies[0]
    )
    found = []
    for step, policy in enumerate(policies):
        batch, state = _draw(source, given, policy, state, jnp.asarray(step))
        found.append(batch)
    return found


@jax.jit
def _draw(source: AbstractSource, given: TrainingInputs, policy: Any, state: Any, step: Any):
    return source.draw(state, given, policy, Request(BATCH, write_pairs), KEY, step)

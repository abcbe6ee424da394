"""The online run that sources use (`testbed.recorded_runs.recorded_run`), and the function that makes it."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from testbed import train
from testbed.errors import InvalidInput
from testbed.logprob import Policy
from testbed.policies.trainable import trained
from testbed.preference import GoldenPreference
from testbed.recorded_runs.recorded_run import Made, Recorded
from testbed.source import TrainingInputs
from testbed.sources.online import Online
from testbed.sources.record import Record


def make(
    recorded: Recorded, inputs: TrainingInputs, golden: GoldenPreference, key: PRNGKeyArray
) -> Made:
    """Make the recorded run. ``inputs`` hold its teacher; ``key`` is the run's random key. Raises `InvalidInput` if the
    data do not fill a batch."""
    run = recorded.run
    if run.batch_size > inputs.data.size:
        raise InvalidInput(
            f"recorded.run.batch_size must be at most data.pairs={inputs.data.size}, got {run.batch_size}"
        )
    plan = run.train(Record(Online(), run.steps) if recorded.has_stream else Online())
    ends = [round(share * run.steps) for share in recorded.stages]
    if not recorded.checkpoints or ends[-1] < run.steps:
        ends.append(run.steps)

    def part(
        state: train.TrainState, clock: tuple[Array, Array]
    ) -> tuple[train.TrainState, Policy]:
        state = train.advance(plan, inputs, state, key, *clock)
        return state, state.policy

    clock = (jnp.asarray(ends[:-1]), jnp.asarray(np.diff(ends)))
    start = train.init(plan, inputs)
    state, policies = jax.lax.scan(part, start, clock)
    kept = len(recorded.checkpoints)

    def stages(first: Array, later: Array) -> Array:
        return jnp.concatenate([first[None], later[:kept]])

    policies = jax.tree.map(stages, trained(inputs.reference), policies)
    recording = None
    if recorded.has_stream:
        recording = state.source.recording.with_golden(golden, inputs)
    return Made(recording, policies, state.diverged_step)

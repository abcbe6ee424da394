"""An online run made before training, for sources that draw on its stream or on its checkpoints."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from testbed import train
from testbed.environment import World
from testbed.errors import InvalidInput
from testbed.logprob import Policy
from testbed.policies.trainable import trained
from testbed.preference import AbstractLabeler, GoldenPreference
from testbed.recorded_runs.pair_stream import Recording
from testbed.source import Supply, write_pairs
from testbed.sources.online import Online
from testbed.sources.record import Record
from testbed.train import OnlineRun, Teacher


class Recorded(eqx.Module):
    """A recorded online run; equal plans share one run.

    Attributes:
        run: its plan. Its keys are those of the experiment's own training, so an online experiment of the same plan and
            teacher is this very run.
        checkpoints: at which shares of its steps the policy is kept, ascending, up to 1 (arXiv 2405.08448 has 20% and
            100%).
        teacher: who judges what it writes.
    """

    run: OnlineRun = OnlineRun()
    checkpoints: tuple[float, ...] = eqx.field(static=True, default=(0.2, 1.0))
    teacher: Teacher = eqx.field(static=True, default="proxy")

    def __check_init__(self) -> None:
        shares = self.checkpoints
        if not all(0 < share <= 1 for share in shares) or list(shares) != sorted(set(shares)):
            raise InvalidInput(f"checkpoints must ascend between 0 and 1, got {shares}")
        if self.run.steps < 1:
            raise InvalidInput(f"run.steps must be at least 1 to be recorded, got {self.run.steps}")

    @property
    def stages(self) -> tuple[float, ...]:
        """The shares of the run at which a policy is known: the SFT policy is that at 0."""
        return (0.0, *self.checkpoints)

    @property
    def has_stream(self) -> bool:
        """Whether it learns from pairs, which can be recorded."""
        return self.run.loss.request(self.run.batch_size).author is write_pairs


class Made(eqx.Module):
    """A recorded run: its stream of pairs (None if it does not learn from pairs), and what is
    trained of the policies at `Recorded.stages` (leading axis). Frozen from ``diverged_step`` on, if it is not -1."""

    recording: Recording | None
    policies: Policy
    diverged_step: Int[Array, ""]


class Given(eqx.Module):
    """What a source may prepare from."""

    supply: Supply
    made: Made
    world: World
    labeler: AbstractLabeler
    key: PRNGKeyArray


def make(recorded: Recorded, supply: Supply, golden: GoldenPreference, key: PRNGKeyArray) -> Made:
    """Run it; the supply holds its teacher, ``key`` is the run's. Raises `InvalidInput` if the data do not fill a
    batch."""
    run = recorded.run
    if run.batch_size > supply.data.size:
        raise InvalidInput(
            f"recorded.run.batch_size must be at most data.pairs={supply.data.size}, got {run.batch_size}"
        )
    plan = run.train(Record(Online(), run.steps) if recorded.has_stream else Online())
    ends = [round(share * run.steps) for share in recorded.stages]
    if not recorded.checkpoints or ends[-1] < run.steps:
        ends.append(run.steps)

    def part(
        state: train.TrainState, clock: tuple[Array, Array]
    ) -> tuple[train.TrainState, Policy]:
        state = train.advance(plan, supply, state, key, *clock)
        return state, state.policy

    clock = (jnp.asarray(ends[:-1]), jnp.asarray(np.diff(ends)))
    start = train.init(plan, supply)
    state, policies = jax.lax.scan(part, start, clock)
    kept = len(recorded.checkpoints)

    def stages(first: Array, later: Array) -> Array:
        return jnp.concatenate([first[None], later[:kept]])

    policies = jax.tree.map(stages, trained(supply.reference), policies)
    recording = None
    if recorded.has_stream:
        recording = state.source.recording.with_golden(golden, supply)
    return Made(recording, policies, state.diverged_step)

"""The plan of an online run that is made before training, for sources that draw on its stream or on its checkpoints,
and its results. `testbed.stages.online_run` makes it."""

import equinox as eqx
from jaxtyping import Array, Int, PRNGKeyArray

from testbed.environment import World
from testbed.errors import InvalidInput
from testbed.logprob import Policy
from testbed.preference import AbstractLabeler
from testbed.recorded_runs.pair_stream import Recording
from testbed.source import Supply, write_pairs
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

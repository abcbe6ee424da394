"""The plan and the results of an online run that is made before training, for sources that use its stream of pairs or
its checkpoints. `testbed.stages.online_run` makes the run.
"""

import equinox as eqx
from jaxtyping import Array, Int, PRNGKeyArray

from testbed.environment import World
from testbed.errors import InvalidInput
from testbed.logprob import Policy
from testbed.preference import AbstractLabeler
from testbed.recorded_runs.pair_stream import Recording
from testbed.source import TrainingInputs, write_pairs
from testbed.train import OnlineRun, Teacher


class Recorded(eqx.Module):
    """The plan of a recorded online run; equal plans share one run.

    Attributes:
        run: the plan of the training. Its random keys are those of the experiment's own training, so an online
            experiment with the same plan and teacher is exactly this run.
        checkpoints: at which shares of its steps the policy is kept, ascending, up to 1 (arXiv 2405.08448 has 20% and
            100%).
        teacher: who judges the texts of the run.
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
        """The shares of the run at which a policy is known; share 0 is the SFT policy."""
        return (0.0, *self.checkpoints)

    @property
    def has_stream(self) -> bool:
        """Whether the run learns from pairs, which can be recorded."""
        return self.run.loss.request(self.run.batch_size).rollout is write_pairs


class Made(eqx.Module):
    """The results of a recorded run: its stream of pairs (None if it does not learn from pairs), and the trained parts
    of the policies at `Recorded.stages` (leading axis). The policy is frozen from ``diverged_step`` on, if it is not
    -1."""

    recording: Recording | None
    policies: Policy
    diverged_step: Int[Array, ""]


class Given(eqx.Module):
    """The inputs from which a source may prepare its data."""

    inputs: TrainingInputs
    made: Made
    world: World
    labeler: AbstractLabeler
    key: PRNGKeyArray

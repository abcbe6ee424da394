"""Change: how an arm's value changes from the first checkpoint to the last."""

import dataclasses

from sweeps.estimands.base import Evidence, InWorlds, WorldEstimand, run_means, words_of
from testbed.errors import InvalidInput


@dataclasses.dataclass(frozen=True)
class Change(WorldEstimand):
    """A metric's change since SFT at the last checkpoint of one arm, in a stated direction.

    `sign` is +1 if the claim says that the metric rises, -1 if the claim says that it falls. Use this estimand for
    metrics that are already measured relative to SFT (the log-probability changes).
    """

    metric: str
    arm: str
    sign: int = 1

    def __post_init__(self) -> None:
        if self.sign not in (-1, 1):
            raise InvalidInput(f"sign is {self.sign}: allowed are 1 (rises) and -1 (falls)")

    def words(self) -> tuple[str, str]:
        name, unit = words_of(self.metric)
        return f"{'rise' if self.sign > 0 else 'fall'} of {name}, {self.arm}", unit

    def in_worlds(self, evidence: Evidence) -> InWorlds:
        values = {run: self.sign * v for run, v in evidence.last(self.metric, self.arm).items()}
        return run_means(values, evidence.describe_runs((self.arm,)))

"""Level: an arm's last value."""

import dataclasses

from sweeps.estimands.base import Evidence, InWorlds, WorldEstimand, run_means, words_of


@dataclasses.dataclass(frozen=True)
class Level(WorldEstimand):
    """A metric of one arm at the last checkpoint minus a constant, such as chance (C12)."""

    metric: str
    arm: str
    against: float = 0.5

    def words(self) -> tuple[str, str]:
        name, unit = words_of(self.metric)
        return f"{name} − {self.against:g}, {self.arm}", unit

    def in_worlds(self, evidence: Evidence) -> InWorlds:
        values = {run: v - self.against for run, v in evidence.last(self.metric, self.arm).items()}
        return run_means(values, evidence.describe_runs((self.arm,)))

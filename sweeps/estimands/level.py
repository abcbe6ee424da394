"""Level: an arm's last value."""

import dataclasses

from sweeps.estimands.base import Estimand, Evidence, seed_draws, words_of
from sweeps.rules import Draws


@dataclasses.dataclass(frozen=True)
class Level(Estimand):
    """A metric of one arm at the last checkpoint minus a constant, such as chance (C12)."""

    metric: str
    arm: str
    against: float = 0.5

    def words(self) -> tuple[str, str]:
        name, unit = words_of(self.metric)
        return f"{name} − {self.against:g}, {self.arm}", unit

    def _measure(self, evidence: Evidence) -> Draws:
        values = {run: v - self.against for run, v in evidence.last(self.metric, self.arm).items()}
        return seed_draws(*self.words(), values, evidence.describe_runs((self.arm,)))

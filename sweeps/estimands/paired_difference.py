"""PairedDifference: the difference of two arms' last values, paired by seed."""

import dataclasses

from sweeps.estimands.base import (
    Evidence,
    InWorlds,
    Unanswerable,
    WorldEstimand,
    run_means,
    words_of,
)


@dataclasses.dataclass(frozen=True)
class PairedDifference(WorldEstimand):
    """First arm minus second in a metric at the last checkpoint, paired by setting and seed.

    Differences are averaged within a world; worlds are then pooled.
    """

    metric: str
    first: str
    second: str

    def words(self) -> tuple[str, str]:
        name, unit = words_of(self.metric)
        return f"{name}, {self.first} − {self.second}", unit

    def in_worlds(self, evidence: Evidence) -> InWorlds:
        arms = (self.first, self.second)
        first, second = (evidence.last(self.metric, arm, arms) for arm in arms)
        pairs = {run: first[run] - second[run] for run in first.keys() & second.keys()}
        if not pairs:
            raise Unanswerable(
                f"no setting and seed was completed under both {self.first} and {self.second}"
            )
        details = evidence.describe_runs(arms) | {"pairs": len(pairs)}
        return run_means(pairs, details)

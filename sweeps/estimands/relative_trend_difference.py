"""RelativeTrendDifference: the difference of two arms' relative trends."""

import dataclasses

from sweeps.estimands.base import Estimand, Evidence, Unanswerable, mean_draws
from sweeps.estimands.trends import Sizes, mean_ratios, relative
from sweeps.rules import Draws


@dataclasses.dataclass(frozen=True)
class RelativeTrendDifference(Estimand):
    """`RelativeTrend` of the first arm minus `RelativeTrend` of the second: which arm catches up faster (C14)."""

    first: str
    second: str
    top: str
    path: str

    def words(self) -> tuple[str, str]:
        arms = f"{self.first} − {self.second}"
        label = f"trend of win rate relative to {self.top} with {self.path}, {arms}"
        return label, "ratio per doubling"

    def _measure(self, evidence: Evidence) -> Draws:
        sizes = Sizes.of(evidence, self.path)
        first, second = (
            relative(evidence, self.path, sizes.levels, arm, self.top)
            for arm in (self.first, self.second)
        )
        shared = [seed for seed in first if seed in second]
        if not shared:
            raise Unanswerable(f"{self.first} and {self.second} share no seed at all levels")
        slopes = {seed: float(sizes.weights @ (first[seed] - second[seed])) for seed in shared}
        details = sizes.describe(evidence, (self.first, self.second, self.top))
        details["ratios"] = {self.first: mean_ratios(first), self.second: mean_ratios(second)}
        return mean_draws(*self.words(), slopes, details)

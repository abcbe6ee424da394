"""RelativeTrendDifference: the difference of two arms' relative trends."""

import dataclasses

import numpy as np

from sweeps.estimands.base import Estimand, Evidence, Unanswerable, mean_draws
from sweeps.estimands.trends import _details, _sizes, _weights, relative
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
        return (
            f"trend of win rate relative to {self.top} with {self.path}, {arms}",
            "ratio per doubling",
        )

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        levels, sizes = _sizes(evidence, self.path)
        arms = (self.first, self.second)
        first, second = (relative(evidence, self.path, levels, arm, self.top) for arm in arms)
        both = [seed for seed in first if seed in second]
        if not both:
            raise Unanswerable(f"{self.first} and {self.second} share no seed at all levels")
        slopes = {seed: float(_weights(sizes) @ (first[seed] - second[seed])) for seed in both}
        details = _details(evidence, levels, sizes, (*arms, self.top))
        details["ratios"] = {
            arm: np.mean(list(own.values()), axis=0).tolist()
            for arm, own in zip(arms, (first, second), strict=True)
        }
        return mean_draws(label, unit, slopes, details)

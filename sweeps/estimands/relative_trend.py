"""RelativeTrend: how an arm's win rate changes with a size."""

import dataclasses

from sweeps.estimands.base import Estimand, Evidence, mean_draws
from sweeps.estimands.trends import Sizes, mean_ratios, relative
from sweeps.rules import Draws


@dataclasses.dataclass(frozen=True)
class RelativeTrend(Estimand):
    """Change, per doubling of size, of an arm's win rate relative to the top arm's (C14).

    For each seed and level, the 90% quantile of the win rates of the arm's trained checkpoints is divided by the top
    arm's quantile. For each seed, the effect is the least-squares slope of this ratio over log2 of the level's size;
    the seeds' slopes are the sample.
    """

    arm: str
    top: str
    path: str

    def words(self) -> tuple[str, str]:
        label = f"trend of win rate relative to {self.top} with {self.path}, {self.arm}"
        return label, "ratio per doubling"

    def _measure(self, evidence: Evidence) -> Draws:
        sizes = Sizes.of(evidence, self.path)
        ratios = relative(evidence, self.path, sizes.levels, self.arm, self.top)
        slopes = {seed: float(sizes.weights @ values) for seed, values in ratios.items()}
        details = sizes.describe(evidence, (self.arm, self.top))
        details["ratios"] = {self.arm: mean_ratios(ratios)}
        return mean_draws(*self.words(), slopes, details)

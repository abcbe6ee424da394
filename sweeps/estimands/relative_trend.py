"""RelativeTrend: how an arm's win rate changes with a size."""

import dataclasses

import numpy as np

from sweeps.estimands.base import Estimand, Evidence, mean_draws
from sweeps.estimands.trends import _details, _sizes, _weights, relative
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
        label, unit = self.words()
        levels, sizes = _sizes(evidence, self.path)
        ratios = relative(evidence, self.path, levels, self.arm, self.top)
        slopes = {seed: float(_weights(sizes) @ own) for seed, own in ratios.items()}
        details = _details(evidence, levels, sizes, (self.arm, self.top))
        details["ratios"] = {self.arm: np.mean(list(ratios.values()), axis=0).tolist()}
        return mean_draws(label, unit, slopes, details)

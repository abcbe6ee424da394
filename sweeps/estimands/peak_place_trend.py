"""PeakPlaceTrend: how the KL of the peak changes with a size."""

import dataclasses

import numpy as np

from sweeps.estimands.base import Estimand, Evidence
from sweeps.estimands.peaks import place_bounds
from sweeps.estimands.trends import Sizes
from sweeps.rules import Draws, Side


@dataclasses.dataclass(frozen=True)
class PeakPlaceTrend(Estimand):
    """Change, per doubling of size, of log KL at an arm's fitted peak (C15).

    For each draw, the effect is the least-squares slope over log2 of the level's size. If a peak lies outside its
    observed range, the slope may be larger or smaller, in the direction in which that peak would move it.
    """

    arm: str
    path: str

    def words(self) -> tuple[str, str]:
        return f"trend of log KL at the peak with {self.path}, {self.arm}", "log KL per doubling"

    def _measure(self, evidence: Evidence) -> Draws:
        sizes = Sizes.of(evidence, self.path)
        parts = [evidence.at(self.path, level) for level in sizes.levels]
        peaks = [part.peak(self.arm) for part in parts]
        bound: dict[Side, str] = {}
        for level, peak, weight in zip(sizes.levels, peaks, sizes.weights, strict=True):
            bound |= place_bounds(peak, float(weight), f"{self.arm} at {level}")
        details = sizes.describe(evidence, (self.arm,))
        details["peak_kl"] = [float(np.exp(np.median(peak.log_kl))) for peak in peaks]
        reason = next(filter(None, (part.caveat((self.arm,)) for part in parts)), "")
        values = sizes.weights @ np.array([peak.log_kl for peak in peaks])
        return Draws(*self.words(), values, reason, details, open=bound)

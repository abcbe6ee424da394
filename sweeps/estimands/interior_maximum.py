"""InteriorMaximum: whether a curve of win rate over KL has its maximum inside."""

import dataclasses
from typing import ClassVar

import numpy as np

from sweeps.estimands.base import Estimand, Evidence
from sweeps.estimands.peaks import not_reached
from sweeps.rules import Draws, Side


@dataclasses.dataclass(frozen=True)
class InteriorMaximum(Estimand):
    """Every arm's curve rises and then falls inside its observed range (C1).

    Effect: the smallest over arms of the peak win rate minus the larger of the win rates at the two ends of the range,
    for each draw; the effect is positive only if every arm has a peak. A curve that still rises at the end of its range
    cannot contradict the claim: the fall may lie beyond the observed range.
    """

    from_curves: ClassVar[bool] = True
    arms: tuple[str, ...]

    def words(self) -> tuple[str, str]:
        return "peak above both ends of its range, weaker arm", "probability"

    def _measure(self, evidence: Evidence) -> Draws:
        peaks = [evidence.peak(arm) for arm in self.arms]
        margins = [peak.value - np.maximum(peak.start, peak.end) for peak in peaks]
        unreached = [arm for arm, peak in zip(self.arms, peaks, strict=True) if peak.unreached]
        bound: dict[Side, str] = {"higher": not_reached(unreached[0])} if unreached else {}
        draws = self._curve_draws(evidence, np.min(margins, axis=0), bound)
        for arm, margin in zip(self.arms, margins, strict=True):
            draws.details["arms"][arm]["margin"] = float(np.median(margin))
        return draws

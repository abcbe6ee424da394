"""PeakDifference: the difference of two curves' peaks."""

import dataclasses
from typing import ClassVar

from sweeps.estimands.base import Estimand, Evidence
from sweeps.estimands.peaks import not_reached
from sweeps.rules import Draws, Side


@dataclasses.dataclass(frozen=True)
class PeakDifference(Estimand):
    """Peak win rate of the first arm minus the second's, each inside its own range (C3).

    If an arm's peak was not reached, its best observed win rate is a lower bound, and no verdict is given that a higher
    peak could overturn. Arms in `final` cannot go beyond their observed range, because a budget ends there: their best
    observed win rate is their peak.
    """

    from_curves: ClassVar[bool] = True
    first: str
    second: str
    final: tuple[str, ...] = ()

    def words(self) -> tuple[str, str]:
        return f"peak win rate, {self.first} − {self.second}", "probability"

    def _measure(self, evidence: Evidence) -> Draws:
        first, second = evidence.peak(self.first), evidence.peak(self.second)
        bound: dict[Side, str] = {}
        if first.unreached and self.first not in self.final:
            bound["higher"] = not_reached(self.first)
        if second.unreached and self.second not in self.final:
            bound["lower"] = not_reached(self.second)
        return self._curve_draws(evidence, first.value - second.value, bound)

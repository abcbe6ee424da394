"""MatchedGap: the difference of two curves at equal KL."""

import dataclasses
from typing import ClassVar

from sweeps.estimands.base import Estimand, Evidence
from sweeps.rules import Draws


@dataclasses.dataclass(frozen=True)
class MatchedGap(Estimand):
    """Mean difference of two arms' curves, first minus second, over their shared range (C2)."""

    from_curves: ClassVar[bool] = True
    first: str
    second: str

    def words(self) -> tuple[str, str]:
        return f"win rate at matched KL, {self.first} − {self.second}", "probability"

    def _measure(self, evidence: Evidence) -> Draws:
        return self._curve_draws(evidence, evidence.gap(self.first, self.second))

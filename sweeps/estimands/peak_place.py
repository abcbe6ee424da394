"""PeakPlace: the difference of the KL at which two curves peak."""

import dataclasses
from typing import ClassVar

from sweeps.estimands.base import Estimand, Evidence
from sweeps.estimands.peaks import place_bounds
from sweeps.rules import Draws


@dataclasses.dataclass(frozen=True)
class PeakPlace(Estimand):
    """log KL at the first arm's peak minus log KL at the second's (C15).

    If more than a twentieth of the draws put a peak at an end of the observed range, the peak lies at this end or
    beyond, and its place is not known more precisely.
    """

    from_curves: ClassVar[bool] = True
    first: str
    second: str

    def words(self) -> tuple[str, str]:
        return f"log KL at the peak, {self.first} − {self.second}", "log KL"

    def _measure(self, evidence: Evidence) -> Draws:
        first, second = evidence.peak(self.first), evidence.peak(self.second)
        bound = place_bounds(first, 1.0, self.first) | place_bounds(second, -1.0, self.second)
        return self._curve_draws(evidence, first.log_kl - second.log_kl, bound)

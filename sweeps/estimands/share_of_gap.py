"""ShareOfGap: the share of a gap between two arms that a third arm closes."""

import dataclasses
from typing import ClassVar

import numpy as np

from sweeps.estimands.base import Estimand, Evidence, Peak
from sweeps.estimands.peaks import not_reached
from sweeps.rules import Draws, Side
from testbed.errors import InvalidInput


@dataclasses.dataclass(frozen=True)
class ShareOfGap(Estimand):
    """(candidate - bottom) / (top - bottom): how much of a gap an explanation accounts for (B1).

    `top` and `bottom` are the arms with and without the effect that is to be explained; the candidate differs from
    bottom by the explanation only. 1: all of the gap, 0: nothing. `measure` is "matched" (mean win rate over the range
    of KL that all three share) or "peak". If it is not certain that top beats bottom, there is no estimate: a ratio to
    a gap that may be zero can have any value.
    """

    from_curves: ClassVar[bool] = True
    top: str
    bottom: str
    candidate: str
    measure: str = "matched"

    def __post_init__(self) -> None:
        if self.measure not in ("matched", "peak"):
            raise InvalidInput(f"measure is {self.measure}: allowed are matched and peak")

    def words(self) -> tuple[str, str]:
        how = "at matched KL" if self.measure == "matched" else "in peak win rate"
        return f"share of {self.top} − {self.bottom} {how} that {self.candidate} closes", "share"

    def _measure(self, evidence: Evidence) -> Draws:
        arms = (self.top, self.bottom, self.candidate)
        bound: dict[Side, str] = {}
        if self.measure == "matched":
            whole = evidence.gap(self.top, self.bottom, (self.candidate,))
            part = evidence.gap(self.candidate, self.bottom, (self.top,))
        else:
            top, bottom, candidate = (evidence.peak(arm) for arm in arms)
            whole, part = top.value - bottom.value, candidate.value - bottom.value
            bound = self._bounds(top, bottom, candidate)
        sure = float(np.mean(whole > 0))
        more = {"gap": float(np.median(whole)), "closed": float(np.median(part))}
        more["gap_probability"] = sure
        if sure >= 0.95:
            return self._curve_draws(evidence, part / whole, bound, more)
        draws = self._curve_draws(evidence, np.empty(0), more=more)
        none = (
            f"there is no gap to share: P({self.top} > {self.bottom}) is {sure:.2f}, needed is 0.95"
        )
        return dataclasses.replace(draws, reason=draws.reason or none)

    def _bounds(self, top: Peak, bottom: Peak, candidate: Peak) -> dict[Side, str]:
        """The direction in which the share moves if a peak is higher than the observed maximum."""
        positive = np.median(candidate.value - bottom.value) > 0
        more_than_all = np.median(candidate.value - top.value) > 0
        moves: tuple[tuple[str, Peak, bool], ...] = (
            (self.candidate, candidate, True),
            (self.top, top, not positive),
            (self.bottom, bottom, bool(more_than_all)),
        )
        return {
            "higher" if up else "lower": not_reached(arm)
            for arm, peak, up in moves
            if peak.unreached
        }

"""Effects read off the fitted curves of win rate over KL."""

import dataclasses
from typing import ClassVar

import numpy as np

from sweeps.estimands.base import Estimand, Evidence, Peak
from sweeps.rules.base import Draws, Side
from testbed.errors import InvalidInput


@dataclasses.dataclass(frozen=True)
class InteriorMaximum(Estimand):
    """Every arm's curve rises and then falls inside its observed range (C1).

    Effect: the smallest over arms of the peak win rate minus the larger of the win rates at the two
    ends of the range, taken draw by draw, so that it is positive only where every arm has a peak.
    A curve that still rises at the end of its range cannot contradict the claim: the fall may lie
    beyond what was observed.
    """

    from_curves: ClassVar[bool] = True
    arms: tuple[str, ...]

    def words(self) -> tuple[str, str]:
        return "peak above both ends of its range, weaker arm", "probability"

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        peaks = [evidence.peak(arm) for arm in self.arms]
        margins = [peak.value - np.maximum(peak.start, peak.end) for peak in peaks]
        details = evidence.describe_curves(self.arms)
        for arm, margin in zip(self.arms, margins, strict=True):
            details["arms"][arm]["margin"] = float(np.median(margin))
        unreached = [arm for arm, peak in zip(self.arms, peaks, strict=True) if peak.unreached]
        bound: dict[Side, str] = {"higher": _unreached(unreached[0])} if unreached else {}
        values = np.min(margins, axis=0)
        return Draws(label, unit, values, evidence.caveat(self.arms), details, open=bound)


@dataclasses.dataclass(frozen=True)
class MatchedGap(Estimand):
    """Mean difference of two arms' curves, first minus second, over their shared range (C2)."""

    from_curves: ClassVar[bool] = True
    first: str
    second: str

    def words(self) -> tuple[str, str]:
        return f"win rate at matched KL, {self.first} − {self.second}", "probability"

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        values = evidence.gap(self.first, self.second)
        details = evidence.describe_curves((self.first, self.second))
        return Draws(label, unit, values, evidence.caveat(self.arms_used()), details)


@dataclasses.dataclass(frozen=True)
class PeakDifference(Estimand):
    """Peak win rate of the first arm minus the second's, each inside its own range (C3).

    Where an arm's peak was not reached its best observed win rate is a lower bound, and a verdict
    that a higher peak could overturn is not given. Arms in `final` can go no further than they
    were observed to, because a budget ends there: their best is their peak.
    """

    from_curves: ClassVar[bool] = True
    first: str
    second: str
    final: tuple[str, ...] = ()

    def words(self) -> tuple[str, str]:
        return f"peak win rate, {self.first} − {self.second}", "probability"

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        first, second = evidence.peak(self.first), evidence.peak(self.second)
        details = evidence.describe_curves((self.first, self.second))
        bound: dict[Side, str] = {}
        if first.unreached and self.first not in self.final:
            bound["higher"] = _unreached(self.first)
        if second.unreached and self.second not in self.final:
            bound["lower"] = _unreached(self.second)
        values = first.value - second.value
        return Draws(label, unit, values, evidence.caveat(self.arms_used()), details, open=bound)


@dataclasses.dataclass(frozen=True)
class PeakPlace(Estimand):
    """log KL at the first arm's peak minus that at the second's (C15).

    Where more than a twentieth of the draws put a peak at an end of the observed range, its place
    is only known to lie at or beyond that end.
    """

    from_curves: ClassVar[bool] = True
    first: str
    second: str

    def words(self) -> tuple[str, str]:
        return f"log KL at the peak, {self.first} − {self.second}", "log KL"

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        first, second = evidence.peak(self.first), evidence.peak(self.second)
        details = evidence.describe_curves((self.first, self.second))
        bound = place_bounds(first, 1.0, self.first) | place_bounds(second, -1.0, self.second)
        values = first.log_kl - second.log_kl
        return Draws(label, unit, values, evidence.caveat(self.arms_used()), details, open=bound)


@dataclasses.dataclass(frozen=True)
class ShareOfGap(Estimand):
    """(candidate - bottom) / (top - bottom): how much of a gap an explanation accounts for (B1).

    `top` and `bottom` are the arms with and without what is to be explained; the candidate has the
    explanation only. 1: all of the gap, 0: nothing. `measure` is "matched" (mean win rate over the
    range of KL that all three share) or "peak". Where top does not beat bottom for certain there is
    no gap to share, and no estimate: a ratio to what may be nothing can be anything.
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
        label, unit = self.words()
        arms = (self.top, self.bottom, self.candidate)
        bound: dict[Side, str] = {}
        if self.measure == "matched":
            whole = evidence.gap(self.top, self.bottom, (self.candidate,))
            part = evidence.gap(self.candidate, self.bottom, (self.top,))
        else:
            top, bottom, candidate = (evidence.peak(arm) for arm in arms)
            whole, part = top.value - bottom.value, candidate.value - bottom.value
            bound = self._bounds(top, bottom, candidate)
        details = evidence.describe_curves(arms)
        details |= {"gap": float(np.median(whole)), "closed": float(np.median(part))}
        sure = float(np.mean(whole > 0))
        details["gap_probability"] = sure
        reason = evidence.caveat(arms)
        if sure < 0.95:
            none = f"there is no gap to share: P({self.top} > {self.bottom}) is {sure:.2f}, needed is 0.95"
            return Draws(label, unit, reason=reason or none, details=details)
        return Draws(label, unit, part / whole, reason, details, open=bound)

    def _bounds(self, top: Peak, bottom: Peak, candidate: Peak) -> dict[Side, str]:
        """Which way the share moves where a peak is higher than what was observed."""
        positive = np.median(candidate.value - bottom.value) > 0
        more_than_all = np.median(candidate.value - top.value) > 0
        moves: tuple[tuple[str, Peak, bool], ...] = (
            (self.candidate, candidate, True),
            (self.top, top, not positive),
            (self.bottom, bottom, bool(more_than_all)),
        )
        return {
            "higher" if up else "lower": _unreached(arm)
            for arm, peak, up in moves
            if peak.unreached
        }


def place_bounds(peak: Peak, weight: float, what: str) -> dict[Side, str]:
    """Sides on which `weight` times the place of a peak is open, with the reason."""
    start, end = peak.outside()
    bound: dict[Side, str] = {}
    if end:
        bound["higher" if weight > 0 else "lower"] = _unreached(what)
    if start:
        bound["lower" if weight > 0 else "higher"] = (
            f"no peak inside: {what} may be best before the smallest KL it was observed at"
        )
    return bound


def _unreached(arm: str) -> str:
    return f"peak not reached: {arm} still rises at the end of its observed range"

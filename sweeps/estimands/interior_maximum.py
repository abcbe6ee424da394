"""InteriorMaximum: how far a curve lies, at its peak, above one end of its range."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from sweeps.estimands.base import (
    Evidence,
    InWorlds,
    Seed,
    Unanswerable,
    WorldCurve,
    WorldEstimand,
    words_of,
)
from sweeps.rules import Side
from testbed.errors import InvalidInput

_NODES = 129
_LATE = 0.8
"""Share of the range of distances from which on a peak counts as one at its end."""


@dataclasses.dataclass(frozen=True)
class InteriorMaximum(WorldEstimand):
    """An arm's typical curve at its peak less the curve at one end of its observed range (C1).

    ``end`` is "start" (SFT: does the outcome rise?) or "end" (the largest KL reached: does it fall again?). In every
    world the curve is read where the mean of the *other* worlds' curves is highest, so that noise which lifts a
    world's own maximum does not count as a peak. Where this lies in the last fifth of the range of distances in half of
    the worlds or more, the curve was not followed far enough beyond its peak to say that it does not fall: the fall may
    lie beyond the range.
    """

    arm: str
    end: str = "end"
    outcome: str = "golden_reward"

    def __post_init__(self) -> None:
        if self.end not in ("start", "end"):
            raise InvalidInput(f"end is {self.end}: allowed are start and end")

    def words(self) -> tuple[str, str]:
        name, unit = words_of(self.outcome)
        what = "fall after" if self.end == "end" else "rise to"
        return f"{what} the peak of {name}, {self.arm}", unit

    def in_worlds(self, evidence: Evidence) -> InWorlds:
        curves = evidence.curves(self.arm, self.outcome)
        if len(curves) < 2:
            raise Unanswerable("only one world: the peak of a world is found in the other worlds")
        places = peaks_elsewhere(curves)
        last = {world: float(curve.reach.max()) for world, curve in curves.items()}
        ends = last if self.end == "end" else dict.fromkeys(curves, 0.0)
        estimates = {w: curve.difference(places[w], ends[w]) for w, curve in curves.items()}
        late = np.mean([places[world] >= _LATE * last[world] for world in curves])
        opened: dict[Side, str] = {}
        if self.end == "end" and late >= 0.5:
            opened["higher"] = f"{self.arm} peaks at the end of its observed range or beyond"
        details = evidence.describe_runs((self.arm,))
        details["peak_kl"] = float(np.median(list(places.values()))) ** 2
        return InWorlds(estimates, details, opened)


def peaks_elsewhere(curves: Mapping[Seed, WorldCurve]) -> dict[Seed, float]:
    """For every world the distance, within the world's own range, at which the mean of the other worlds' typical curves
    is highest; a distance counts where at least half of the others have come so far."""
    reach = np.array([curve.reach.max() for curve in curves.values()])
    d = np.linspace(0.0, float(reach.max()), _NODES)
    values = np.stack([curve.typical(d) for curve in curves.values()])
    seen = d[None, :] <= reach[:, None] + 1e-9
    places: dict[Seed, float] = {}
    for index, world in enumerate(curves):
        others = np.arange(len(reach)) != index
        count = seen[others].sum(axis=0)
        mean = np.where(seen[others], values[others], 0.0).sum(axis=0) / np.maximum(count, 1)
        usable = (count >= 0.5 * others.sum()) & (d <= reach[index] + 1e-9)
        place = float(d[usable][np.argmax(mean[usable])])
        # The last place of the shared grid in a world's range lies up to one step before the end of the range.
        places[world] = float(reach[index]) if place + d[1] > reach[index] else place
    return places

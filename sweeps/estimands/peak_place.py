"""PeakPlace: the KL at which an arm's curve is highest."""

import dataclasses

import numpy as np

from sweeps.estimands.base import Evidence, InWorlds, WorldEstimand, words_of
from sweeps.rules import Side

RISING = 0.25
"""Mean probability of a peak at the end of the range from which on the peak's place is called open."""


@dataclasses.dataclass(frozen=True)
class PeakPlace(WorldEstimand):
    """log KL at the highest point of an arm's typical curve inside its observed range (C15).

    If a peak may lie beyond the observed range, its place is a lower bound.
    """

    arm: str
    outcome: str = "golden_reward"

    def words(self) -> tuple[str, str]:
        return f"log KL at the peak of {words_of(self.outcome)[0]}, {self.arm}", "log KL"

    def in_worlds(self, evidence: Evidence) -> InWorlds:
        found = {w: curve.peak() for w, curve in evidence.curves(self.arm, self.outcome).items()}
        rising = float(np.mean([at_end for _, at_end in found.values()]))
        opened: dict[Side, str] = {}
        if rising > RISING:
            opened["higher"] = f"{self.arm} still rises at the end of its observed range"
        details = evidence.describe_runs((self.arm,)) | {"peak_at_end": rising}
        return InWorlds({world: place for world, (place, _) in found.items()}, details, opened)

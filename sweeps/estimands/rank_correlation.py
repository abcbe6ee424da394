"""RankCorrelation: whether two columns order checkpoints alike."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from sweeps.estimands.base import (
    Evidence,
    InWorlds,
    Unanswerable,
    WorldEstimand,
    WorldEstimate,
    by_seed,
    words_of,
)
from sweeps.rules import Draws

LEAST = 4
"""Fewest points of a correlation."""


@dataclasses.dataclass(frozen=True)
class RankCorrelation(WorldEstimand):
    """Spearman's rank correlation of two metrics, along runs or between runs (C10).

    With ``within`` each run has a correlation, along its trained checkpoints; otherwise each world has one, over the
    last checkpoints of the arm's runs. (Pooled, a rise along runs and a fall between them cancel.) Correlations are
    averaged and pooled over worlds as Fisher's z = artanh(rho), and transformed back. The error of one correlation of n
    points is sqrt(1.06 / (n - 3)) in z (Fieller et al. 1957): it measures how much a correlation of so
    few points wanders by itself.
    """

    x: str
    y: str
    arm: str
    within: bool = True

    def words(self) -> tuple[str, str]:
        names = f"{words_of(self.x)[0]} and {words_of(self.y)[0]}"
        where = "along runs" if self.within else "between runs"
        return f"rank correlation of {names} {where}, {self.arm}", "Spearman’s ρ"

    def in_worlds(self, evidence: Evidence) -> InWorlds:
        (runs,) = evidence.checkpoints((self.x, self.y), (self.arm,))
        worlds = by_seed((unit, run) for unit, parts in runs.items() for run in parts)
        estimates, counts = {}, {}
        for seed, parts in worlds.items():
            groups = parts if self.within else [np.stack([part[-1] for part in parts])]
            found = _fisher(groups)
            if found is not None:
                estimates[seed], counts[str(seed)] = found, sum(map(len, groups))
        if not estimates:
            points = "checkpoints of one run" if self.within else "runs"
            raise Unanswerable(
                f"no world has {LEAST} {points} of {self.arm} over which {self.x} and {self.y} vary"
            )
        details = evidence.describe_runs((self.arm,)) | {"points": counts}
        return InWorlds(
            estimates, details, lacking=len(worlds) - len(estimates), why="too few points"
        )

    def _measure(self, evidence: Evidence, negligible: float) -> Draws:
        z = super()._measure(evidence, math.atanh(min(negligible, 0.99)))
        details = dict(z.details)
        if "worlds" in details:
            # A small change of z is one of (1 - rho^2) as much in rho.
            details["worlds"] = [
                {
                    **world,
                    "estimate": math.tanh(world["estimate"]),
                    "error": world["error"] * (1 - math.tanh(world["estimate"]) ** 2),
                }
                for world in details["worlds"]
            ]
        if "tasks" in details:
            details["tasks"] = {task: math.tanh(one) for task, one in details["tasks"].items()}
        return dataclasses.replace(z, values=np.tanh(z.values), details=details)


def _fisher(groups: Iterable[np.ndarray]) -> WorldEstimate | None:
    """Mean Fisher z of the rank correlations of groups of points (point, 2), and its error; None if no group has
    enough points that vary."""
    z, variances = [], []
    for points in groups:
        points = points[np.isfinite(points).all(axis=1)]
        if len(points) < LEAST or np.ptp(points, axis=0).min() == 0:
            continue
        rho = float(np.corrcoef(_ranks(points).T)[0, 1])
        # Perfect agreement of n points is infinite in z; it is limited to 1 - 1/n.
        limit = 1 - 1 / len(points)
        z.append(float(np.arctanh(np.clip(rho, -limit, limit))))
        variances.append(1.06 / (len(points) - 3))
    if not z:
        return None
    return WorldEstimate(float(np.mean(z)), math.sqrt(sum(variances)) / len(z))


def _ranks(points: np.ndarray) -> np.ndarray:
    """Ranks by column; tied values have the mean of their ranks."""
    # Imported here, because scipy.stats takes longer to import than all other modules that a study needs, except jax.
    from scipy.stats import rankdata

    return rankdata(points, axis=0)

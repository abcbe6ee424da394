"""RelativeBest: an arm's best win rate relative to another arm's, as the paper draws it."""

import dataclasses

import numpy as np

from sweeps.estimands.base import (
    Evidence,
    InWorlds,
    Unanswerable,
    WorldEstimand,
    WorldEstimate,
    by_seed,
)

QUANTILE = 0.9
"""The quantile of the win rates that represents an arm's best, as in figure 11 of arXiv 2405.08448."""


@dataclasses.dataclass(frozen=True)
class RelativeBest(WorldEstimand):
    """The 90% quantile of an arm's win rates divided by that of the top arm (the paper's figure 11, C14).

    The quantile is over the trained checkpoints of all runs of a world.
    """

    arm: str
    top: str

    def words(self) -> tuple[str, str]:
        return f"win rate relative to {self.top}, {self.arm}", "ratio"

    def in_worlds(self, evidence: Evidence) -> InWorlds:
        arms = (self.arm, self.top)
        rates, best = map(_quantiles, evidence.checkpoints(("win_rate",), arms))
        ratios = {w: rates[w] / best[w] for w in sorted(rates.keys() & best.keys()) if best[w] > 0}
        if not ratios:
            raise Unanswerable(f"no world has win rates of both {self.arm} and {self.top}")
        estimates = {world: WorldEstimate(ratio) for world, ratio in ratios.items()}
        return InWorlds(estimates, evidence.describe_runs(arms))


def _quantiles(runs) -> dict[int, float]:
    """The quantile of each world's finite win rates; worlds without any are left out."""
    lists = by_seed((unit, run) for unit, parts in runs.items() for run in parts)
    finite = {}
    for seed, parts in lists.items():
        rates = np.concatenate(parts)
        finite[seed] = rates[np.isfinite(rates)]
    return {seed: float(np.quantile(r, QUANTILE)) for seed, r in finite.items() if len(r)}

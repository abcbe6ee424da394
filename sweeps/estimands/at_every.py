"""AtEvery: another estimand at every level of a setting."""

import dataclasses
from typing import Any

import numpy as np

from sweeps.estimands.base import Estimand, Evidence
from sweeps.rules import Draws, Side


@dataclasses.dataclass(frozen=True)
class AtEvery(Estimand):
    """The smallest of an estimand's effects over the levels of a path ("for every labeler", B6).

    The draws are the pointwise smallest of the levels' quantile functions: P(effect > rope) is then the smallest of the
    levels' probabilities. The claim is therefore reproduced if it is reproduced at every level, and contradicted if it
    is contradicted at any level, whatever the dependence between levels (an intersection-union test). If a level has no
    answer, the smallest effect may be lower.
    """

    path: str
    estimand: Estimand

    def words(self) -> tuple[str, str]:
        label, unit = self.estimand.words()
        return f"{label}, smallest over {self.path}", unit

    def _measure(self, evidence: Evidence, negligible: float) -> Draws:
        levels = {
            str(level): self.estimand.draws(evidence.at(self.path, level), negligible)
            for level in evidence.levels(self.path)
        }
        details: dict[str, Any] = {"levels": {k: _summary(draws) for k, draws in levels.items()}}
        known = {level: draws for level, draws in levels.items() if _answers(draws)}
        bound: dict[Side, str] = {}
        for level, draws in levels.items():
            why = draws.open.get("lower", "") if level in known else draws.reason
            if why or level not in known:
                bound["lower"] = f"at {level}: {why or 'there are no posterior draws'}"
        if not known:
            return Draws(*self.words(), reason=bound["lower"], details=details)
        lowest = min(known, key=lambda level: float(np.median(known[level].values)))
        details["smallest"] = lowest
        if "higher" in known[lowest].open:
            bound["higher"] = f"at {lowest}: {known[lowest].open['higher']}"
        exact = all(draws.exact for draws in known.values())
        count = 1 if exact else 4000
        grid = (np.arange(count) + 0.5) / count
        # As many draws, in order, as the grid has shares; every value is one of the draws.
        ordered = [np.quantile(d.values, grid, method="inverted_cdf") for d in known.values()]
        return Draws(*self.words(), np.min(ordered, axis=0), "", details, exact, bound)


def _answers(draws: Draws) -> bool:
    values = draws.values
    enough = len(values) > 1 or (draws.exact and len(values) == 1)
    return not draws.reason and enough and bool(np.isfinite(values).all())


def _summary(draws: Draws) -> dict[str, Any]:
    """A level's effect with its 90% interval, for the details."""
    values = draws.values[np.isfinite(draws.values)]
    interval = np.quantile(values, [0.05, 0.95]).tolist() if len(values) > 1 else None
    return {
        "estimate": float(np.median(values)) if len(values) else None,
        "interval": interval,
        "reason": draws.reason,
    }

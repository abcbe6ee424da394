"""Functions that estimands of trends over sizes share."""

import math
from typing import Any, NamedTuple, Self

import numpy as np

from sweeps.estimands.base import Evidence, Unanswerable, pooled

QUANTILE = 0.9
"""The quantile of the win rates that represents an arm's best, as in the paper's figure 11."""


class Sizes(NamedTuple):
    """The levels of a path, log2 of their sizes (level,), and weights (level,) whose product with values at the levels
    is the least-squares slope of the values over log2 of the size."""

    levels: tuple[Any, ...]
    log2: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, evidence: Evidence, path: str) -> Self:
        """The sizes of a path's levels. Raises Unanswerable if there are no two different positive sizes."""
        levels = evidence.levels(path)
        sizes = [evidence.size(path, level) for level in levels]
        if any(size <= 0 for size in sizes):
            raise Unanswerable(f"{path} has a level without a positive size")
        if len(set(sizes)) < 2:
            raise Unanswerable(f"{path} has fewer than two levels of different size")
        log2 = np.array([math.log2(size) for size in sizes])
        centred = log2 - log2.mean()
        return cls(levels, log2, centred / (centred @ centred))

    def describe(self, evidence: Evidence, arms: tuple[str, ...]) -> dict[str, Any]:
        """Details of an effect that these arms have: their runs, the levels, the levels' sizes."""
        sizes = {"levels": list(map(str, self.levels)), "sizes": np.exp2(self.log2).tolist()}
        return evidence.describe_runs(arms) | sizes


def relative(
    evidence: Evidence, path: str, levels: tuple[Any, ...], arm: str, top: str
) -> dict[int, np.ndarray]:
    """By seed, the arm's 90% quantile of win rates relative to the top arm's, shape (level,).

    Seeds that lack one of the arms at one of the levels are left out. Raises Unanswerable if no seed is left.
    """
    tables: list[dict[int, float]] = []
    for level in levels:
        runs = evidence.at(path, level).checkpoints(("win_rate",), (arm, top))
        rates, best = (_quantiles(pooled(of_arm)) for of_arm in runs)
        tables.append({s: rates[s] / best[s] for s in rates.keys() & best.keys() if best[s] > 0})
    seeds = sorted(set.intersection(*map(set, tables)))
    if not seeds:
        raise Unanswerable(f"no seed has {arm} and {top} at every level of {path}")
    return {seed: np.array([table[seed] for table in tables]) for seed in seeds}


def _quantiles(win_rates: dict[int, np.ndarray]) -> dict[int, float]:
    """The quantile of each seed's finite win rates; seeds without any are left out."""
    finite = {seed: rates[np.isfinite(rates)] for seed, rates in win_rates.items()}
    return {seed: float(np.quantile(r, QUANTILE)) for seed, r in finite.items() if len(r)}


def mean_ratios(ratios: dict[int, np.ndarray]) -> list[float]:
    """Means over seeds, at each level."""
    return np.mean(list(ratios.values()), axis=0).tolist()

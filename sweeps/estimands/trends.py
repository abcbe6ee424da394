"""Functions that estimands of trends over sizes share."""

import math
from typing import Any

import numpy as np

from sweeps.estimands.base import Evidence, Unanswerable

QUANTILE = 0.9
"""The quantile of the win rates that represents an arm's best, as in the paper's figure 11."""


def relative(
    evidence: Evidence, path: str, levels: tuple[Any, ...], arm: str, top: str
) -> dict[int, np.ndarray]:
    """By seed, the arm's 90% quantile of win rates relative to the top arm's, shape (level,).

    Seeds that lack one of the arms at one of the levels are left out. Raises Unanswerable if no seed is left.
    """
    tables: list[dict[int, float]] = []
    for level in levels:
        found = evidence.at(path, level).checkpoints(("win_rate",), (arm, top))
        own, best = ({s: _quantile(rates) for s, rates in _by_seed(f).items()} for f in found)
        tables.append({s: own[s] / best[s] for s in own.keys() & best.keys() if best[s] > 0})
    seeds = sorted(set.intersection(*(set(table) for table in tables)))
    if not seeds:
        raise Unanswerable(f"no seed has {arm} and {top} at every level of {path}")
    return {seed: np.array([table[seed] for table in tables]) for seed in seeds}


def _by_seed(runs: Any) -> dict[int, np.ndarray]:
    """Win rates of all checkpoints of a seed's runs."""
    found: dict[int, list[np.ndarray]] = {}
    for (seed, _), own in runs.items():
        found.setdefault(seed, []).extend(own)
    pooled = {seed: np.concatenate(own)[:, 0] for seed, own in found.items()}
    finite = {seed: rates[np.isfinite(rates)] for seed, rates in pooled.items()}
    return {seed: rates for seed, rates in finite.items() if len(rates)}


def _quantile(rates: np.ndarray) -> float:
    return float(np.quantile(rates, QUANTILE))


def _sizes(evidence: Evidence, path: str) -> tuple[tuple[Any, ...], np.ndarray]:
    """Levels of a path and log2 of their sizes."""
    levels = evidence.levels(path)
    sizes = [evidence.size(path, level) for level in levels]
    if any(size <= 0 for size in sizes):
        raise Unanswerable(f"{path} has a level without a positive size")
    if len(set(sizes)) < 2:
        raise Unanswerable(f"{path} has fewer than two levels of different size")
    return levels, np.array([math.log2(size) for size in sizes])


def _weights(sizes: np.ndarray) -> np.ndarray:
    """Weights (level,) whose product with values at the levels is the least-squares slope of the values."""
    centred = sizes - sizes.mean()
    return centred / (centred @ centred)


def _details(
    evidence: Evidence, levels: tuple[Any, ...], sizes: np.ndarray, arms: tuple[str, ...]
) -> dict[str, Any]:
    return evidence.describe_runs(arms) | {
        "levels": [str(level) for level in levels],
        "sizes": np.exp2(sizes).tolist(),
    }

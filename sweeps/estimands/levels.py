"""Effects over the levels of a swept path: at every one of them, and trends with size."""

import dataclasses
import math
from typing import Any

import numpy as np

from sweeps.estimands.base import Estimand, Evidence, Unanswerable, mean_draws
from sweeps.estimands.curves import place_bounds
from sweeps.rules.base import Draws, Side

QUANTILE = 0.9
"""Which quantile of the win rates stands for an arm's best, as in the paper's figure 11."""


@dataclasses.dataclass(frozen=True)
class AtEvery(Estimand):
    """The smallest of an estimand's effects over the levels of a path ("for every labeler", B6).

    The draws are the pointwise smallest of the levels' quantile functions: P(effect > rope) is then
    the smallest of the levels' own, so the claim is reproduced if it is at every level, and
    contradicted if it is at any, whatever the dependence between levels (an intersection-union
    test). A level without an answer leaves it open that the smallest effect is lower.
    """

    path: str
    estimand: Estimand

    def words(self) -> tuple[str, str]:
        label, unit = self.estimand.words()
        return f"{label}, smallest over {self.path}", unit

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        found = {
            str(level): self.estimand.draws(evidence.at(self.path, level))
            for level in evidence.levels(self.path)
        }
        details: dict[str, Any] = {
            "levels": {level: _summary(draws) for level, draws in found.items()}
        }
        known = {level: draws for level, draws in found.items() if _answers(draws)}
        bound: dict[Side, str] = {}
        for level, draws in found.items():
            why = draws.open.get("lower", "") if level in known else draws.reason
            if why or level not in known:
                bound["lower"] = f"at {level}: {why or 'there are no posterior draws'}"
        if not known:
            return Draws(label, unit, reason=bound["lower"], details=details)
        lowest = min(known, key=lambda level: float(np.median(known[level].values)))
        details["smallest"] = lowest
        if "higher" in known[lowest].open:
            bound["higher"] = f"at {lowest}: {known[lowest].open['higher']}"
        exact = all(draws.exact for draws in known.values())
        grid = (np.arange(1 if exact else 4000) + 0.5) / (1 if exact else 4000)
        values = np.min([_sorted(draws.values, grid) for draws in known.values()], axis=0)
        return Draws(label, unit, values, "", details, exact, bound)


def _sorted(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The draws in order, as many as the grid has shares; none that is not a draw."""
    return np.quantile(values, grid, method="inverted_cdf")


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


@dataclasses.dataclass(frozen=True)
class RelativeTrend(Estimand):
    """Change, per doubling of size, of an arm's win rate relative to the top arm's (C14).

    Per seed and level the 90% quantile of the win rates of the arm's trained checkpoints is divided
    by that of the top arm's; per seed its least-squares slope over log2 of the level's size; the
    seeds' slopes are the sample.
    """

    arm: str
    top: str
    path: str

    def words(self) -> tuple[str, str]:
        label = f"trend of win rate relative to {self.top} with {self.path}, {self.arm}"
        return label, "ratio per doubling"

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        levels, sizes = _sizes(evidence, self.path)
        ratios = relative(evidence, self.path, levels, self.arm, self.top)
        slopes = {seed: float(_weights(sizes) @ own) for seed, own in ratios.items()}
        details = _details(evidence, levels, sizes, (self.arm, self.top))
        details["ratios"] = {self.arm: np.mean(list(ratios.values()), axis=0).tolist()}
        return mean_draws(label, unit, slopes, details)


@dataclasses.dataclass(frozen=True)
class RelativeTrendDifference(Estimand):
    """`RelativeTrend` of the first arm minus that of the second: which closes faster (C14)."""

    first: str
    second: str
    top: str
    path: str

    def words(self) -> tuple[str, str]:
        arms = f"{self.first} − {self.second}"
        return (
            f"trend of win rate relative to {self.top} with {self.path}, {arms}",
            "ratio per doubling",
        )

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        levels, sizes = _sizes(evidence, self.path)
        arms = (self.first, self.second)
        first, second = (relative(evidence, self.path, levels, arm, self.top) for arm in arms)
        both = [seed for seed in first if seed in second]
        if not both:
            raise Unanswerable(f"{self.first} and {self.second} share no seed at all levels")
        slopes = {seed: float(_weights(sizes) @ (first[seed] - second[seed])) for seed in both}
        details = _details(evidence, levels, sizes, (*arms, self.top))
        details["ratios"] = {
            arm: np.mean(list(own.values()), axis=0).tolist()
            for arm, own in zip(arms, (first, second), strict=True)
        }
        return mean_draws(label, unit, slopes, details)


@dataclasses.dataclass(frozen=True)
class PeakPlaceTrend(Estimand):
    """Change, per doubling of size, of log KL at an arm's fitted peak (C15).

    Draw by draw the least-squares slope over log2 of the level's size. A peak outside its observed
    range leaves the slope open on the side that it would move it to.
    """

    arm: str
    path: str

    def words(self) -> tuple[str, str]:
        return f"trend of log KL at the peak with {self.path}, {self.arm}", "log KL per doubling"

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        levels, sizes = _sizes(evidence, self.path)
        at = [evidence.at(self.path, level) for level in levels]
        peaks = [own.peak(self.arm) for own in at]
        weights = _weights(sizes)
        bound: dict[Side, str] = {}
        for level, peak, weight in zip(levels, peaks, weights, strict=True):
            bound |= place_bounds(peak, float(weight), f"{self.arm} at {level}")
        details = _details(evidence, levels, sizes, (self.arm,))
        details["peak_kl"] = [float(np.exp(np.median(peak.log_kl))) for peak in peaks]
        reason = next(filter(None, (own.caveat((self.arm,)) for own in at)), "")
        values = weights @ np.array([peak.log_kl for peak in peaks])
        return Draws(label, unit, values, reason, details, open=bound)


def relative(
    evidence: Evidence, path: str, levels: tuple[Any, ...], arm: str, top: str
) -> dict[int, np.ndarray]:
    """By seed, the arm's 90% quantile of win rates relative to the top arm's, shape (level,).

    Seeds that lack one of the arms at one of the levels are left out. Raises Unanswerable if that
    leaves none.
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
    """Weights (level,) whose product with values at the levels is their least-squares slope."""
    centred = sizes - sizes.mean()
    return centred / (centred @ centred)


def _details(
    evidence: Evidence, levels: tuple[Any, ...], sizes: np.ndarray, arms: tuple[str, ...]
) -> dict[str, Any]:
    return evidence.describe_runs(arms) | {
        "levels": [str(level) for level in levels],
        "sizes": np.exp2(sizes).tolist(),
    }

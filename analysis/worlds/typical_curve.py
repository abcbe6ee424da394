"""An arm's curve in a typical world, and the difference of two arms' curves, for figures.

At every distance the curves of the worlds that came so far are averaged. Where a world's curve ends, the mean goes on
with the mean slope of the others: a mean of fewer values would jump there. The band has the width of the 90% t interval
of the mean over the worlds that came so far: it shows how well the typical world is known, not how far worlds scatter.
Verdicts do not read these curves; they pool the effects of worlds (`analysis.worlds.pooled`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from sweeps.estimands import Seed, Unanswerable, WorldCurve

POINTS = 129
SHARE = 0.5
"""A curve is shown as far as this share of the worlds came."""
LEAST = 3
"""Fewest worlds of a band."""


class TypicalCurve(NamedTuple):
    """Attributes:
    d: distances sqrt(KL), from 0. mean, low, high: over worlds, with the ends of the 90% interval of the mean (NaN for
        fewer than three worlds: that of two is wider than any figure). worlds: each world's own curve, NaN beyond its
        range. seeds: of the worlds.
    """

    d: Float[np.ndarray, " d"]
    mean: Float[np.ndarray, " d"]
    low: Float[np.ndarray, " d"]
    high: Float[np.ndarray, " d"]
    worlds: Float[np.ndarray, "world d"]
    seeds: tuple[Seed, ...]


def typical_curve(curves: Mapping[Seed, WorldCurve], starts: Mapping[Seed, float]) -> TypicalCurve:
    """The typical curve of one arm: changes since SFT plus SFT's own outcome (``starts``)."""
    seeds = tuple(sorted(curves))
    reach = _reach(curves, seeds)
    d = np.linspace(0.0, _shown(reach), POINTS)
    values = np.stack([curves[seed].typical(d) + starts.get(seed, 0.0) for seed in seeds])
    return _over_worlds(d, values, reach, seeds)


def difference_curve(
    first: Mapping[Seed, WorldCurve], second: Mapping[Seed, WorldCurve]
) -> TypicalCurve:
    """First less second arm, in the worlds of both, as far as both came. Raises `Unanswerable` without such worlds."""
    seeds = tuple(sorted(first.keys() & second.keys()))
    if not seeds:
        raise Unanswerable("the arms share no world")
    reach = np.minimum(_reach(first, seeds), _reach(second, seeds))
    d = np.linspace(0.0, _shown(reach), POINTS)
    values = np.stack([first[seed].typical(d) - second[seed].typical(d) for seed in seeds])
    return _over_worlds(d, values, reach, seeds)


def _reach(curves: Mapping[Seed, WorldCurve], seeds: Sequence[Seed]) -> Float[np.ndarray, " world"]:
    """The largest distance of each world."""
    return np.array([float(curves[seed].reach.max()) for seed in seeds])


def _shown(reach: Float[np.ndarray, " world"]) -> float:
    """The distance that `SHARE` of the worlds reached."""
    return float(np.sort(reach)[::-1][int(np.ceil(SHARE * len(reach))) - 1])


def _over_worlds(
    d: Float[np.ndarray, " d"],
    values: Float[np.ndarray, "world d"],
    reach: Float[np.ndarray, " world"],
    seeds: tuple[Seed, ...],
) -> TypicalCurve:
    """Mean and interval at every distance, over the worlds that came so far."""
    seen = d[None, :] <= reach[:, None] + 1e-9
    count = seen.sum(axis=0)
    steps = np.diff(values, axis=1, prepend=0.0)
    mean = np.cumsum(np.where(seen, steps, 0.0).sum(axis=0) / count)
    middle = np.where(seen, values, 0.0).sum(axis=0) / count
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.where(seen, (values - middle) ** 2, 0.0).sum(axis=0) / (count - 1)
        half = stdtrit(count - 1, 0.95) * np.sqrt(variance / count)
    half = np.where(count < LEAST, np.nan, half)
    return TypicalCurve(d, mean, mean - half, mean + half, np.where(seen, values, np.nan), seeds)

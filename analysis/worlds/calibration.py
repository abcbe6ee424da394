"""Do 90% intervals over worlds cover, whatever the truth? Simulations under `analysis.worlds.truths`.

`python -m analysis.worlds.calibration across 2000` simulates the across-world stage alone: true effects of worlds, each
measured with a standard error. `python -m analysis.worlds.calibration whole 100` simulates checkpoints and goes the
whole way: smoothed curves, contrasts, pooled worlds. Both write one row a cell (`CELLS`) to standard output, as CSV.
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.worlds import smoother
from analysis.worlds.pooled import Pooled, pool
from analysis.worlds.power import FIRST, MOST, following
from analysis.worlds.truths import BUDGET, CONTRASTS, NEAR, TRUTHS, Curves, checkpoints
from sweeps.estimands import WorldEstimate

ROPE = 0.07
"""Differences of golden reward, in SFT standard deviations, that are practically nothing."""
PRECISION = {"C2": 0.07, "C3.8": 0.14}
"""Half width at which a growing design stops, in SFT standard deviations: 2 and 4 points."""


Estimates: TypeAlias = tuple[Float[np.ndarray, " world"], Float[np.ndarray, " world"]]
"""Each world's estimate of an effect, and its standard error."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One row of the calibration; ``worlds`` is None for a design that grows until `PRECISION` is reached."""

    truth: str
    contrast: str
    worlds: int | None


CELLS = tuple(itertools.starmap(Cell, itertools.product(TRUTHS, CONTRASTS, (6, 16, None))))


def grown(
    values: Float[np.ndarray, " world"], errors: Float[np.ndarray, " world"], precision: float
) -> Pooled:
    """The posterior of a design that grows until the half width is at most ``precision``: the rule sees the width
    alone, never the effect."""
    count, precise = FIRST, False
    while count < MOST and not precise:
        low, high = pool(values[:count], errors[:count], ROPE).quantile(np.array([0.05, 0.95]))
        precise = bool((high - low) / 2 <= precision)
        count = following(count, precise)
    return pool(values[:count], errors[:count], ROPE)


def across(cell: Cell, count: int, seed: int = 0) -> pd.DataFrame:
    """Simulate the across-world stage: one row a simulation and task, with the interval and the truth."""
    truth = TRUTHS[cell.truth]

    def measured(curves: Curves, rng: np.random.Generator) -> Estimates:
        # Settings differ within a world: they add to its error; single errors are known only roughly.
        errors = np.hypot(0.02, truth.setting / 4) * np.exp(0.3 * rng.normal(size=len(curves)))
        effects = CONTRASTS[cell.contrast](curves)
        return effects + errors * rng.normal(size=len(curves)), errors

    return _simulated(cell, count, (seed,), measured)


def whole(cell: Cell, count: int, seed: int = 0) -> pd.DataFrame:
    """Simulate the whole pipeline from checkpoints; columns as `across`."""
    truth = TRUTHS[cell.truth]

    def measured(curves: Curves, rng: np.random.Generator) -> Estimates:
        return estimates(cell.contrast, checkpoints(truth, curves, rng))

    return _simulated(cell, count, (seed, 1), measured)


def _simulated(
    cell: Cell,
    count: int,
    key: tuple[int, ...],
    measured: Callable[[Curves, np.random.Generator], Estimates],
) -> pd.DataFrame:
    """Rows of simulations whose worlds are ``measured`` from their true curves."""
    truth, rows = TRUTHS[cell.truth], []
    for task in (0, 1):
        rng = np.random.default_rng([*key, CELLS.index(cell), task])
        true = truth.effect(cell.contrast, task)
        for _ in range(count):
            values, errors = measured(truth.curves(rng, cell.worlds or MOST, task), rng)
            rows.append(_row(cell, task, true, _pooled(cell, values, errors)))
    return pd.DataFrame(rows)


def estimates(contrast: str, measured: list[list[smoother.Checkpoints]]) -> Estimates:
    """Each world's contrast and standard error, from its checkpoints."""
    by = smoother.fit(list(itertools.chain.from_iterable(measured)))
    values, errors = [], []
    for arms in measured:
        fitted = [smoother.Curves(points, by) for points in arms]
        if contrast == "C2":
            parts = [fit.window(*np.sqrt(NEAR)) for fit in fitted]
        else:
            parts = [fit.best(np.sqrt(BUDGET)) for fit in fitted]
        effect = WorldEstimate.combined((1.0, -1.0), parts)
        values.append(effect.value)
        errors.append(np.hypot(effect.error, effect.misfit))
    return np.array(values), np.array(errors)


def _pooled(
    cell: Cell, values: Float[np.ndarray, " world"], errors: Float[np.ndarray, " world"]
) -> Pooled:
    if cell.worlds is None:
        return grown(values, errors, PRECISION[cell.contrast])
    return pool(values, errors, ROPE)


def _row(cell: Cell, task: int, true: float, found: Pooled) -> dict[str, object]:
    """A simulation: interval, whether it covers, and whether a rule with the truth on its edge says "reproduced"."""
    low, high = found.quantile(np.array([0.05, 0.95]))
    return {
        **dataclasses.asdict(cell),
        "task": task,
        "true": true,
        "half_width": (high - low) / 2,
        "covers": low <= true <= high,
        # P(effect > edge) >= 0.95, and the same for P(effect < edge).
        "above": low > true,
        "below": high < true,
    }


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Share covered, edge effects called "reproduced" on either side, and mean half width, by cell and task."""
    by = ["truth", "contrast", "worlds", "task"]
    means: Any = rows.groupby(by, dropna=False, sort=False, as_index=False).mean()
    return means.drop(columns="true")


def run(stage: str, count: int) -> Iterator[pd.DataFrame]:
    """Summaries of all cells of a stage, one after the other; the whole pipeline is simulated at 16 worlds only."""
    for cell in CELLS:
        if stage == "across":
            yield summary(across(cell, count))
        elif cell.worlds == 16:
            yield summary(whole(cell, count))


if __name__ == "__main__":
    for index, part in enumerate(run(sys.argv[1], int(sys.argv[2]))):
        print(part.round(4).to_csv(index=False, header=not index), end="", flush=True)

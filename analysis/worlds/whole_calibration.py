"""Do 90% intervals cover when everything is estimated? From simulated checkpoints to pooled worlds, as verdicts do it.

`python -m analysis.worlds.whole_calibration 100 ROWS.csv` simulates 100 studies of 16 worlds a truth
(`analysis.worlds.truths`) and task. Every study's checkpoints go through the functions that verdicts use: the
hyperparameters are fitted from its curves, the estimands of C2 and C3.8 are read off every world's curves, and the
worlds are pooled. Each part of `PART` studies is appended to ROWS.csv when it is finished, so that a second command
continues a first one; parts have random keys of their own, so that the rows do not depend on how often it was stopped.
At the end the summary (`summary`) is printed as CSV.
"""

import dataclasses
import functools
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.load import Table
from analysis.worlds import calibration, smoother, truths
from analysis.worlds.calibration import ROPE, Cell
from analysis.worlds.pooled import pool_effects
from analysis.worlds.truths import ARMS, BUDGET, CONTRASTS, NEAR, TRUTHS
from sweeps.estimands import (
    BestDifference,
    InWorlds,
    MatchedDifference,
    Seed,
    Unanswerable,
    WorldCurve,
    WorldEstimand,
)

WORLDS = 16
PART = 10
"""Studies of one truth and task that are simulated between two writes to the file."""
ESTIMANDS: Mapping[str, WorldEstimand] = {
    "C2": MatchedDifference(*ARMS, *NEAR),
    "C3.8": BestDifference(*ARMS, within=BUDGET),
}


@dataclasses.dataclass(frozen=True)
class SimulatedEvidence:
    """The curves of simulated checkpoints [world][arm], for estimands of curves: there are no runs behind them."""

    measured: Sequence[Sequence[smoother.Checkpoints]]
    by: smoother.Hyperparameters

    def curves(
        self, arm: str, outcome: str, among: Sequence[str] = ()
    ) -> Mapping[Seed, WorldCurve]:
        """The arm's curve in every world: there is one outcome, and arms ran the same settings."""
        place = ARMS.index(arm)
        return {
            world: smoother.Curves(arms[place], self.by) for world, arms in enumerate(self.measured)
        }

    def describe_runs(self, arms: tuple[str, ...]) -> dict[str, Any]:
        """Nothing: there were no runs."""
        return {}

    def _no_runs(self, *_: Any, **__: Any) -> Any:
        raise Unanswerable("simulated checkpoints have curves and no runs")

    pool = last = checkpoints = levels = at = size = _no_runs


def studies(truth: str, task: int, part: int, count: int) -> Table:
    """Simulate ``count`` studies of a task: one row a study and contrast.

    Columns: those of `calibration.row`; part; ``estimate``, the posterior median; ``bias``, the mean over worlds of
    estimate less the world's own true effect; ``squared``, the mean square of this error in units of the standard error
    that was stated for it (1 if errors are right; settings whose effects the truth draws are no part of a world's own
    effect, and raise it).
    """
    process, rows = TRUTHS[truth], []
    true = {contrast: _effect(truth, contrast, task) for contrast in ESTIMANDS}
    rng = np.random.default_rng([2026, list(TRUTHS).index(truth), task, part])
    for _ in range(count):
        curves = process.curves(rng, WORLDS, task)
        measured = truths.checkpoints(process, curves, rng)
        by = smoother.fit(list(itertools.chain.from_iterable(measured)))
        evidence = SimulatedEvidence(measured, by)
        for contrast, estimand in ESTIMANDS.items():
            effects = estimand.in_worlds(evidence)
            posterior = pool_effects(effects, ROPE)
            if posterior is None:
                raise ArithmeticError("worlds without any difference were simulated")
            cell = Cell(truth, contrast, WORLDS)
            row = calibration.row(cell, task, true[contrast], posterior)
            row |= {"part": part, "estimate": float(posterior.quantile(np.array([0.5]))[0])}
            rows.append(row | _apart(effects, CONTRASTS[contrast](curves)))
    return pd.DataFrame(rows)


@functools.cache
def _effect(truth: str, contrast: str, task: int) -> float:
    """The true effect of a task, from many worlds."""
    return TRUTHS[truth].effect(contrast, task)


def _apart(effects: InWorlds, true: np.ndarray) -> dict[str, float]:
    """Mean error of the worlds' estimates, and its mean square in units of the stated errors."""
    parts = [effects.estimates[world] for world in sorted(effects.estimates)]
    error = np.array([part.value for part in parts]) - true[sorted(effects.estimates)]
    stated = np.array([math.hypot(part.error, part.misfit) for part in parts])
    return {"bias": float(error.mean()), "squared": float(np.mean((error / stated) ** 2))}


def complete(count: int, file: Path) -> Table:
    """Simulate what ``file`` lacks of ``count`` studies a truth and task, part by part over all truths, and return all
    its rows."""
    done = set()
    if file.exists():
        done = set(pd.read_csv(file)[["truth", "task", "part"]].itertuples(index=False, name=None))
    for part, truth, task in itertools.product(range(-(-count // PART)), TRUTHS, (0, 1)):
        if (truth, task, part) not in done:
            rows = studies(truth, task, part, PART).round(6)
            rows.to_csv(file, mode="a", index=False, header=not file.exists())
    return pd.read_csv(file)


def summary(rows: Table) -> Table:
    """By truth, contrast and task: number of studies; share covered; truths beyond either end of the interval; mean
    half width, bias of the estimate, bias of a world's estimate, and mean square of its error in stated units."""
    rows = rows.assign(off=rows["estimate"] - rows["true"])
    groups = rows.groupby(["truth", "contrast", "worlds", "task"], sort=False)
    means = groups[["covers", "above", "below", "half_width", "off", "bias", "squared"]].mean()
    return means.assign(studies=groups.size()).reset_index()


if __name__ == "__main__":
    found = complete(int(sys.argv[1]), Path(sys.argv[2]))
    print(summary(found).round(4).to_csv(index=False), end="")

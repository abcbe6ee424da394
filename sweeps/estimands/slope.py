"""Slope: how an arm's last value depends on a setting."""

import dataclasses
import math

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


@dataclasses.dataclass(frozen=True)
class Slope(WorldEstimand):
    """Change of a metric per unit of a measured column, other columns held fixed (B3).

    In each world, the metric at the last checkpoint is regressed by least squares, over the arm's settings, on the
    column `on`, the columns `given` and an intercept; the slopes of `on` in the worlds are pooled.
    """

    metric: str
    on: str
    given: tuple[str, ...]
    arm: str

    def words(self) -> tuple[str, str]:
        (name, unit), (on, per) = words_of(self.metric), words_of(self.on)
        given = ", ".join(words_of(column)[0] for column in self.given)
        fixed = f" with {given} held fixed" if given else ""
        return f"{name} per unit of {on}{fixed}, {self.arm}", f"{unit} per {per}"

    def in_worlds(self, evidence: Evidence) -> InWorlds:
        columns = [evidence.last(name, self.arm) for name in (self.metric, self.on, *self.given)]
        rows = ((run, [column[run] for column in columns]) for run in columns[0])
        seeds = by_seed((run, row) for run, row in rows if all(map(math.isfinite, row)))
        fits = {seed: _slope(np.array(rows)) for seed, rows in seeds.items()}
        slopes = {seed: WorldEstimate(fit) for seed, fit in fits.items() if fit is not None}
        if not slopes:
            raise Unanswerable(
                f"{', '.join((self.on, *self.given))} do not vary independently over the settings "
                f"of {self.arm} in any seed"
            )
        lacking = len(seeds) - len(slopes)
        why = "the columns do not vary independently"
        return InWorlds(slopes, evidence.describe_runs((self.arm,)), lacking=lacking, why=why)


def _slope(rows: np.ndarray) -> float | None:
    """Coefficient of column 1 in the least squares of column 0 on the others and an intercept.

    rows: shape (run, column). None if the columns are collinear or there are too few rows.
    """
    columns = rows[:, 1:] - rows[:, 1:].mean(axis=0)
    spread = columns.std(axis=0)
    if len(rows) <= columns.shape[1] or np.any(spread == 0):
        return None
    # At a condition number above 1e4 the columns clearly do not vary independently.
    scaled = columns / spread
    if np.linalg.cond(scaled) > 1e4:
        return None
    return float(np.linalg.lstsq(scaled, rows[:, 0] - rows[:, 0].mean())[0][0] / spread[0])

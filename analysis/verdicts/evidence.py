"""Evidence of a study's results about one task, or about a typical task, for estimands."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.curves import frontier
from analysis.curves.frontier import Fits, Frontier
from analysis.load import Table, counts, last_rows, lost, trajectories, units
from sweeps.estimands import Peak, Unanswerable, Unit

ALL_TASKS = "all tasks"
PARAMETERS = "ground.parameters"
"""Column of the policy's number of parameters."""


class Pool:
    """All tasks of a study, fitted together at the first request, and at most once."""

    def __init__(
        self, table: Table, arms: tuple[str, ...], axes: tuple[str, ...], strata: tuple[str, ...]
    ) -> None:
        self.table, self.arms, self.axes, self.strata = table, arms, axes, strata
        self._parts: dict[tuple[str, Any], Pool] = {}

    @functools.cached_property
    def fits(self) -> Fits:
        """The fitted frontiers; raises Unanswerable if none can be fitted."""
        named = self.table.assign(trajectory=trajectories(self.table, self.axes))
        return frontier.fit_all(named, self.arms, self.strata)

    def at(self, path: str, level: Any) -> "Pool":
        """The rows at one level of a path that is not a stratum, fitted separately."""
        if (path, level) not in self._parts:
            rows = frontier.at_level(self.table, path, level)
            self._parts[path, level] = Pool(rows, self.arms, self.axes, self.strata)
        return self._parts[path, level]


class _OfCurves:
    """Quantities of fitted curves: of one, or means over several."""

    @property
    def _frontiers(self) -> list[Frontier]:
        """The curves; raises Unanswerable if there are none."""
        raise NotImplementedError

    def peak(self, arm: str) -> Peak:
        """Peak of the arm's typical curve inside its observed range."""
        return mean_peak([fit.peak(arm) for fit in self._frontiers])

    def gap(self, first: str, second: str, also: Sequence[str] = ()) -> np.ndarray:
        """Draws of the mean win-rate difference over the shared range of sqrt(KL)."""
        return np.mean([fit.gap(first, second, also) for fit in self._frontiers], axis=0)

    def describe_runs(self, arms: tuple[str, ...]) -> dict[str, Any]:
        """Seeds, runs and diverged runs of these arms."""
        raise NotImplementedError

    def describe_curves(self, arms: tuple[str, ...]) -> dict[str, Any]:
        """Counts of these arms; also peaks, observed and shared ranges if there is one curve per arm."""
        details, fits = self.describe_runs(arms), self._frontiers
        if len(fits) > 1:
            return details
        for arm in arms:
            details["arms"][arm] |= describe_peak(fits[0], arm)
        if len(arms) > 1:
            try:
                low, high = fits[0].shared(*arms)
                details["shared_kl"] = [low**2, high**2]
            except Unanswerable:
                details["shared_kl"] = None
        return details


@dataclasses.dataclass(frozen=True)
class TaskEvidence(_OfCurves):
    """The evidence of one task's results; implements `sweeps.estimands.Evidence`.

    `table` has the task's rows, at the levels in `chosen` if there are any. A curve is fitted at each combination of
    the strata's levels. If some strata have no chosen level, quantities of curves are means over the combinations.
    """

    task: str
    table: Table
    pool: Pool
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def _frontiers(self) -> list[Frontier]:
        """The curves at every combination of levels of the strata that have no chosen level."""
        fits, strata = self.pool.fits, self.pool.strata
        wanted = {1 + i: self.chosen[path] for i, path in enumerate(strata) if path in self.chosen}

        def ours(key: frontier.Key) -> bool:
            return key[0] == self.task and all(key[i] == level for i, level in wanted.items())

        reasons = [why for key, why in fits.without.items() if ours(key)]
        if reasons:
            raise Unanswerable(reasons[0])
        fitted = [fit for key, fit in fits.groups.items() if ours(key)]
        if not fitted:
            raise Unanswerable(f"{self.task} has no results there")
        return fitted

    @property
    def frontier(self) -> Frontier:
        """The fitted frontier; raises Unanswerable if there is none, or if there is one per level."""
        fits = self._frontiers
        if len(fits) > 1:
            raise Unanswerable(f"{self.task} has a curve at each level of {self.pool.strata}")
        return fits[0]

    def caveat(self, arms: Sequence[str]) -> str:
        """Why no verdict may rest on the curves: too few seeds, a fit that failed, curves that miss their points."""
        for fit in self._frontiers:
            rows = fit.cleaned.trained
            for arm in arms:
                if rows.loc[rows["arm"] == arm, "seed"].nunique() < 2:
                    return f"only one seed in arm {arm}: the seed is the unit of replication"
        problems = [fit.trouble(arms) for fit in self._frontiers]
        return next(filter(None, problems), "")

    def last(self, metric: str, arm: str, among: Sequence[str] = ()) -> Mapping[Unit, float]:
        """The metric at the last checkpoint of the arm's runs, diverged runs left out.

        Keys hold the settings that all arms in `among` have, so that they can be compared between these arms.
        "best_win_rate" is the best of a run's trained checkpoints (it grows with their number, so compare runs that
        were evaluated equally often).
        """
        rows = last_rows(self.table)
        if metric == "best_win_rate":
            trained = self._trained(self.pool.arms).groupby(["arm", "run"])["win_rate"].max()
            rows = rows.join(trained.rename(metric), on=["arm", "run"])
        axes = self._axes(tuple(among) or (arm,))
        rows = rows[(rows["arm"] == arm) & (rows["diverged_step"] < 0)]
        if metric not in rows:
            raise Unanswerable(f"the results have no metric {metric}")
        if rows.empty:
            raise Unanswerable(f"arm {arm} has no run that finished without diverging")
        values: dict[Unit, list[float]] = {}
        for unit, value in zip(units(rows, axes), _numbers(rows, (metric,))[:, 0], strict=True):
            values.setdefault(unit, []).append(value)
        return {unit: float(np.mean(found)) for unit, found in values.items()}

    def checkpoints(
        self, columns: tuple[str, ...], arms: tuple[str, ...]
    ) -> tuple[Mapping[Unit, list[np.ndarray]], ...]:
        """For each arm the trained checkpoints of its runs, arrays (checkpoint, column)."""
        for column in columns:
            if column not in self.table:
                raise Unanswerable(f"the results have no metric {column}")
        axes = self._axes(arms)
        trained = self._trained(arms).sort_values(["run", "evaluation"])
        parts = []
        for arm in arms:
            found: dict[Unit, list[np.ndarray]] = {}
            for _, rows in trained[trained["arm"] == arm].groupby("run"):
                (unit,) = units(rows.head(1), axes)
                found.setdefault(unit, []).append(_numbers(rows, columns))
            if not found:
                raise Unanswerable(f"arm {arm} has no checkpoints after the first step")
            parts.append(found)
        return tuple(parts)

    def _trained(self, arms: Sequence[str]) -> Table:
        """Trained checkpoints of these arms, up to where a run diverged."""
        rows = self.table[self.table["arm"].isin(arms) & (self.table["evaluation"] > 0)]
        return rows[~lost(rows)]

    def _axes(self, arms: Sequence[str]) -> tuple[str, ...]:
        """The swept paths that all of these arms have."""
        by_arm = [self.table[self.table["arm"] == arm] for arm in arms]
        return tuple(
            axis
            for axis in self.pool.axes
            if all(rows[axis].notna().any() for rows in by_arm if len(rows))
        )

    def describe_runs(self, arms: tuple[str, ...]) -> dict[str, Any]:
        """Seeds, runs and diverged runs of these arms."""
        rows = last_rows(self.table)
        return {"arms": {arm: counts(rows[rows["arm"] == arm]) for arm in arms}}

    def levels(self, path: str) -> tuple[Any, ...]:
        """Values of a swept path, in order of size if all have one, else in the order of the table."""
        if path not in self.table or self.table[path].isna().all():
            raise Unanswerable(f"{path} is not swept on {self.task}")
        levels = tuple(self.table[path].dropna().unique().tolist())
        try:
            return tuple(sorted(levels, key=lambda level: self.size(path, level)))
        except Unanswerable:
            return levels

    def at(self, path: str, level: Any) -> "TaskEvidence":
        """The evidence at one level; at a level of a path that is not a stratum, curves are fitted separately."""
        rows = frontier.at_level(self.table, path, level)
        if path in self.pool.strata:
            return TaskEvidence(self.task, rows, self.pool, {**self.chosen, path: level})
        return TaskEvidence(self.task, rows, self.pool.at(path, level), self.chosen)

    def size(self, path: str, level: Any) -> float:
        """The policy's number of parameters if it differs between levels, else the level's value."""
        if PARAMETERS in self.table:
            counts = self.table.groupby(path)[PARAMETERS].median()
            if counts.notna().all() and counts.nunique() > 1:
                return float(counts[level])
        if isinstance(level, int | float) and not isinstance(level, bool):
            return float(level)
        raise Unanswerable(f"{level} of {path} has no size")


@dataclasses.dataclass(frozen=True)
class TypicalEvidence(_OfCurves):
    """The evidence of several tasks' results about a typical task: its curves only."""

    pool: Pool
    tasks: Mapping[str, TaskEvidence]

    @property
    def _frontiers(self) -> list[Frontier]:
        """The typical task's curve; raises Unanswerable unless at least two tasks have curves."""
        typical = self.pool.fits.typical
        if typical is None:
            raise Unanswerable("fewer than two tasks have curves")
        return [typical]

    def caveat(self, arms: Sequence[str]) -> str:
        """The caveats of the tasks: a caveat of one task holds for the typical task."""
        fitted = {key[0] for key in self.pool.fits.groups}
        said = (evidence.caveat(arms) for task, evidence in self.tasks.items() if task in fitted)
        return next(filter(None, said), "")

    def describe_runs(self, arms: tuple[str, ...]) -> dict[str, Any]:
        """Seeds (of all tasks), runs and diverged runs of these arms."""
        parts = [evidence.describe_runs(arms)["arms"] for evidence in self.tasks.values()]
        names = ("seeds", "runs", "diverged")
        sums = {arm: {name: sum(p[arm][name] for p in parts) for name in names} for arm in arms}
        return {"arms": sums, "tasks": list(self.tasks)}

    def _no_runs(self, *_: Any, **__: Any) -> Any:
        raise Unanswerable("a typical task has curves and no runs of its own")

    last = checkpoints = levels = at = size = _no_runs


def mean_peak(peaks: Sequence[Peak]) -> Peak:
    """Mean of several curves' peaks, draw by draw (geometric mean of KL); inside if all peaks are inside."""
    if len(peaks) == 1:
        return peaks[0]

    def mean(of: Callable[[Peak], Any]) -> np.ndarray:
        return np.mean([of(peak) for peak in peaks], axis=0)

    return Peak(
        value=mean(lambda peak: peak.value),
        root_kl=np.exp(mean(lambda peak: peak.log_kl) / 2),
        start=mean(lambda peak: peak.start),
        end=mean(lambda peak: peak.end),
        interior=np.all([peak.interior for peak in peaks], axis=0),
        nearest=math.exp(np.mean([math.log(peak.nearest) for peak in peaks])),
    )


def describe_peak(fit: Frontier, arm: str) -> dict[str, Any]:
    """An arm's peak with 90% intervals, and its place in the observed range.

    A `peak_place` of "end" means that the peak was not reached.
    """
    peak, span = fit.peak(arm), fit.spans[arm]
    reached = float(np.mean(peak.interior))
    kl = peak.root_kl**2
    return {
        "observed_kl": [span.start**2, span.end**2],
        "peak": float(np.median(peak.value)),
        "peak_interval": np.quantile(peak.value, [0.05, 0.95]).tolist(),
        "peak_kl": float(np.median(kl)),
        "peak_kl_interval": np.quantile(kl, [0.05, 0.95]).tolist(),
        "peak_inside": reached,
        "peak_place": peak.place,
    }


def _numbers(rows: Table, columns: Sequence[str]) -> np.ndarray:
    """Columns as numbers, (row, column). Raises Unanswerable for a column of texts."""
    try:
        return rows[list(columns)].to_numpy(dtype=float)
    except (TypeError, ValueError) as problem:
        raise Unanswerable(f"{' or '.join(columns)} is not a number in the results") from problem

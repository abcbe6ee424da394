"""Evidence of a study's results about one task, or about a typical task, for estimands."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from analysis.load import Results, Table, counts, last_rows, lost, shared_axes, units
from analysis.worlds import measured, pooled, smoother
from analysis.worlds.pooled import Pooled
from analysis.worlds.smoother import Checkpoints, Curves, Hyperparameters
from sweeps.estimands import Evidence, InWorlds, Seed, Unanswerable, Unit
from sweeps.rules import Draws

ALL_TASKS = "all tasks"
PARAMETERS = "ground.parameters"
"""Column of the policy's number of parameters."""
BEST = "best_"
"""Prefix of the best value of a metric over a run's trained checkpoints."""
LACKING = 0.25
"""Largest share of worlds without an effect at which the other worlds still stand for the task."""
NO_RUN = "an arm has no run there that did not diverge and has finite values"
"""Why a world has no effect, of which estimands saw nothing."""


_KEYS = ("arm", "seed", "run", "evaluation")
"""The columns that say which run a checkpoint belongs to."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """The arms, swept paths, families and strata of a study, and the smoothness of every outcome by task."""

    table: Table
    arms: tuple[str, ...]
    axes: tuple[str, ...]
    families: int = 1
    strata: tuple[str, ...] = ()
    _fits: dict[tuple[str, str], Hyperparameters] = dataclasses.field(default_factory=dict)
    _curves: dict[Any, Curves] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, results: Results) -> Self:
        """The pool of a study's results."""
        return cls(results.table, results.arms, results.axes, results.families, results.strata)

    def curve(self, points: Checkpoints, by: Hyperparameters, tokens: float) -> Curves:
        """The curves of an arm in one world. Equal checkpoints give the same object, which keeps what was computed: two
        claims, or a claim and the multiverse, may choose the same settings in different ways."""
        arrays = (points.d, points.change, points.setting, points.run)
        key = (*(array.tobytes() for array in arrays), points.names, by, tokens)
        if key not in self._curves:
            self._curves[key] = Curves(points, by, tokens)
        return self._curves[key]

    def hyperparameters(self, task: str, outcome: str) -> Hyperparameters:
        """Those of the curves of an outcome on a task, from all arms, worlds and levels of strata, each of which has
        curves of its own; fitted once."""
        key = task, outcome
        if key not in self._fits:
            rows = self.table[self.table["task"] == task]
            parts = [rows]
            if self.strata and outcome in rows:
                known = rows[rows[outcome].notna()]
                parts = [part for _, part in known.groupby(list(self.strata), dropna=False)]
            found = [measured.checkpoints(part, self.arms, self.axes, outcome) for part in parts]
            self._fits[key] = smoother.fit([one for part in found for one in part.values()])
        return self._fits[key]


@dataclasses.dataclass(frozen=True)
class TaskEvidence:
    """The evidence of one task's results; implements `sweeps.estimands.Evidence`.

    `table` has the task's rows, at the levels that were chosen by `at`.
    """

    task: str
    table: Table
    study: Pool
    _curves: dict[Any, Mapping[Seed, Curves]] = dataclasses.field(default_factory=dict)
    _levels: dict[Any, "TaskEvidence"] = dataclasses.field(default_factory=dict)
    _points: dict[str, Any] = dataclasses.field(default_factory=dict)

    def pool(
        self, measure: Callable[[Evidence], InWorlds], words: tuple[str, str], negligible: float
    ) -> Draws:
        """Posterior draws of the task's effect; see `Evidence.pool`."""
        return self.pooled(measure, words, negligible)[0]

    def pooled(
        self, measure: Callable[[Evidence], InWorlds], words: tuple[str, str], negligible: float
    ) -> tuple[Draws, Pooled | None]:
        """The draws of `pool`, and the posterior behind them; None if there is no interval."""
        effects = self._counted(measure(self))
        details = dict(effects.details) | _described(effects)
        posterior, reason = None, ""
        if len(effects.estimates) < 2:
            reason = _unfit(effects, negligible) or (
                "only one world: the world is the unit of replication, so there is no interval"
            )
        else:
            posterior = pooled.pool_effects(effects, negligible, self.study.families)
            if posterior is None:
                reason = next(iter(effects.open.values()), "") or (
                    "the worlds do not differ at all, so there is no interval"
                )
        if posterior is None:
            value = next(iter(effects.estimates.values())).value
            return Draws(*words, np.array([value]), reason, details), None
        details["scatter"] = posterior.scatter
        if self.study.families > 1:
            details["families"] = self.study.families
        reason = _unfit(effects, negligible) or self._replicated(effects)
        draws = Draws(*words, posterior.draws(), reason, details, open=effects.open)
        return draws, posterior

    def _replicated(self, effects: InWorlds) -> str:
        """Why the worlds are no replications, or "": in one family only the prior says how families differ."""
        if len({world // self.study.families for world in effects.estimates}) > 1:
            return ""
        return "only one family: its worlds share their golden reward, so that it is not replicated"

    def _counted(self, effects: InWorlds) -> InWorlds:
        """The effects with all worlds counted that lack one: estimands do not see worlds without any usable run."""
        lacking = int(self.table["seed"].nunique()) - len(effects.estimates)
        if lacking <= effects.lacking:
            return effects
        why = effects.why if effects.lacking else NO_RUN
        return dataclasses.replace(effects, lacking=lacking, why=why)

    def curves(self, arm: str, outcome: str, among: Sequence[str] = ()) -> Mapping[Seed, Curves]:
        """The arm's curves in every world; see `Evidence.curves`."""
        key = arm, outcome, tuple(among)
        if key not in self._curves:
            self._curves[key] = self._smoothed(arm, outcome, tuple(among))
        return self._curves[key]

    def starts(self, outcome: str) -> Mapping[Seed, float]:
        """The outcome of SFT, by world."""
        return measured.starts(self.table, outcome)

    def _smoothed(self, arm: str, outcome: str, among: tuple[str, ...]) -> Mapping[Seed, Curves]:
        if among:
            rows = self._alike(arm, among)
            found = measured.checkpoints(rows, (arm,), self.study.axes, outcome)
        else:
            found = {
                key: points for key, points in self._measured(outcome).items() if key[1] == arm
            }
        if not found:
            raise Unanswerable(f"arm {arm} has no checkpoints after the first step")
        by = self.study.hyperparameters(self.task, outcome)
        tokens = measured.starts(self.table, "length") if "length" in self.table else {}
        return {
            world: self.study.curve(points, by, tokens.get(world, np.nan))
            for (world, _), points in found.items()
        }

    def _measured(self, outcome: str) -> Mapping[tuple[Seed, str], Checkpoints]:
        """The checkpoints of all arms."""
        if outcome not in self._points:
            arms, axes = self.study.arms, self.study.axes
            self._points[outcome] = measured.checkpoints(self.table, arms, axes, outcome)
        return self._points[outcome]

    def _alike(self, arm: str, among: tuple[str, ...]) -> Table:
        """The rows of an arm at the settings that all arms in `among` ran, up to the number of steps that all took."""
        axes = tuple(axis for axis in self._axes(among) if axis != "steps")
        of_arm = {name: self.table[self.table["arm"] == name] for name in among}
        settings = {name: set(units(rows, axes)) for name, rows in of_arm.items()}
        shared = set.intersection(*settings.values())
        steps = min(int(rows["step"].max()) for rows in of_arm.values() if len(rows))
        if not shared:
            raise Unanswerable(f"{' and '.join(among)} have no setting in common")
        rows = self.table[(self.table["arm"] == arm) & (self.table["step"] <= steps)]
        return rows[[unit in shared for unit in units(rows, axes)]]

    def last(self, metric: str, arm: str, among: Sequence[str] = ()) -> Mapping[Unit, float]:
        """The metric at the last checkpoint of the arm's runs, diverged runs left out.

        Keys hold the settings that all arms in `among` have, so that they can be compared between these arms.
        "best_" before a metric asks for its best over a run's trained checkpoints (which grows with their number, so
        compare runs that were evaluated equally often).
        """
        base = metric.removeprefix(BEST)
        axes = self._axes(tuple(among) or (arm,))
        rows = self._last_rows
        needed = dict.fromkeys((*_KEYS, "diverged_step", *axes, metric))
        rows = rows[[name for name in needed if name in rows]]
        rows = rows[(rows["arm"] == arm) & (rows["diverged_step"] < 0)]
        if metric.startswith(BEST) and base in self.table:
            trained = self._trained((arm,), ("run", base)).groupby("run")[base].max()
            rows = rows.join(trained.rename(metric), on="run")
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
        trained = self._trained(arms, (*_KEYS, *axes, *columns))
        trained = trained.sort_values(["run", "evaluation"])
        parts = []
        for arm in arms:
            rows = trained[trained["arm"] == arm]
            if rows.empty:
                raise Unanswerable(f"arm {arm} has no checkpoints after the first step")
            numbers = _numbers(rows, columns)
            begins = np.flatnonzero(~rows["run"].duplicated().to_numpy())
            found: dict[Unit, list[np.ndarray]] = {}
            runs = np.split(numbers, begins[1:])
            for unit, run in zip(units(rows.iloc[begins], axes), runs, strict=True):
                found.setdefault(unit, []).append(run)
            parts.append(found)
        return tuple(parts)

    def _trained(self, arms: Sequence[str], columns: Sequence[str]) -> Table:
        """These columns of the trained checkpoints of these arms, up to where a run diverged."""
        wanted = self.table["arm"].isin(arms) & (self.table["evaluation"] > 0) & ~lost(self.table)
        return self.table.loc[wanted, list(dict.fromkeys(columns))]

    def _axes(self, arms: Sequence[str]) -> tuple[str, ...]:
        """The swept paths that all of these arms have."""
        return shared_axes(self.table, arms, self.study.axes)

    def describe_runs(self, arms: tuple[str, ...]) -> dict[str, Any]:
        """Seeds, runs and diverged runs of these arms."""
        rows = self._last_rows[["arm", "seed", "diverged_step"]]
        return {"arms": {arm: counts(rows[rows["arm"] == arm]) for arm in arms}}

    @functools.cached_property
    def _last_rows(self) -> Table:
        return last_rows(self.table)

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
        """The evidence at one level of a swept path; rows of arms without the path belong to every level."""
        if (path, level) not in self._levels:
            if path not in self.table:
                raise Unanswerable(f"{path} is not swept on {self.task}")
            rows = self.table[self.table[path].isna() | (self.table[path] == level)]
            self._levels[path, level] = TaskEvidence(self.task, rows, self.study)
        return self._levels[path, level]

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
class TypicalEvidence:
    """The evidence of several tasks' results about a typical task: effects of worlds only."""

    tasks: Mapping[str, TaskEvidence]

    def pool(
        self, measure: Callable[[Evidence], InWorlds], words: tuple[str, str], negligible: float
    ) -> Draws:
        """Posterior draws of the effect of a typical task. Raises `Unanswerable` unless at least two tasks have an
        interval."""
        parts, details, reasons, sides = [], {}, [], {}
        for task, evidence in self.tasks.items():
            draws, posterior = evidence.pooled(measure, words, negligible)
            reasons += [f"on {task}: {draws.reason}"] * bool(draws.reason)
            sides |= draws.open
            if posterior is not None:
                parts.append(posterior)
                details[task] = float(np.median(draws.values))
        if len(parts) < 2:
            raise Unanswerable("fewer than two tasks have an interval")
        spread = float(np.std(list(details.values()))) or 1.0
        values = pooled.typical(parts, negligible or spread / 3).draws()
        return Draws(*words, values, "; ".join(reasons), {"tasks": details}, open=sides)

    def _no_runs(self, *_: Any, **__: Any) -> Any:
        raise Unanswerable("a typical task has effects and no runs of its own")

    curves = last = checkpoints = levels = at = size = _no_runs

    def describe_runs(self, arms: tuple[str, ...]) -> dict[str, Any]:
        """Seeds (of all tasks), runs and diverged runs of these arms."""
        parts = [evidence.describe_runs(arms)["arms"] for evidence in self.tasks.values()]
        names = ("seeds", "runs", "diverged")
        sums = {arm: {name: sum(p[arm][name] for p in parts) for name in names} for arm in arms}
        return {"arms": sums, "tasks": list(self.tasks)}


def _described(effects: InWorlds) -> dict[str, Any]:
    """The effects of the worlds as JSON-able details."""
    worlds = [
        {"seed": world, "estimate": part.value, "error": float(np.hypot(part.error, part.misfit))}
        for world, part in sorted(effects.estimates.items())
    ]
    return {"worlds": worlds, "worlds_lacking": effects.lacking}


def _unfit(effects: InWorlds, negligible: float) -> str:
    """Why no verdict may rest on these effects, or "": worlds without the effect may be other worlds, and a model that
    misses what was measured, in the mean over worlds, by more than what is practically nothing is no measure of it."""
    known = len(effects.estimates)
    if effects.lacking > LACKING * (known + effects.lacking):
        return f"{effects.lacking} of {known + effects.lacking} worlds lack it: {effects.why}"
    misfit = float(np.mean([part.misfit for part in effects.estimates.values()]))
    if negligible and abs(misfit) > negligible:
        return f"the curves miss the checkpoints by {abs(misfit):.2g} on average, allowed are {negligible:g}"
    return ""


def _numbers(rows: Table, columns: Sequence[str]) -> np.ndarray:
    """Columns as numbers, (row, column). Raises Unanswerable for a column of texts."""
    try:
        return rows[list(columns)].to_numpy(dtype=float)
    except (TypeError, ValueError) as problem:
        raise Unanswerable(f"{' or '.join(columns)} is not a number in the results") from problem

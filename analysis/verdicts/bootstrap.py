"""Would results like these be judged rightly? A parametric bootstrap of a user's own results.

`python -m analysis.verdicts.bootstrap DIR [N]` simulates N studies (default 100) like each stored one, judges them by
the study's claims, and prints as CSV, for every test of every task, how often the 90% interval covers the effect that
was simulated and how often each verdict is given.

A simulated study has the stored one's worlds, arms, settings, runs and values of KL. Its outcomes are new:

    curve of a setting   the mean over worlds of the curves that were fitted to the results
    worlds               normal around it, with the covariance that these curves have between worlds, over arms,
                         settings and distances: what arms of a world share stays shared
    checkpoints          wandering of runs and noise with the fitted hyperparameters

Every step of the pipeline is repeated on the simulated study, hyperparameters included. The effect that is simulated
is the mean over many worlds, measured without error at the same checkpoints. Effects of metrics without curves are not
simulated, and worlds are drawn as if none of them shared a family.
"""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis.load import Column, Results, Table, load_all
from analysis.verdicts import verdict
from analysis.verdicts.evidence import Pool, TaskEvidence
from analysis.worlds import measured, smoother
from analysis.worlds.smoother import Checkpoints, Hyperparameters
from sweeps.claims import Claim
from sweeps.claims import Test as Part
from sweeps.estimands import Estimand, Seed, Unanswerable, WorldEstimand

REPLICATIONS = 100
_PAIRS = 20
"""Pairs of studies whose worlds a true effect is the mean of."""
_GRID = 65


class Group(NamedTuple):
    """The checkpoints of one arm in one world: their rows in the task's table, and the number of the curve (arm and
    setting, over all worlds) that each lies on."""

    seed: Seed
    arm: str
    rows: Int[np.ndarray, " n"]
    points: Checkpoints
    curve: Int[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Population:
    """The worlds that results of one task and outcome were fitted by.

    Attributes:
        d: distances. mean: curves of settings there, changes since SFT. apart: each measured world's deviation from
            them, 0 where a world has no such curve, in units in which a sum over worlds with standard normal weights
            has the covariance between worlds.
    """

    groups: Sequence[Group]
    by: Hyperparameters
    d: Float[np.ndarray, " d"]
    mean: Float[np.ndarray, "curve d"]
    apart: Float[np.ndarray, "world curve d"]

    @classmethod
    def fitted(cls, table: Table, study: Pool, task: str, outcome: str) -> "Population":
        """From the rows of a task. Raises `Unanswerable` without checkpoints, or for fewer than two worlds."""
        groups, count = _groups(table, study, outcome)
        seeds = sorted({group.seed for group in groups})
        if len(seeds) < 2:
            raise Unanswerable("only one world: there is no scatter to simulate")
        by = study.hyperparameters(task, outcome)
        d = np.linspace(0.0, max(float(group.points.d.max()) for group in groups), _GRID)
        curves = np.full((len(seeds), count, _GRID), np.nan)
        for group in groups:
            fit = smoother.Curves(group.points, by)
            for setting, reach in enumerate(fit.reach):
                # Beyond its last checkpoint a curve is not known, and is taken to stay where it was.
                nodes = smoother.Nodes(np.minimum(d, reach), np.full(_GRID, setting))
                number = group.curve[group.points.setting == setting][0]
                curves[seeds.index(group.seed), number] = fit.joint(nodes)[0]
        mean = np.nanmean(curves, axis=0)
        known = np.isfinite(curves[..., :1]).sum(axis=0)
        apart = np.where(np.isfinite(curves), curves - mean, 0.0) / np.sqrt(
            np.maximum(known - 1, 1)
        )
        return cls(groups, by, d, mean, apart)

    def worlds(
        self, weights: Float[np.ndarray, "world measured"]
    ) -> Float[np.ndarray, "world curve d"]:
        """The true curves of new worlds."""
        return self.mean + np.tensordot(weights, self.apart, axes=1)

    def table(
        self,
        table: Table,
        outcome: str,
        true: Float[np.ndarray, "world curve d"],
        rng: np.random.Generator | None,
    ) -> Table:
        """The rows of the task with the outcome of new worlds, in the order of their seeds: as they are measured or,
        without ``rng``, without any error."""
        seeds = sorted({group.seed for group in self.groups})
        start, values = measured.starts(table, outcome), table[outcome].astype(float).copy()
        for group in self.groups:
            curves = true[seeds.index(group.seed)]
            change = np.empty(len(group.rows))
            for number in np.unique(group.curve):
                on = group.curve == number
                change[on] = np.interp(group.points.d[on], self.d, curves[number])
            if rng is not None:
                change += smoother.measurement(group.points, self.by, rng)
            values[group.rows] = start[group.seed] + change
        return table.assign(**{outcome: values})


def _groups(table: Table, study: Pool, outcome: str) -> tuple[list[Group], int]:
    """The groups of a task's rows, and the number of different curves: a setting of an arm has one name in all
    worlds."""
    usable = measured.usable(table, outcome)
    found = measured.checkpoints(table, study.arms, study.axes, outcome)
    trained = usable[usable["evaluation"] > 0]
    setting = [axis for axis in study.axes if axis != "steps"]
    names = trained[["arm", *setting]].astype(str).agg(" ".join, axis=1)
    numbers: Column = pd.Series(pd.factorize(names)[0], index=trained.index)
    groups = [
        Group(
            int(seed),
            str(arm),
            rows.index.to_numpy(),
            found[seed, arm],
            numbers[rows.index].to_numpy(),
        )
        for (seed, arm), rows in trained.groupby(["seed", "arm"])
        if (seed, arm) in found
    ]
    return groups, int(numbers.max()) + 1 if len(numbers) else 0


@dataclasses.dataclass(frozen=True)
class Simulated:
    """A task's results whose outcomes can be drawn anew; see `of`."""

    task: str
    study: Pool
    table: Table
    populations: Mapping[str, Population]

    @classmethod
    def of(cls, task: str, rows: Table, study: Pool, outcomes: Sequence[str]) -> "Simulated":
        """From a task's rows: those that enter no curve are left out. Raises `Unanswerable` if none of the outcomes can
        be simulated."""
        populations, why = {}, "no claim is about a curve"
        for outcome in outcomes:
            try:
                rows = measured.usable(rows, outcome)
                populations[outcome] = Population.fitted(rows, study, task, outcome)
            except Unanswerable as problem:
                why = str(problem)
        if not populations:
            raise Unanswerable(why)
        return cls(task, study, rows, populations)

    def evidence(
        self, weights: Float[np.ndarray, "world measured"], rng: np.random.Generator | None = None
    ) -> TaskEvidence:
        """The evidence of new worlds; without ``rng`` they are measured without error, and smoothed accordingly."""
        table, exact = self.table, {}
        for outcome, population in self.populations.items():
            table = population.table(table, outcome, population.worlds(weights), rng)
            curve, setting, _, _, length = population.by
            exact[self.task, outcome] = Hyperparameters(curve, setting, 0.0, 1e-3 * curve, length)
        study = dataclasses.replace(
            self.study, table=table, _fits={} if rng is not None else exact, _curves={}
        )
        return TaskEvidence(self.task, table, study)

    def weights(self, rng: np.random.Generator) -> Float[np.ndarray, "world measured"]:
        """Weights of new worlds, as many as there are."""
        count = len(next(iter(self.populations.values())).apart)
        return rng.normal(size=(count, count))


class Asked(NamedTuple):
    """One test of a claim, and its number among the claim's tests."""

    claim: Claim
    number: int
    test: Part


def bootstrap(results: Results, replications: int = REPLICATIONS, seed: int = 0) -> Table:
    """Simulate a study's results and judge them.

    Columns: study, task, claim, test, effect, unit; true, the effect that is simulated; replications (with an
    interval); covered, the share of 90% intervals that contain it; half_width, their mean; and the shares of
    "reproduced", "contradicted" and "undecided". A row a test of every task that can be simulated.
    """
    study = Pool(results.table, results.arms, results.axes, strata=results.strata)
    tests = [
        Asked(claim, number, test)
        for claim, _ in verdict.paired(results)
        for number, test in enumerate(claim.tests)
        if isinstance(test.estimand, WorldEstimand)
    ]
    outcomes = sorted({name for asked in tests for name in _outcomes(asked.test.estimand)})
    rows: list[dict[str, Any]] = []
    for task in results.tasks:
        try:
            simulated = Simulated.of(task, results.task(task), study, outcomes)
        except Unanswerable:
            continue
        rng = np.random.default_rng([seed, *task.encode()])
        true = _truths(simulated, tests, rng)
        judged = [
            _judged(simulated, [tests[index] for index in true], rng) for _ in range(replications)
        ]
        for place, (index, effect) in enumerate(true.items()):
            begins = {"study": results.name, "task": task}
            rows.append(begins | _row(tests[index], effect, [each[place] for each in judged]))
    return pd.DataFrame(rows)


def _outcomes(estimand: Estimand) -> Iterator[str]:
    """The outcomes whose curves an estimand reads."""
    for field in dataclasses.fields(estimand):
        value = getattr(estimand, field.name)
        if isinstance(value, Estimand):
            yield from _outcomes(value)
        elif field.name == "outcome":
            yield value


def _truths(
    simulated: Simulated, tests: Sequence[Asked], rng: np.random.Generator
) -> dict[int, float]:
    """The simulated effect of each test, by its place: the mean over many worlds, drawn in opposite pairs so that
    effects that are linear in the curves have no error. Tests whose effect never changes are not simulated."""
    found: dict[int, list[float]] = {}
    for _ in range(_PAIRS):
        weights = simulated.weights(rng)
        for sign in (1.0, -1.0):
            evidence = simulated.evidence(sign * weights)
            for index, asked in enumerate(tests):
                assert isinstance(asked.test.estimand, WorldEstimand)
                try:
                    effects = asked.test.estimand.in_worlds(evidence).estimates.values()
                except Unanswerable:
                    continue
                found.setdefault(index, []).append(float(np.mean([part.value for part in effects])))
    return {index: float(np.mean(each)) for index, each in found.items() if np.ptp(each) > 0}


def _judged(simulated: Simulated, tests: Sequence[Asked], rng: np.random.Generator) -> list[Any]:
    """The judgement of each test on one simulated study."""
    evidence = simulated.evidence(simulated.weights(rng), rng)
    return [asked.test.judge(evidence) for asked in tests]


def _row(asked: Asked, true: float, judgements: Sequence[Any]) -> dict[str, Any]:
    ends = np.array([each.interval for each in judgements if each.interval is not None])
    low, high = ends.T if len(ends) else np.empty((2, 0))
    verdicts = [each.verdict for each in judgements]
    label, unit = asked.test.estimand.words()
    return {
        "claim": asked.claim.id,
        "test": asked.number,
        "effect": label,
        "unit": unit,
        "true": true,
        "replications": len(ends),
        "covered": float(np.mean((low <= true) & (true <= high))) if len(ends) else np.nan,
        "half_width": float(np.mean(high - low)) / 2 if len(ends) else np.nan,
        **{
            name: verdicts.count(name) / len(verdicts)
            for name in ("reproduced", "contradicted", "undecided")
        },
    }


def main(arguments: Sequence[str]) -> None:
    """The command: DIR [N]."""
    directory, *count = arguments
    parts = [
        bootstrap(results, int(count[0]) if count else REPLICATIONS)
        for results in load_all(Path(directory)).studies
    ]
    print(pd.concat(parts, ignore_index=True).round(4).to_csv(index=False), end="")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Read a results directory: the study as it was written, and the long table of checkpoints.

A directory holds one study (``study.json`` and ``blocks/``), or one such subdirectory per study.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sweeps.claims import Claim
from sweeps.estimands import Unit
from sweeps.store.store import FACTS, KNOWN, METRICS, Store, refuse_incomplete, study_directories
from sweeps.study import load_study
from testbed.errors import InvalidInput, said

if TYPE_CHECKING:
    # For every selection pandas infers a union of a dozen types, which type checkers cannot follow.
    # At run time, where tests check signatures, these names are the real types.
    Table = Any
    Column = Any
else:
    Table = pd.DataFrame
    Column = pd.Series


FAMILIES = "seeds.families"
"""Path of the number of worlds of a family, see `testbed.seeds`."""


@dataclasses.dataclass(frozen=True)
class Results:
    """The study's header (see `sweeps.store.store`) and its table, one row per run and evaluation.

    ``foreign``: number of runs that were left out because the study did not plan them.
    """

    study: Mapping[str, Any]
    table: Table
    directory: Path | None = None
    foreign: int = 0

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.study.get("study", "?"))

    @property
    def strata(self) -> tuple[str, ...]:
        """Swept paths whose values change the world."""
        return tuple(path for path in self.study.get("strata", ()) if path in self.axes)

    @property
    def families(self) -> int:
        """How many worlds of consecutive seeds share their golden reward and writers; 1 if none do. The most of any arm
        or axis, where these differ."""
        seeds = self.study.get("base", {}).get("seeds", {})
        changes = [self.study.get("settings", {}), *self.study.get("arms", {}).values()]
        counts = [seeds.get("families", 1) if isinstance(seeds, Mapping) else 1]
        counts += [change[FAMILIES] for change in changes if FAMILIES in change]
        counts += self.study.get("axes", {}).get(FAMILIES, ())
        return max(map(int, counts))

    @functools.cached_property
    def missing(self) -> dict[str, int]:
        """Planned runs without rows, counted by arm; arms without missing runs are left out."""
        have = set(_stretches(self.table)[0])
        planned = self.study.get("planned", {})
        lacking = {
            arm: sum((arm, run) not in have for run in runs) for arm, runs in planned.items()
        }
        return {arm: count for arm, count in lacking.items() if count}

    @property
    def on_axes(self) -> Table:
        """Rows of the runs on the axes, without the extra settings that single arms run."""
        besides = np.zeros(len(self.table), dtype=bool)
        for arm, settings in self.study.get("further", {}).items():
            for setting in settings:
                same = self.table["arm"] == arm
                for path in setting.keys() & set(self.table.columns):
                    same &= self.table[path] == setting[path]
                besides |= same.to_numpy()
        return self.table[~besides]

    @functools.cached_property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in alphabetical order."""
        return tuple(sorted(self.table["task"].unique()))

    @functools.cached_property
    def arms(self) -> tuple[str, ...]:
        """Arms in the study's order; arms that appear only in the table come last."""
        named = tuple(self.study.get("arms", ()))
        return named + tuple(sorted(set(self.table["arm"].unique()) - set(named)))

    @property
    def axes(self) -> tuple[str, ...]:
        """Columns that identify the setting of a run."""
        columns = [column for column in self.table.columns if not column.startswith(FACTS)]
        return tuple(column for column in columns if column not in KNOWN)

    @functools.cached_property
    def claims(self) -> tuple[Claim, ...]:
        """The claims with their rules as stored before the run. Raises InvalidInput.

        A user's study may define new estimands: if a stored estimand is unknown, the study's file is imported, which
        registers it. If the import is impossible, the error names the file to restore.
        """
        stored, file = self.study.get("claims", ()), self.study.get("file")
        try:
            return tuple(Claim.from_dict(claim) for claim in stored)
        except InvalidInput as unknown:
            if not file:
                place = self.directory / "study.json" if self.directory else f"study {self.name}"
                raise InvalidInput(
                    f"the claims in {place} cannot be read ({said(unknown)})"
                ) from unknown
            try:
                load_study(file)
            except InvalidInput as problem:
                what = said(unknown).partition(":")[0]
                wrong = (
                    said(problem) if Path(file).is_file() else f"restore {file}, which is not there"
                )
                raise InvalidInput(
                    f"claims of study {self.name} need what the study's own file defines ({what}): {wrong}"
                ) from problem
            return tuple(Claim.from_dict(claim) for claim in stored)

    @functools.cached_property
    def present_claims(self) -> tuple[Claim, ...] | None:
        """The claims of the study's file as it is today, restricted to arms that were run; None if the file does not
        exist any more or cannot be loaded."""
        try:
            claims = load_study(self.study.get("file") or self.name).claims
        except InvalidInput:
            return None
        return tuple(claim for claim in claims if set(self.arms).issuperset(claim.arms_used()))

    def by_prompt(
        self, name: str, wanted: Set[tuple[str, int]] | None = None
    ) -> Mapping[tuple[str, int], np.ndarray]:
        """The outcomes of a column of `testbed.metric_table.BY_PROMPT`, by run and evaluation, each of shape (prompt,):
        those that are ``wanted``, by default all. Empty for results that are not in a directory."""
        if self.directory is None:
            return {}
        return Store.open(self.directory).by_prompt(name, wanted)

    def task(self, task: str) -> Table:
        """The rows of one task."""
        return self.table[self.table["task"] == task]

    def runs(self) -> Table:
        """One row per run: its last row."""
        return self._runs.copy(deep=False)

    @functools.cached_property
    def _runs(self) -> Table:
        return last_rows(self.table)


def last_rows(table: Table) -> Table:
    """The row of the last evaluation of every run of every arm, ordered by evaluation."""
    keys = table[["task", "arm", "run", "evaluation"]].reset_index(drop=True)
    last = keys.sort_values("evaluation").groupby(["task", "arm", "run"], sort=False).tail(1)
    return table.iloc[last.index]


def lost(rows: Table) -> pd.Series:
    """Which rows are from a run's divergence on."""
    return (rows["diverged_step"] >= 0) & (rows["step"] >= rows["diverged_step"])


def counts(rows: Table) -> dict[str, int]:
    """Numbers of seeds, of runs and of diverged runs; ``rows`` has one row per run."""
    diverged = int((rows["diverged_step"] >= 0).sum())
    return {"seeds": int(rows["seed"].nunique()), "runs": len(rows), "diverged": diverged}


def units(rows: Table, axes: tuple[str, ...]) -> list[Unit]:
    """(seed, settings) of each row, settings as hashable scalars, missing ones as None."""
    settings = rows[list(axes)].astype(object)
    settings = settings.where(settings.notna(), None)
    return [
        (int(seed), tuple(values))
        for seed, values in zip(rows["seed"], settings.itertuples(index=False), strict=True)
    ]


def shared_axes(rows: Table, arms: Sequence[str], axes: Sequence[str]) -> tuple[str, ...]:
    """The swept paths that all of these arms have; arms without rows have all."""
    by_arm = [rows[rows["arm"] == arm] for arm in arms]
    return tuple(
        axis for axis in axes if all(own[axis].notna().any() for own in by_arm if len(own))
    )


def trajectories(rows: Table, axes: tuple[str, ...]) -> list[str]:
    """A name for the training trajectory of each row: the run, or the settings that runs of one trajectory share.

    Runs that differ only in their number of steps pass through nearly the same policies, so they are one unit of
    variation.
    """
    if "steps" not in axes:
        return rows["run"].tolist()
    others = tuple(axis for axis in axes if axis != "steps")
    arms = rows["arm"].tolist()
    return [f"{arm} {unit}" for arm, unit in zip(arms, units(rows, others), strict=True)]


@dataclasses.dataclass(frozen=True)
class Collection:
    """The studies of a results directory, by name, and the directory's problems, a sentence each."""

    directory: Path
    studies: tuple[Results, ...]
    problems: tuple[str, ...] = ()


def load_all(directory: Path | str, opened: Sequence[tuple[Store, Table]] = ()) -> Collection:
    """Read a results directory of one study or of several; ``opened`` are stores that `read_stores` has read.

    The problems name each study that cannot be read, has no finished run yet, lacks runs, or holds runs that it did not
    plan. All readable studies are read. Raises InvalidInput if no study has a finished run.
    """
    directory = Path(directory)
    places = study_directories(directory) or [directory]
    studies, problems = [], []
    known = {store.directory: (store, table) for store, table in opened}
    for place in places:
        try:
            one = load(place, known.get(place))
        except InvalidInput as problem:
            if len(places) == 1:
                raise
            problems.append(str(problem))
            continue
        studies.append(one)
        problems += _shortcomings(one)
    if not studies:
        raise InvalidInput(problems[0])
    return Collection(directory, tuple(studies), tuple(problems))


def _shortcomings(results: Results) -> list[str]:
    """Missing and unplanned runs of a study, a sentence each."""
    problems = []
    if results.missing:
        lacking = ", ".join(f"{arm} {count}" for arm, count in results.missing.items())
        problems.append(
            f"study {results.name} lacks {sum(results.missing.values())} of its planned runs ({lacking}): "
            "the command that began it completes it"
        )
    if results.foreign:
        problems.append(
            f"study {results.name} holds {results.foreign} runs that it did not plan: they are left out"
        )
    return problems


def load(directory: Path | str, opened: tuple[Store, Table] | None = None) -> Results:
    """Read the results directory of one study, or use its store and table as `read_stores` returned them.

    Metrics that no run has are added as columns of NaN; runs that the study did not plan are left out. Raises
    InvalidInput if the directory is missing, was not written by a run, was written by another schema, or holds no rows.
    """
    if opened is None:
        store = Store.open(directory)
        opened = store, store.read()
    store, table = opened
    if table.empty:
        raise InvalidInput(
            f"{directory} holds no finished runs yet: complete the `testbed run` that began it"
        )
    refuse_incomplete(Path(directory), table)
    planned = {(arm, run) for arm, runs in store.header.get("planned", {}).items() for run in runs}
    foreign = 0
    if planned:
        runs, lengths = _stretches(table)
        known = [pair in planned for pair in runs]
        if not all(known):
            foreign = len({run for arm, run in runs if (arm, run) not in planned})
            table = table[np.repeat(known, lengths)]
        if table.empty:
            raise InvalidInput(f"{directory} holds no run that its study planned")
    return results(store.header, table, Path(directory), foreign)


def _stretches(table: Table) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Arm and run of each block of consecutive rows with the same arm and run, and the blocks' lengths. In a store's
    table the rows of a run are consecutive."""
    pairs = table[["arm", "run"]]
    begins = (pairs != pairs.shift()).any(axis=1).to_numpy()
    first = np.flatnonzero(begins)
    named = zip(*(pairs[name].iloc[first].tolist() for name in pairs), strict=True)
    return list(named), np.diff(np.append(first, len(table)))


def results(
    header: Mapping[str, Any], table: Table, directory: Path | None = None, foreign: int = 0
) -> Results:
    """Results of a header and a table already in memory."""
    absent = [name for name in (*METRICS, "prompts") if name not in table.columns]
    table = table.assign(**dict.fromkeys(absent, float("nan")))
    return Results(header, table, directory, foreign)

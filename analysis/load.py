"""A results directory as data: the study as it was written, and the long table of checkpoints."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sweeps.claims import Claim, Unit
from sweeps.store import COUNTS, FACTS, METRICS, TEXTS, Store
from sweeps.study import load_study
from testbed.errors import InvalidInput

if TYPE_CHECKING:
    # pandas infers a union of a dozen types for every selection, which no type checker can follow.
    # At run time, where tests check signatures, these are what they say.
    Table = Any
    Column = Any
else:
    Table = pd.DataFrame
    Column = pd.Series

_KEYS = ("run", "arm", "task", "seed", "step", "evaluation", "diverged_step")


@dataclasses.dataclass(frozen=True)
class Results:
    """The study's header (see `sweeps.store`) and its table, one row per run and evaluation."""

    study: Mapping[str, Any]
    table: Table

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in alphabetical order."""
        return tuple(sorted(self.table["task"].unique()))

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms in the study's order; arms that only the table knows come last."""
        named = tuple(self.study.get("arms", ()))
        return named + tuple(sorted(set(self.table["arm"]) - set(named)))

    @property
    def axes(self) -> tuple[str, ...]:
        """Columns that say at which setting a run was made."""
        known = {*TEXTS, *COUNTS, *METRICS, "config"}
        columns = [column for column in self.table.columns if not column.startswith(FACTS)]
        return tuple(column for column in columns if column not in known)

    @functools.cached_property
    def claims(self) -> tuple[Claim, ...]:
        """The claims with their rules as stored before the run. Raises InvalidInput.

        A user's study may define estimands of its own: if a stored one is unknown, the study's file
        is imported, which makes them known. The stored rules still apply.
        """
        stored = self.study.get("claims", ())
        try:
            return tuple(Claim.from_dict(claim) for claim in stored)
        except InvalidInput:
            if not self.study.get("file"):
                raise
            load_study(self.study["file"])
            return tuple(Claim.from_dict(claim) for claim in stored)

    def task(self, task: str) -> Table:
        """The rows of one task."""
        return self.table[self.table["task"] == task]

    def runs(self) -> Table:
        """One row per run: its last row."""
        return last_rows(self.table)


def last_rows(table: Table) -> Table:
    """The row of the last evaluation of every run of every arm."""
    return table.sort_values("evaluation").groupby(["task", "arm", "run"], sort=True).tail(1)


def units(rows: Table, axes: tuple[str, ...]) -> list[Unit]:
    """(seed, settings) of each row, settings as hashable scalars, missing ones as None."""
    settings = rows[list(axes)].astype(object)
    settings = settings.where(settings.notna(), None)
    return [
        (int(seed), tuple(values))
        for seed, values in zip(rows["seed"], settings.itertuples(index=False), strict=True)
    ]


def trajectories(rows: Table, axes: tuple[str, ...]) -> list[str]:
    """A name for the training trajectory of each row: its run, or what runs of it have in common.

    Runs that differ in nothing but their number of steps pass through much the same policies, so
    they are one unit of variation.
    """
    if "steps" not in axes:
        return rows["run"].tolist()
    others = tuple(axis for axis in axes if axis != "steps")
    arms = rows["arm"].tolist()
    return [f"{arm} {unit}" for arm, unit in zip(arms, units(rows, others), strict=True)]


def load(directory: Path | str) -> Results:
    """Read a results directory that `testbed run` wrote.

    Metrics that no run has are added as columns of NaN. Raises InvalidInput if the directory is
    missing, was not written by a run, was written by another schema, or holds no rows.
    """
    store = Store.open(directory)
    table = store.read()
    if table.empty:
        raise InvalidInput(
            f"{directory} holds no finished runs yet: complete the `testbed run` that began it"
        )
    missing = [column for column in _KEYS if column not in table.columns]
    if missing:
        raise InvalidInput(f"the results in {directory} lack the columns {', '.join(missing)}")
    return results(store.header, table)


def results(header: Mapping[str, Any], table: Table) -> Results:
    """Results of a header and a table already in memory."""
    absent = [name for name in (*METRICS, "prompts") if name not in table.columns]
    return Results(header, table.assign(**dict.fromkeys(absent, float("nan"))))

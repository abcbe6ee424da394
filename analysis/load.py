"""A results directory as data: the study as it was written, and the long table of checkpoints."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sweeps.claims import Claim, Unit
from sweeps.store import COUNTS, METRICS, TEXTS, Store
from sweeps.study import load_study
from testbed.errors import InvalidInput

_KEYS = ("run", "arm", "task", "seed", "step", "evaluation", "diverged_step")


@dataclasses.dataclass(frozen=True)
class Results:
    """The study's header (see `sweeps.store`) and its table, one row per run and evaluation."""

    study: Mapping[str, Any]
    table: pd.DataFrame

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
        return tuple(column for column in self.table.columns if column not in known)

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

    def task(self, task: str) -> pd.DataFrame:
        """The rows of one task."""
        return self.table[self.table["task"] == task]

    def runs(self) -> pd.DataFrame:
        """One row per run: its last row."""
        return last_rows(self.table)


def last_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The row of the last evaluation of every run of every arm."""
    return table.sort_values("evaluation").groupby(["task", "arm", "run"], sort=True).tail(1)


def units(rows: pd.DataFrame, axes: tuple[str, ...]) -> list[Unit]:
    """(seed, settings) of each row, settings as hashable scalars, missing ones as None."""
    settings = rows[list(axes)].astype(object)
    settings = settings.where(settings.notna(), None)
    return [
        (int(seed), tuple(values))
        for seed, values in zip(rows["seed"], settings.itertuples(index=False), strict=True)
    ]


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


def results(header: Mapping[str, Any], table: pd.DataFrame) -> Results:
    """Results of a header and a table already in memory."""
    absent = [name for name in (*METRICS, "prompts") if name not in table.columns]
    return Results(header, table.assign(**dict.fromkeys(absent, float("nan"))))

"""The status of a results directory: which runs are done, missing, diverged or given up, whether a command is running
there, and the time that the command still needs."""

import functools
import operator
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from sweeps.console.progress import duration
from sweeps.console.tables import html_table
from sweeps.store import files, heartbeat
from sweeps.store.store import Store, study_directories
from testbed import paths
from testbed.errors import InvalidInput

Ids = frozenset[str]


@dataclass(frozen=True)
class Count:
    """Ids of runs: the ``planned`` ones, the ``stored`` and the ``diverged`` among them, and the ``failed`` ones, which
    are missing because the last command gave them up."""

    planned: Ids = frozenset()
    stored: Ids = frozenset()
    diverged: Ids = frozenset()
    failed: Ids = frozenset()

    @property
    def lacking(self) -> Ids:
        """Ids of runs that are planned and not stored."""
        return self.planned - self.stored

    def __or__(self, other: "Count") -> "Count":
        """The union of two counts; a run is missing if it is missing in either."""
        lacking = self.lacking | other.lacking
        planned = self.planned | other.planned
        failed = (self.failed | other.failed) & lacking
        return Count(planned, planned - lacking, self.diverged | other.diverged, failed)

    def describe(self) -> dict[str, int]:
        """The number of runs of each kind."""
        names = ("planned", "stored", "lacking", "diverged", "failed")
        return {name: len(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class StudyStatus:
    """A study's preset and counts by arm, in the study's order."""

    study: str
    preset: str
    arms: Mapping[str, Count]

    @property
    def total(self) -> Count:
        """All arms together: a run that belongs to several arms counts once."""
        return united(self.arms.values())


@dataclass(frozen=True)
class Status:
    """The status of a results directory.

    ``state`` is "running" (a command is running in the directory), "complete" (every planned run is stored), or how the
    last command ended: "interrupted" (Ctrl-C), "failed" (``problem`` gives the reason), "stopped" (no end was recorded:
    the command was killed, or is of an older version). ``stage`` is the command's present or last work, ``rate`` its
    run-steps a second, ``left`` the seconds that the remaining runs take at that rate, ``silent`` the seconds since the
    command last wrote these facts. ``unreadable`` holds sentences about studies that cannot be read.
    """

    directory: Path
    state: str
    studies: tuple[StudyStatus, ...]
    stage: str | None = None
    rate: float | None = None
    left: float | None = None
    elapsed: float | None = None
    silent: float | None = None
    problem: str | None = None
    unreadable: tuple[str, ...] = field(default=())

    @property
    def total(self) -> Count:
        """All studies together: a run that belongs to several studies counts once."""
        return united(study.total for study in self.studies)

    @property
    def complete(self) -> bool:
        """Whether every planned run of every study is stored."""
        return not self.total.lacking and not self.unreadable

    def describe(self) -> dict[str, Any]:
        """The status as JSON-able data: the output of ``testbed status --json``."""
        names = ("state", "stage", "rate", "left", "elapsed", "silent", "problem")
        studies = [
            {"study": one.study, "preset": one.preset}
            | one.total.describe()
            | {"arms": [{"arm": arm} | count.describe() for arm, count in one.arms.items()]}
            for one in self.studies
        ]
        return {
            "directory": paths.shown(self.directory),
            "complete": self.complete,
            **{name: getattr(self, name) for name in names},
            **self.total.describe(),
            "studies": studies,
            "unreadable": list(self.unreadable),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per study and arm."""
        return [
            {"study": one.study, "arm": arm} | count.describe()
            for one in self.studies
            for arm, count in one.arms.items()
        ]

    def table(self) -> Table:
        """Counts by study and arm for the terminal."""
        table = Table(
            title=Text(paths.shown(self.directory), style="table.title"), title_justify="left"
        )
        for name in ("study", "arm"):
            table.add_column(name, overflow="fold")
        for name in Count().describe():
            table.add_column(name, justify="right")
        for study in self.studies:
            for place, (arm, count) in enumerate(study.arms.items()):
                name = f"{study.study} ({study.preset})" if not place else ""
                table.add_row(Text(name), Text(arm), *map(str, count.describe().values()))
            table.add_section()
        if len(self.rows()) > 1:
            table.add_row("all", "", *map(str, self.total.describe().values()))
        return table

    def sentences(self) -> list[str]:
        """The status in sentences, one per line."""
        total = self.total
        lines = [f"{len(total.stored)} of {len(total.planned)} runs are stored"]
        lines[0] += f", {len(total.diverged)} diverged" if total.diverged else ""
        lines[0] += f", {len(total.failed)} failed" if total.failed else ""
        left = "" if self.left is None else f", about {duration(self.left)} left"
        if self.state == "running":
            stage = f": {self.stage}" if self.stage else ""
            lines.append(f"A command is at work here{stage}{left}")
            if self.silent is not None and self.silent > 12 * heartbeat.INTERVAL:
                lines.append(f"It has said nothing for {duration(self.silent)}")
        elif self.state != "complete":
            why = f": {self.problem}" if self.problem else ""
            rest = f"; about {duration(self.left)} of runs are left" if self.left else ""
            lines.append(
                f"No command is at work here; the last one {_ENDED[self.state]}{rest}{why}"
            )
            lines.append("The same command goes on with what is lacking")
        return [*lines, *self.unreadable]

    def _repr_html_(self) -> str:
        return html_table(self.rows(), ". ".join(self.sentences()))


_ENDED = {"interrupted": "was interrupted", "failed": "failed", "stopped": "stopped without a word"}


def united(counts: Iterable[Count]) -> Count:
    """The union of all counts."""
    return functools.reduce(operator.or_, counts, Count())


def status(directory: Path) -> Status:
    """Read the status of a results directory; a command may write there meanwhile. Raises `InvalidInput` if the
    directory holds no study, or if its only study cannot be read."""
    studied = study_directories(directory)
    told = heartbeat.read(directory) or {}
    studies, unreadable = [], []
    for place in studied or [directory]:
        try:
            studies.append(_study(Store.open(place), frozenset(told.get("failed", ()))))
        except InvalidInput as problem:
            if len(studied) < 2:
                raise
            unreadable.append(str(problem))
    running = any(map(files.in_use, studied))
    lacking = any(study.total.lacking for study in studies)
    # No end is recorded if a command was killed, or if its version did not record ends yet.
    ended = str(told.get("state"))
    ended = ended if ended in ("interrupted", "failed") else "stopped"
    state = "running" if running else ended if lacking or unreadable else "complete"
    silent = time.time() - told["written"] if "written" in told else None
    left = told.get("left")
    if running and left is not None and silent is not None:
        left = max(0.0, left - silent)
    return Status(
        directory,
        state,
        tuple(studies),
        stage=told.get("stage"),
        rate=told.get("rate"),
        left=None if state == "complete" else left,
        elapsed=told["written"] - told["begun"] if told else None,
        silent=silent,
        problem=told.get("problem") if state == "failed" else None,
        unreadable=tuple(unreadable),
    )


def _study(store: Store, failed: Ids) -> StudyStatus:
    header = store.header
    held, diverged = store.held(), store.diverged()
    planned = header.get("planned", {})
    arms = dict.fromkeys([*header.get("arms", {}), *planned, *sorted({arm for arm, _ in held})])

    def count(arm: str) -> Count:
        have = frozenset(run for other, run in held if other == arm)
        want = frozenset(planned.get(arm, have))
        bad = frozenset(run for other, run in diverged if other == arm) & want
        return Count(want, have & want, bad, failed & (want - have))

    return StudyStatus(
        str(header.get("study", "?")),
        str(header.get("preset", "?")),
        {arm: count(arm) for arm in arms},
    )

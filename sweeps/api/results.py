"""Reading results: tables and verdicts, the status of a directory, trained policies to chat with, export.

A directory is the ``out`` of a run. Invalid arguments raise `testbed.errors.InvalidInput`. Modules that need jax are
imported inside the functions.
"""

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.api import jax_settings
from testbed import paths
from testbed.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from sweeps.api.chat_session import Conversation
    from sweeps.api.run_status import Status
    from sweeps.store.store import Store
    from sweeps.study import Point

#: The name of a directory argument in error messages.
DIRECTORY = "the results directory"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A results directory and its contents, which are read at their first use."""

    directory: Path

    @property
    def page(self) -> Path:
        """The report's first page."""
        return self.directory / "report" / "index.html"

    @functools.cached_property
    def table(self) -> "pd.DataFrame":
        """One row per run and evaluation, of all studies; `sweeps.store.columns` describes the columns."""
        return self.evaluations()

    def evaluations(self, configs: bool = False) -> "pd.DataFrame":
        """The rows of `table`, read again; ``configs`` adds each run's whole config."""
        from analysis import table

        return table.evaluations(self.directory, configs=configs)

    @functools.cached_property
    def entries(self) -> list[dict[str, Any]]:
        """Every verdict with its effect, interval, rule and reason, as in `report/verdicts.json`."""
        from analysis import report as pages

        return pages.verdicts(self.directory)

    @property
    def verdicts(self) -> "pd.DataFrame":
        """One row per claim, study and task, with the columns of the scoreboard as CSV."""
        import io

        import pandas as pd

        from analysis import export

        return pd.read_csv(io.StringIO(export.as_csv(self.entries)))

    def status(self) -> "Status":
        """Which runs are done, missing or diverged."""
        return status(self.directory)

    def describe(self) -> dict[str, Any]:
        """The results as JSON-able data: the output of ``testbed run --json``."""
        now = self.status()
        facts = {"directory": paths.shown(self.directory), "report": paths.shown(self.page)}
        return facts | now.total.describe() | {"verdicts": self.entries}

    def _repr_html_(self) -> str:
        from sweeps.console.tables import html_table, verdict_row

        rows = list(map(verdict_row, self.entries))
        return html_table(rows, f"{paths.shown(self.directory)}: {self.status().sentences()[0]}")


def load(directory: Path | str) -> Outcome:
    """The results in a directory as pandas objects. Raises `InvalidInput` if the directory holds no study."""
    return Outcome(opened(directory)[0])


def status(directory: Path | str) -> "Status":
    """Which runs are done, missing, diverged or failed, whether a command is running in the directory, and the time
    left: ``testbed status``."""
    from sweeps.api import run_status

    return run_status.status(paths.given(directory, DIRECTORY))


def trained(directory: Path | str) -> "list[Point]":
    """The runs that `chat` can load: stored runs that the present code would make again. Raises `InvalidInput` if there
    is none."""
    _, results = opened(directory, computes=True)
    from sweeps.api import chat_session

    points = chat_session.planned(store for store, _ in results)
    if not points:
        files = [store.header.get("file") for store, _ in results]
        lost = [file for file in files if file and not Path(file).is_file()]
        if lost:
            raise InvalidInput(
                f"the runs in {directory} are those of a study in a file of its own: restore {lost[0]}, which is not "
                "there"
            )
        raise InvalidInput(
            f"no run in {directory} is one that this version would make again: run the study with it"
        )
    return points


def chat(directory: Path | str, run: str, console: "Console | None" = None) -> "Conversation":
    """A run's trained language model beside the model that it started from: a function of a prompt, whose answers have
    words and rewards: ``testbed chat``. ``run`` is an id, the beginning of one, or an arm and a seed ("online-0")."""
    points = trained(directory)
    from sweeps.api.chat_session import Conversation, chosen
    from sweeps.console import terminal
    from sweeps.console.progress import display

    point = chosen(points, run)
    with display(0, 0, terminal.chosen(console)) as progress:
        return Conversation.of(point, progress)


def export(
    directory: Path | str,
    out: Path | str,
    form: str | None = None,
    configs: bool = False,
    by_prompt: bool = False,
) -> "pd.DataFrame":
    """Write `Outcome.table` to a file, as "parquet" or "csv" (default: by the file's suffix), and return the table:
    ``testbed export``. ``configs`` adds each run's whole config, ``by_prompt`` the outcomes on every evaluation prompt,
    as arrays, for Parquet files."""
    out = paths.given(out, "--out")
    directory, results = opened(directory)
    from analysis import table

    rows = table.evaluations(directory, results, configs, by_prompt)
    table.write(rows, out, form)
    return rows


def export_draws(directory: Path | str, out: Path | str) -> int:
    """Write posterior draws of every effect of the claims, and the effects of worlds behind them, as netCDF for ArviZ
    or as Parquet, by the file's suffix; returns the number of effects: ``testbed export --draws``."""
    out = paths.given(out, "--draws")
    directory, results = opened(directory)
    from analysis.verdicts import draws as posterior

    return posterior.write(directory, out, results)


def opened(
    directory: Path | str, computes: bool = False
) -> "tuple[Path, list[tuple[Store, pd.DataFrame]]]":
    """The absolute path of a results directory, and its stores as `read_stores` returns them. Users' study files are
    loaded first, because they may define classes that configs name. The process is prepared for jax; ``computes``
    prepares the devices too. Raises `InvalidInput` if the directory holds no results."""
    jax_settings.ready(devices=computes)
    from sweeps.store.store import read_stores
    from sweeps.study import load_study

    directory = paths.given(directory, DIRECTORY)
    stores = read_stores(directory)
    for store, _ in stores:
        file = store.header.get("file")
        if file and Path(file).is_file():
            # The report mentions a file that no longer loads, and judges by the stored rules.
            with contextlib.suppress(InvalidInput):
                load_study(file)
    return directory, stores

"""What is done with results, as calls: each is what a command does, and returns what the command prints.

A directory is the ``out`` of a run. Mistakes raise `testbed.errors.InvalidInput`. Slow imports wait until a call needs
them.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import jax_settings, runtime
from testbed import paths
from testbed.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from analysis.comparison import Comparison
    from analysis.transfer import Card
    from sweeps.conversation import Conversation
    from sweeps.standing import Status
    from sweeps.study import Point

#: What the directory of every function here is, in refusals.
_DIRECTORY = "the results directory"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A results directory and what is in it, read when it is first asked for."""

    directory: Path

    @property
    def page(self) -> Path:
        """The report's first page."""
        return self.directory / "report" / "index.html"

    @functools.cached_property
    def table(self) -> "pd.DataFrame":
        """A row a run and evaluation, of all studies; `sweeps.store.columns` says what the columns mean."""
        return self.evaluations()

    def evaluations(self, configs: bool = False) -> "pd.DataFrame":
        """The same, read anew; with ``configs`` each run's whole config as well."""
        from analysis import table

        return table.evaluations(self.directory, configs=configs)

    @functools.cached_property
    def entries(self) -> list[dict[str, Any]]:
        """Every verdict with its effect, interval, rule and reason, as `report/verdicts.json` has them."""
        from analysis import report as pages

        return pages.verdicts(self.directory)

    @property
    def verdicts(self) -> "pd.DataFrame":
        """A row a claim, study and task, with the columns of the scoreboard as CSV."""
        import io

        import pandas as pd

        from analysis import export

        return pd.read_csv(io.StringIO(export.as_csv(self.entries)))

    def status(self) -> "Status":
        """Which runs are done, lacking or diverged."""
        return status(self.directory)

    def describe(self) -> dict[str, Any]:
        """As JSON-able data: what ``testbed run --json`` prints."""
        now = self.status()
        facts = {"directory": paths.shown(self.directory), "report": paths.shown(self.page)}
        return facts | now.total.describe() | {"verdicts": self.entries}

    def _repr_html_(self) -> str:
        from sweeps.console.tables import html_table, verdict_cells

        names = ["claim", "task", "verdict", "estimate", "interval"]
        rows = [dict(zip(names, verdict_cells(entry), strict=True)) for entry in self.entries]
        return html_table(rows, f"{paths.shown(self.directory)}: {self.status().sentences()[0]}")


def load(directory: Path | str) -> Outcome:
    """The results of a directory as pandas objects. Raises `InvalidInput` if it holds no study."""
    directory = _directory(directory)
    open_results(directory)
    return Outcome(directory)


def status(directory: Path | str) -> "Status":
    """Which runs are done, lacking, diverged or failed, whether a command is at work there, and the time left:
    ``testbed status``."""
    from sweeps import standing

    return standing.status(paths.given(directory, _DIRECTORY))


def report(directory: Path | str, console: "Console | None" = None) -> Outcome:
    """Analyse results anew and write their pages and TensorBoard's logs: ``testbed report``."""
    directory = _directory(directory, computes=True)
    opened = open_results(directory)
    from analysis import report as pages
    from sweeps import runner
    from sweeps.console import terminal

    runner.finish(directory, terminal.chosen(console), pages.build, opened)
    return Outcome(directory)


def scoreboard(directory: Path | str, form: str) -> str:
    """The verdicts as "json", "csv" or "markdown": ``testbed report --format``."""
    directory = _directory(directory, computes=True)
    opened = open_results(directory)
    from analysis import export

    return export.render(directory, form, opened)


def compare(a: Path | str, b: Path | str) -> "Comparison":
    """Which verdicts moved from one results directory to another, and why: ``testbed compare``."""
    a, b = _directory(a, computes=True), _directory(b, computes=True)
    opened = [open_results(directory) for directory in (a, b)]
    from analysis import comparison

    found = comparison.compare(a, b, opened)
    return dataclasses.replace(found, a=Path(paths.shown(a)), b=Path(paths.shown(b)))


def transfer(simulated: Path | str, real: Path | str) -> "Card":
    """Simulated and real effects side by side, with intervals, sign agreement and rank correlation: ``testbed
    transfer``, whose page `transfer_page` writes."""
    directories = _directory(simulated, computes=True), _directory(real, computes=True)
    opened = open_results(directories[0]), open_results(directories[1])
    from analysis import transfer as effects

    return effects.compare(*directories, opened)


def transfer_page(card: "Card", directory: Path | str) -> Path:
    """Write a card's page into the report of the real runs in ``directory``, and return its path."""
    from analysis import report as pages

    return pages.build_transfer(card, paths.given(directory, _DIRECTORY))


def trained(directory: Path | str) -> "list[Point]":
    """The runs whose policies `chat` can put together: those that are stored, if the present code would make them
    again. Raises `InvalidInput` if there is none."""
    opened = open_results(_directory(directory, computes=True))
    from sweeps import conversation

    points = conversation.planned(store for store, _ in opened)
    if not points:
        files = [store.header.get("file") for store, _ in opened]
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
    """A run's trained language model beside the one it started from: a function of a prompt, whose answers have their
    words and rewards: ``testbed chat``. ``run`` is an id, the beginning of one, or an arm and a seed ("online-0")."""
    points = trained(directory)
    from sweeps.console import terminal
    from sweeps.console.progress import display
    from sweeps.conversation import Conversation, chosen

    point = chosen(points, run)
    with display(0, 0, terminal.chosen(console)) as progress:
        return Conversation.of(point, progress)


def export(
    directory: Path | str, out: Path | str, form: str | None = None, configs: bool = False
) -> "pd.DataFrame":
    """Write `Outcome.table` to a file, as "parquet" or "csv" (by default what its suffix says), and return it:
    ``testbed export``. ``configs`` adds each run's whole config."""
    directory, out = _directory(directory), paths.given(out, "--out")
    opened = open_results(directory)
    from analysis import table

    rows = table.evaluations(directory, opened, configs)
    table.write(rows, out, form)
    return rows


def bibliography(directory: Path | str) -> str:
    """BibTeX for the methods that the runs used: ``testbed report --bib``."""
    directory = _directory(directory)
    from sweeps.catalogue import citations

    return citations.bibliography(open_results(directory))


def write_logs(
    directory: Path | str,
    runs: bool = False,
    where: Mapping[str, str] | None = None,
    hparams: bool = False,
) -> Path:
    """Write TensorBoard's logs and return their directory: what ``testbed tensorboard`` does first.

    Single ``runs`` are shown too, those that have the values in ``where`` if there are any; ``hparams`` shows what came
    out of every run.
    """
    directory = _directory(directory)
    opened = open_results(directory)
    from sweeps.tensorboard import refresh, writer

    more = writer.More(runs or bool(where), where or {}, hparams)
    return refresh.mirror(directory, opened, more)


def _directory(given: Path | str, computes: bool = False) -> Path:
    """A results directory as a user gives it, absolute, in a process that is ready to import jax, or to compute."""
    runtime.configure()
    jax_settings.require(devices=computes)
    return paths.given(given, _DIRECTORY)


def open_results(directory: Path) -> list[tuple[Any, Any]]:
    """Refuse a directory without results; load the studies' files, which may define kinds of their own. Its stores as
    `read_stores` gives them."""
    from sweeps.store.store import read_stores
    from sweeps.study import load_study

    opened = read_stores(directory)
    for store, _ in opened:
        file = store.header.get("file")
        if file and Path(file).is_file():
            # A file that no longer loads is told of in the report, which judges by the stored rules.
            with contextlib.suppress(InvalidInput):
                load_study(file)
    return opened

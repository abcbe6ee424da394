"""Running a study on this machine: plan, skip what is stored, execute, store, report.

Everything here is host orchestration; the computing is `sweeps.population`'s.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from rich.console import Console
from rich.table import Table

from sweeps import provenance, tensorboard
from sweeps.progress import Progress, display, duration
from sweeps.store import Store
from sweeps.study import Point, Selection
from testbed import config

Row = dict[str, Any]


@runtime_checkable
class Chunk(Protocol):
    """Runs that are compiled and executed together, as far as the runner looks at them."""

    @property
    def steps(self) -> int:
        """Training steps, summed over runs."""
        ...

    @property
    def bytes(self) -> int:
        """Predicted peak memory."""
        ...

    @property
    def devices(self) -> int:
        """Devices that it is spread over."""
        ...

    @property
    def seconds(self) -> float | None:
        """Predicted time, if it can be told."""
        ...


@runtime_checkable
class Plan(Protocol):
    """What will be executed, in order."""

    @property
    def chunks(self) -> Sequence[Chunk]:
        """One after the other; rows arrive and are stored chunk by chunk."""
        ...

    def describe(self) -> list[Row]:
        """Rows of the table that ``--dry-run`` shows."""
        ...


@runtime_checkable
class Engine(Protocol):
    """What a runner needs of `sweeps.population`."""

    def plan(self, points: list[Point]) -> Plan:
        """Group points by what they compile to, and place them on devices."""
        ...

    def execute(self, plan: Any, on_rows: Callable[[list[Row]], None], progress: Progress) -> None:
        """Run a plan; hand over the rows of each chunk as it finishes."""
        ...


def run(
    selection: Selection,
    directory: Path,
    console: Console,
    report: Callable[[Path], Path],
    engine: Engine,
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Complete a study in ``directory`` and show what came out.

    ``report`` writes the analysis into the directory and returns the page's path; ``origin`` goes
    into ``study.json`` (the command, the user's study file). Runs that are stored are not repeated,
    so calling it again after any interruption finishes the work. Raises `InvalidInput` before
    anything compiles if the selection or the directory cannot be used.
    """
    start = time.monotonic()
    points = selection.points()
    header = {**selection.describe(), **provenance.session(), **(origin or {})}
    with Store.create_or_open(directory, header) as store:
        for warning in _changes(store.header, header):
            console.print(f"Note: {warning}", style="yellow", markup=False)
        try:
            _execute(points, store, console, engine)
        except KeyboardInterrupt:
            ids = {point.run for point in points}
            saved = len(ids & store.finished())
            say(console, f"{saved} of {len(ids)} runs are saved in {directory}")
            raise
        finish(store, console, report)
    say(console, f"Wall time {duration(time.monotonic() - start)}")


def finish(store: Store, console: Console, report: Callable[[Path], Path]) -> None:
    """Analyse a store, write the report and TensorBoard's logs, and show the verdicts."""
    say(console, "Analysing")
    page = report(store.directory)
    mirror(store)
    results = store.read().drop_duplicates(["arm", "run"])
    verdicts = read_verdicts(store.directory)
    if verdicts:
        console.print(verdict_table(verdicts))
    diverged = np.count_nonzero(results["diverged_step"] >= 0)
    say(console, f"Runs        {len(results)}, of which {diverged} diverged")
    say(console, f"Report      {page}")
    for figure in _figures(store.directory):
        say(console, f"Figure      {figure}")
    say(console, f"TensorBoard testbed tensorboard {store.directory}")


def mirror(store: Store, single_runs: bool = False) -> Path:
    """Write the store's TensorBoard logs; the directory to give to TensorBoard."""
    return tensorboard.write(
        store.read(),
        store.header,
        store.directory,
        figures=_figures(store.directory),
        verdicts=read_verdicts(store.directory),
        single_runs=single_runs,
    )


def show_plan(selection: Selection, directory: Path, console: Console, engine: Engine) -> None:
    """Print what `run` would do; writes nothing."""
    points = _distinct(selection.points())
    stored = set()
    if (directory / "study.json").is_file():
        stored = Store.open(directory).finished()
    todo = [point for point in points if point.run not in stored]
    plan = engine.plan(todo) if todo else None
    chunks = plan.chunks if plan else []
    if plan:
        title = f"{selection.study.name}, preset {selection.preset}"
        console.print(rich_table(plan.describe(), title))
    memory = max((chunk.bytes for chunk in chunks), default=0)
    times = [chunk.seconds for chunk in chunks]
    known = [seconds for seconds in times if seconds is not None]
    total = duration(math.fsum(known)) if len(known) == len(times) else "not known beforehand"
    say(console, f"Runs       {len(points)}, of which {len(points) - len(todo)} are stored")
    say(console, f"Chunks     {len(chunks)}")
    say(console, f"Devices    {max((chunk.devices for chunk in chunks), default=0)}")
    say(console, f"Run-steps  {sum(chunk.steps for chunk in chunks):,}")
    say(console, f"Memory     {memory / 1e9:.2f} GB at most at a time, predicted")
    say(console, f"Time       {total}")
    say(console, f"Results    {directory}")


def read_verdicts(directory: Path) -> list[Row]:
    """The verdicts that the analysis wrote; none before it has run."""
    path = directory / "verdicts.json"
    return json.loads(path.read_text()) if path.is_file() else []


def verdict_table(verdicts: Iterable[Mapping[str, Any]]) -> Table:
    """Claims, verdicts, estimates and intervals for the terminal."""
    table = Table(title="Verdicts", title_justify="left")
    for name in ("claim", "task", "verdict", "estimate", "interval"):
        table.add_column(name, justify="right" if name == "estimate" else "left")
    colours = {"reproduced": "green", "contradicted": "red", "undecided": "yellow"}
    for verdict in verdicts:
        cells = tensorboard.verdict_cells(verdict)
        table.add_row(*cells, style=colours.get(cells[2], ""))
    return table


def rich_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Rows of equal keys as a table."""
    table = Table(title=title, title_justify="left")
    for name in rows[0] if rows else ():
        table.add_column(str(name))
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table


def say(console: Console, text: str) -> None:
    """One line, whatever the width, so that paths can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _execute(points: Sequence[Point], store: Store, console: Console, engine: Engine) -> None:
    stored = store.finished()
    todo = [point for point in _distinct(points) if point.run not in stored]
    total = len(_distinct(points))
    say(console, f"{total} runs, {total - len(todo)} of them stored already in {store.directory}")
    if not todo:
        return
    names: dict[str, list[Row]] = {}
    for point in points:
        names.setdefault(point.run, []).append(identity(point, store.header["study"]))
    plan = engine.plan(todo)
    steps = sum(chunk.steps for chunk in plan.chunks)

    def on_rows(rows: list[Row]) -> None:
        # A run that belongs to two arms is computed once and stored for both.
        store.append([{**name, **row} for row in rows for name in names[row["run"]]])

    with display(len(todo), steps, console) as shown:
        engine.execute(plan, on_rows, shown)
    missing = {point.run for point in todo} - store.finished()
    if missing:
        raise RuntimeError(f"{len(missing)} runs delivered no rows, for example {min(missing)}")


def identity(point: Point, study: str) -> Row:
    """The columns of a run's rows that say which run of which study it is."""
    return {
        "study": study,
        "arm": point.arm,
        "task": config.flatten(point.experiment).get("task", study),
        "seed": point.seed,
        "config": config.canonical(point.experiment),
        **point.settings,
    }


def _distinct(points: Iterable[Point]) -> list[Point]:
    return list({point.run: point for point in points}.values())


def _changes(stored: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """What to tell somebody who adds to a store."""
    notes = []
    sources = {session["source"] for session in stored["sessions"]}
    if len(sources) > 1:
        notes.append(
            "the code has changed since this store was begun; its finished runs are kept. "
            "Choose another --out for results of one version."
        )
    if stored["claims"] != present["claims"]:
        notes.append(
            "the study's claims have changed since this store was begun; the verdicts follow the "
            "claims and rules stored then. Choose another --out to judge by the new ones."
        )
    return notes


def _figures(directory: Path) -> list[Path]:
    return sorted((directory / "figures").glob("*.png"))

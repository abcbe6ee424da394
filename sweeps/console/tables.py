"""Printed tables and messages of commands: plans and their actual cost, results, verdicts."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeps.console.progress import duration
from testbed import paths

if TYPE_CHECKING:
    from sweeps.population.engine import Spent
    from sweeps.population.plan import Plan

#: The least number of columns in which every table is readable.
NARROW = 60


def cost_of(plan: "Plan") -> dict[str, Any]:
    """A plan's predicted cost: seconds (None for the runs if a chunk has no prediction), bytes at a time."""
    chunks = plan.chunks
    times = [chunk.seconds for chunk in chunks]
    known = [seconds for seconds in times if seconds is not None]
    return {
        "chunks": len(chunks),
        "devices": max((chunk.devices for chunk in chunks), default=0),
        "run_steps": sum(chunk.steps for chunk in chunks),
        "bytes": max((chunk.bytes for chunk in chunks), default=0),
        "stages": plan.stages,
        "run_seconds": math.fsum(known) if len(known) == len(times) else None,
        "stage_seconds": plan.stage_seconds,
        "compile_seconds": plan.compile_seconds,
    }


def show_cost(plan: "Plan", console: Console) -> None:
    """Print a plan's predicted cost."""
    cost = cost_of(plan)
    known = cost["run_seconds"] is not None
    runs = duration(cost["run_seconds"]) if known else "not known beforehand"
    before = duration(plan.stage_seconds)
    compiling = "all programs are compiled"
    if plan.compile_seconds:
        compiling = f"up to {duration(plan.compile_seconds)} of compiling, beside the stages"
    for line in (
        f"Chunks     {cost['chunks']}",
        f"Devices    {cost['devices']}",
        f"Run-steps  {cost['run_steps']:,}",
        f"Memory     {cost['bytes'] / 1e9:.2f} GB at most at a time, predicted",
        f"Stages     {plan.stages} to build before the runs",
        f"Time       {runs} for the runs, {before} for the stages, predicted",
        f"           {compiling}; the analysis comes after",
    ):
        say(console, line)


def show_spent(plan: "Plan", spent: "Spent", console: Console) -> None:
    """Print a plan's actual cost beside its predictions."""
    predicted = math.fsum(chunk.seconds or 0.0 for chunk in plan.chunks)
    memory = max((chunk.bytes for chunk in plan.chunks), default=0)
    busy = spent.busy_seconds / spent.run_seconds if spent.run_seconds else 1.0
    took = f"{duration(spent.run_seconds)} for the runs ({duration(predicted)} predicted)"
    before = (
        f"{duration(spent.stage_seconds)} for the stages ({duration(plan.stage_seconds)} predicted)"
    )
    say(console, f"Took        {took}, {before}")
    say(
        console,
        f"Devices     busy {busy:.0%} of the time for the runs; the rest is compiling and the host's",
    )
    needed = f"{spent.bytes / 1e9:.2f} GB ({memory / 1e9:.2f} GB predicted)"
    shrunk = f"; memory ran out {spent.shrunk} times" if spent.shrunk else ""
    say(console, f"Memory      {needed}{shrunk}")


def verdict_table(verdicts: Iterable[Mapping[str, Any]]) -> Table:
    """Claims, verdicts, estimates and intervals for the terminal."""
    rows = list(map(verdict_row, verdicts))
    table = rich_table(rows, "Verdicts")
    colours = {"reproduced": "green", "contradicted": "red", "undecided": "yellow"}
    for row, line in zip(rows, table.rows, strict=True):
        line.style = colours.get(row["verdict"], "")
    for column in table.columns:
        column.justify = "right" if str(column.header) == "estimate" else "left"
    return table


def verdict_row(verdict: Mapping[str, Any]) -> dict[str, str]:
    """Claim, task, verdict, estimate and interval as text; a dash for missing values."""
    estimate, interval = verdict.get("estimate"), verdict.get("interval")
    return {
        **{name: str(verdict.get(name, "–")) for name in ("claim", "task", "verdict")},
        "estimate": "–" if estimate is None else f"{estimate:.3g}",
        "interval": "–" if interval is None else f"{interval[0]:.3g} to {interval[1]:.3g}",
    }


def rich_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Rows with equal keys as a table."""
    # Cells are plain texts: brackets in names of users' files and arms must not be read as markup.
    table = Table(title=Text(title, style="table.title"), title_justify="left")
    for name in rows[0] if rows else ():
        table.add_column(Text(str(name)))
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    return table


def show(table: Table, console: Console) -> None:
    """Print a table; if the console is too narrow for its columns, print each row with one line per cell."""
    needed = console.measure(table, options=console.options.update(max_width=1000)).minimum
    if console.width >= min(NARROW, needed):
        console.print(table)
        return
    console.print(str(table.title or ""), markup=False)
    names = [str(column.header) for column in table.columns]
    for row in zip(*(column.cells for column in table.columns), strict=True):
        console.print()
        for name, cell in zip(names, row, strict=True):
            console.print(f"{name}: {cell}" if name else str(cell), markup=False)


def html_table(rows: Sequence[Mapping[str, Any]], caption: str = "") -> str:
    """Rows with equal keys as HTML, for notebooks; all texts are escaped."""
    import pandas as pd

    said = f"<p>{html.escape(caption)}</p>\n" if caption else ""
    return said + pd.DataFrame(list(rows)).to_html(index=False, border=0, na_rep="–")


def say(console: Console, text: str) -> None:
    """Print one line without wrapping, so that paths can be copied; paths inside the working directory are printed
    relative to it."""
    text = paths.shortened(text)
    console.print(text, markup=False, highlight=False, soft_wrap=True)

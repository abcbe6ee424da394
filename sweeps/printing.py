"""What commands print: plans and what became of them, tables, verdicts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from sweeps import tensorboard
from sweeps.engine import Plan, Spent
from sweeps.progress import duration


def show_cost(plan: Plan, console: Console) -> None:
    """Print what a plan will take."""
    chunks = plan.chunks
    memory = max((chunk.bytes for chunk in chunks), default=0)
    times = [chunk.seconds for chunk in chunks]
    known = [seconds for seconds in times if seconds is not None]
    runs = duration(math.fsum(known)) if len(known) == len(times) else "not known beforehand"
    say(console, f"Chunks     {len(chunks)}")
    say(console, f"Devices    {max((chunk.devices for chunk in chunks), default=0)}")
    say(console, f"Run-steps  {sum(chunk.steps for chunk in chunks):,}")
    say(console, f"Memory     {memory / 1e9:.2f} GB at most at a time, predicted")
    before, compiling = duration(plan.stage_seconds), duration(plan.compile_seconds)
    say(console, f"Stages     {plan.stages} to build before the runs")
    say(console, f"Time       {runs} for the runs, {before} for the stages, predicted")
    say(
        console,
        f"           and up to {compiling} of compiling the first time; the analysis comes after",
    )


def show_spent(plan: Plan, spent: Spent, console: Console) -> None:
    """Print what became of a plan's predictions."""
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

"""The scoreboard for programs and papers: JSON, CSV and Markdown."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis import plain_text, report
from analysis.html import SYMBOLS, amount, between
from analysis.plain_text import safe
from analysis.site import verdicts
from analysis.verdicts.verdict import flat
from sweeps.store.store import Store
from testbed.errors import InvalidInput

Entry = Mapping[str, Any]
COLUMNS: Sequence[str] = (
    "study", "claim", "task", "verdict", "effect", "unit", "estimate", "low", "high",
    "probability", "rule", "rope", "confidence", "close", "newer", "stored_verdict", "reason", "text",
)  # fmt: skip


def render(directory: Path, form: str, opened: Sequence[tuple[Store, Any]] = ()) -> str:
    """The scoreboard of a results directory as "json", "csv" or "markdown", ending in a newline.

    Reuses the analysis of `report.build` where there is one; ``opened`` as in `report.build`. JSON has everything that
    verdicts.json holds. Raises InvalidInput for another form, or a directory without results.
    """
    if form not in FORMS:
        raise InvalidInput(f"format is {form}: allowed are {', '.join(FORMS)}")
    return FORMS[form](report.verdicts(Path(directory), opened))


def as_csv(entries: Sequence[Entry]) -> str:
    """One line per claim, study and task; intervals in two columns, empty where there is none."""
    return plain_text.as_csv(COLUMNS, map(flat, entries))


def as_markdown(entries: Sequence[Entry]) -> str:
    """A table of claims by tasks, and a sentence for each verdict that is not "reproduced"."""
    board = verdicts.board(entries)
    several = len({study for _, study in board}) > 1
    rows = []
    for (claim, study), by_task in board.items():
        text = next(row["text"] for row in by_task.values() if row)
        name = f"**{safe(claim)}** {safe(text)}" + (f" ({safe(study)})" if several else "")
        rows.append([name, *map(_cell, by_task.values())])
    lines = plain_text.markdown_table(["claim", *map(safe, verdicts.tasks(entries))], rows)
    counted = ", ".join(f"{count} {name}" for name, count in verdicts.counts(entries).items())
    said = (
        f"{counted}. Numbers are posterior medians with their intervals. {verdicts.many(entries)}"
    )
    lines += ["", said.rstrip(), ""]
    for row in verdicts.ordered(entries):
        if row["verdict"] != "reproduced":
            place = f"{safe(row['task'])}, {safe(row['study'])}" if several else safe(row["task"])
            said = safe(verdicts.explain(row))
            lines.append(f"- **{safe(row['claim'])}** ({place}), {row['verdict']}: {said}")
    return "\n".join(lines).rstrip("\n") + "\n"


def _cell(row: Entry | None) -> str:
    if row is None:
        return "–"
    parts = [f"{SYMBOLS[row['verdict']]} {row['verdict']}"]
    if row["estimate"] is not None:
        parts.append(safe(amount(row["estimate"], row["unit"])))
    if row["interval"] is not None:
        parts.append(between(row))
    if row["newer"]:
        parts.append("(newer rule)")
    if row["close"]:
        parts.append(f"({verdicts.CLOSE})")
    return "<br>".join(parts)


FORMS: Mapping[str, Callable[[Sequence[Entry]], str]] = {
    "json": plain_text.as_json,
    "csv": as_csv,
    "markdown": as_markdown,
}

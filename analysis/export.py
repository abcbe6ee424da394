"""The scoreboard for programs and papers: JSON, CSV and Markdown."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis import report
from analysis.html import SYMBOLS, amount, between, safe
from analysis.site import verdicts
from sweeps.store.store import Store
from testbed.errors import InvalidInput

Entry = Mapping[str, Any]
COLUMNS: Sequence[str] = (
    "study", "claim", "task", "verdict", "effect", "unit", "estimate", "low", "high",
    "probability", "rule", "rope", "confidence", "newer", "stored_verdict", "reason", "text",
)  # fmt: skip


def render(directory: Path, form: str, opened: Sequence[tuple[Store, Any]] = ()) -> str:
    """The scoreboard of a results directory as "json", "csv" or "markdown", ending in a newline.

    Reuses the analysis of `report.build` where there is one; ``opened`` as in `report.build`. Raises InvalidInput for
    another form, or a directory without results.
    """
    if form not in FORMS:
        raise InvalidInput(f"format is {form}: allowed are {', '.join(FORMS)}")
    return FORMS[form](report.verdicts(Path(directory), opened))


def as_json(entries: Sequence[Entry]) -> str:
    """Everything that verdicts.json holds."""
    return json.dumps(list(entries), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(entries: Sequence[Entry]) -> str:
    """One line per claim, study and task; intervals in two columns, empty where there is none."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in entries:
        low, high = row["interval"] or (None, None)
        rule = row["rule"]
        flat = {"low": low, "high": high, "rule": rule["kind"]}
        flat |= {name: rule[name] for name in ("rope", "confidence")}
        writer.writerow({**row, **flat})
    return buffer.getvalue()


def as_markdown(entries: Sequence[Entry]) -> str:
    """A table of claims by tasks, and a sentence for each verdict that is not "reproduced"."""
    tasks = verdicts.tasks(entries)
    order = verdicts.ordered(entries)
    keys = list(dict.fromkeys((row["claim"], row["study"]) for row in order))
    by_place = {(row["claim"], row["study"], row["task"]): row for row in entries}
    several = len({study for _, study in keys}) > 1
    lines = [
        f"| claim | {' | '.join(map(safe, tasks))} |",
        f"|---|{'---|' * len(tasks)}",
    ]
    for claim, study in keys:
        own = [by_place.get((claim, study, task)) for task in tasks]
        text = next(row["text"] for row in own if row)
        name = f"**{safe(claim)}** {safe(text)}" + (f" ({safe(study)})" if several else "")
        lines.append(f"| {name} | {' | '.join(map(_cell, own))} |")
    counted = ", ".join(f"{count} {name}" for name, count in verdicts.counts(entries).items())
    lines += ["", f"{counted}. Numbers are posterior medians with their intervals.", ""]
    for row in order:
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
    return "<br>".join(parts)


FORMS: Mapping[str, Callable[[Sequence[Entry]], str]] = {
    "json": as_json,
    "csv": as_csv,
    "markdown": as_markdown,
}

"""The transfer table in words: sentences and cells for the terminal, JSON, CSV and Markdown."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis import plain_text
from analysis.html import SYMBOLS, amount, between, listed, plural, sentence, unit_name
from analysis.plain_text import safe
from analysis.transfer.effects import LEAST, Agreement, Measured, Pair, TransferTable
from sweeps.console.tables import rich_table

HEADER = ("claim", "effect", "simulated on", "simulated", "real on", "real", "P(same sign)")
AGREEMENT: Sequence[str] = (
    "simulated on", "real on", "effects", "same sign (expected)", "same verdict", "rank correlation", "of medians",
    "as high by chance",
)  # fmt: skip
PLACES = ("simulated", "real")
NUMBERS = ("task", "estimate", "low", "high", "verdict", "open")
COLUMNS: Sequence[str] = (
    *("study", "claim", "effect", "unit"),
    *(f"{place}_{name}" for place in PLACES for name in NUMBERS),
    *("same_sign", "probability_same_sign", "text"),
)
CAUTION = (
    "The interval of a rank correlation says how well the effects are known, not how other claims would fare: claims "
    "are few, chosen, and share runs."
)


def label(one: Measured) -> str:
    """An effect with its interval and the mark of its verdict; "≥" or "≤" before a number that is only a bound."""
    judged = one.judgement
    if judged.estimate is None:
        return f"{SYMBOLS[judged.verdict]} no estimate"
    said = f"{SYMBOLS[judged.verdict]} {_bound(one)}{amount(judged.estimate, judged.unit)}"
    interval = between({"interval": judged.interval, "unit": judged.unit})
    return f"{said} ({interval})" if interval else said


def _bound(one: Measured) -> str:
    if len(one.open) > 1:
        return "≈ "
    return {"higher": "≥ ", "lower": "≤ "}.get(next(iter(one.open), ""), "")


def chance(value: float | None) -> str:
    """A probability; a dash if there is none."""
    if value is None:
        return "–"
    return "> 0.99" if 0.995 <= value < 1 else "< 0.01" if 0 < value < 0.005 else f"{value:.2f}"


def cells(pair: Pair) -> tuple[str, ...]:
    """A row under `HEADER`."""
    places = [part for one in (pair.simulated, pair.real) for part in (one.task, label(one))]
    return (pair.name.claim, pair.real.judgement.label, *places, chance(pair.probability))


def agreement(one: Agreement) -> tuple[str, ...]:
    """A row under `AGREEMENT`."""
    unit = f"in {unit_name(one.unit)}" if one.unit else "of several units"
    rho = medians = chance_of = "–"
    if one.estimate is not None and one.interval is not None and one.by_chance is not None:
        low, high = one.interval
        rho = f"{one.estimate:.2f} ({low:.2f} to {high:.2f})".replace("-", "−")
        medians = f"{one.of_medians:.2f}".replace("-", "−")
        chance_of = "under 1%" if one.by_chance < 0.01 else f"{100 * one.by_chance:.0f}%"
    return (
        one.simulated_task,
        one.real_task,
        f"{one.effects} {unit}" if one.effects else "none",
        f"{one.same_sign} ({one.expected:.1f})",
        f"{one.same_verdict} of {one.decided}",
        rho,
        medians,
        chance_of,
    )


def withheld(table: TransferTable) -> list[str]:
    """The reasons why rank correlations are missing."""
    said = []
    for one in table.agreements:
        where = f"No rank correlation is given for {one.simulated_task} and {one.real_task}"
        if one.effects < LEAST:
            said.append(f"{where}: they share {plural(one.effects, 'effect')}, needed are {LEAST}.")
        elif one.estimate is None:
            said.append(f"{where}: the {one.effects} effects of one are all equal.")
    return said


def alone(table: TransferTable) -> list[str]:
    """The claims that only one of the two directories judges."""
    return [
        sentence(f"judged in the {place} runs only: {listed(list(claims))}")
        for place, claims in table.lone.items()
        if claims
    ]


def show(table: TransferTable, console: Console) -> None:
    """Print the table on a terminal."""
    grid = Table(title="Transfer: simulated and real", title_justify="left")
    for name in HEADER:
        grid.add_column(name, justify="right" if name.startswith("P(") else "left")
    last: Pair | None = None
    for pair in table.pairs:
        shown = list(cells(pair))
        if last is not None and last.name == pair.name:
            # Printed once per effect, even if the effect was measured on several tasks.
            shown[:2] = "", ""
        elif last is not None and last.name.claim != pair.name.claim:
            grid.add_section()
        grid.add_row(*map(Text, shown), style=_colour(pair))
        last = pair
    console.print(grid)
    rows = [dict(zip(AGREEMENT, agreement(one), strict=True)) for one in table.agreements]
    console.print(rich_table(rows, "Agreement"))
    for said in [*withheld(table), *alone(table)]:
        console.print(Text(said))


def _colour(pair: Pair) -> str:
    """Green where the sign is almost certainly the same, red where it is almost certainly not."""
    if pair.probability is None or 0.05 < pair.probability < 0.95:
        return ""
    return "green" if pair.probability >= 0.95 else "red"


def as_json(table: TransferTable) -> str:
    """The whole table: effects, correlations, claims of one directory only."""
    data = {
        "simulated": str(table.simulated.directory),
        "real": str(table.real.directory),
        "effects": [_entry(pair) for pair in table.pairs],
        "agreement": [dataclasses.asdict(one) for one in table.agreements],
        "only": dict(table.lone),
    }
    return plain_text.as_json(data)


def as_csv(table: TransferTable) -> str:
    """One line per pair of effects; cells without a number are empty."""
    return plain_text.as_csv(COLUMNS, map(row, table.pairs))


def row(pair: Pair) -> dict[str, Any]:
    """The numbers of a pair by `COLUMNS`."""
    entry = _entry(pair)
    cells = {name: entry[name] for name in COLUMNS if name in entry}
    for place in PLACES:
        measured = entry[place]
        low, high = measured["interval"] or (None, None)
        numbers = {**measured, "low": low, "high": high, "open": " ".join(measured["open"])}
        cells |= {f"{place}_{name}": numbers[name] for name in NUMBERS}
    return cells


def as_markdown(table: TransferTable) -> str:
    """The table and the results in sentences."""
    lines = []
    tables = (HEADER, map(cells, table.pairs)), (AGREEMENT, map(agreement, table.agreements))
    for header, rows in tables:
        lines += plain_text.markdown_table(header, ([*map(safe, line)] for line in rows))
        lines.append("")
    lines += [f"- {safe(one)}" for one in [CAUTION, *withheld(table), *alone(table)]]
    return "\n".join(lines) + "\n"


FORMS: Mapping[str, Callable[[TransferTable], str]] = {
    "json": as_json,
    "csv": as_csv,
    "markdown": as_markdown,
}


def _entry(pair: Pair) -> dict[str, Any]:
    return {
        "study": pair.name.study,
        "claim": pair.name.claim,
        "text": pair.real.text,
        "effect": pair.real.judgement.label,
        "unit": pair.real.judgement.unit,
        "estimand": json.loads(pair.name.estimand),
        "simulated": _numbers(pair.simulated),
        "real": _numbers(pair.real),
        "same_sign": pair.same_sign,
        "probability_same_sign": pair.probability,
        "same_verdict": pair.same_verdict,
    }


def _numbers(one: Measured) -> dict[str, Any]:
    judged = one.judgement
    return {
        "task": one.task,
        "estimate": judged.estimate,
        "interval": judged.interval,
        "verdict": judged.verdict,
        "reason": judged.reason,
        "open": dict(one.open),
    }

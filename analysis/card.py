"""The transfer card in words: sentences and cells, on the terminal, as JSON, CSV and Markdown."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.prose import SYMBOLS, amount, between, listed, plural, safe, sentence, unit_name
from analysis.site.verdicts import rank
from analysis.transfer import LEAST, Card, Correlation, Measured, Pair

HEADER = ("claim", "effect", "simulated on", "simulated", "real on", "real", "P(same sign)")
COLUMNS: Sequence[str] = (
    "study", "claim", "effect", "unit", "simulated_task", "simulated_estimate", "simulated_low",
    "simulated_high", "simulated_verdict", "simulated_open", "real_task", "real_estimate", "real_low",
    "real_high", "real_verdict", "real_open", "same_sign", "probability_same_sign", "text",
)  # fmt: skip
CAUTION = (
    "The interval says how well the effects are known, not how other claims would fare: claims are few, "
    "chosen, and share runs."
)


def ordered(card: Card) -> list[Pair]:
    """The pairs by claim, then by study and tasks; the tests of a claim in their order."""
    return sorted(card.pairs, key=lambda pair: (rank(pair.name.claim), pair.name.study))


def label(one: Measured) -> str:
    """An effect with its interval and the mark of its verdict; "≥" and "≤" before what is only a bound."""
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
    own = pair.simulated, pair.real
    return (
        pair.name.claim,
        pair.real.judgement.label,
        own[0].task,
        label(own[0]),
        own[1].task,
        label(own[1]),
        chance(pair.probability),
    )


def summary(card: Card) -> list[str]:
    """What came out, a sentence each."""
    known = [pair for pair in card.pairs if pair.probability is not None]
    signed = [pair.same_sign for pair in known]
    expected = sum(pair.probability or 0.0 for pair in known)
    said = []
    if known:
        said.append(
            f"{sum(map(bool, signed))} of {plural(len(known), 'pair')} of effects have the same sign by their medians; "
            f"{expected:.1f} are expected to, by the probabilities."
        )
    else:
        said.append(
            "No effect has a posterior in both places, so signs and ranks cannot be compared."
        )
    decided = [
        pair
        for pair in card.pairs
        if "undecided" not in (pair.simulated.judgement.verdict, pair.real.judgement.verdict)
    ]
    same = sum(pair.same_verdict for pair in decided)
    said.append(
        f"The verdict is the same for {same} of {plural(len(decided), 'pair')} decided in both places; "
        f"{len(card.pairs) - len(decided)} of {len(card.pairs)} are undecided in at least one."
    )
    return said + [correlated(one) for one in card.correlations]


def correlated(one: Correlation) -> str:
    """A rank correlation in a sentence, or why it is not given."""
    which = plural(one.effects, "effect") + (f" in {unit_name(one.unit)}" if one.unit else "")
    where = f"{one.simulated_task} and {one.real_task}"
    if one.effects < LEAST:
        return f"No rank correlation is given for {where}: they share {which}, needed are {LEAST}."
    if one.estimate is None or one.interval is None or one.by_chance is None:
        return f"No rank correlation is given for {where}: the {which} of one are all equal."
    low, high = one.interval
    scaled = "" if one.unit else ", each in root mean squares of its unit"
    text = (
        f"Over {which} the rank correlation of {where} is {one.estimate:.2f} (90% interval {low:.2f} to {high:.2f}"
        f"{scaled}); by the medians it is {one.of_medians:.2f}, and a random order does as well in "
        f"{'under 1' if one.by_chance < 0.01 else f'{100 * one.by_chance:.0f}'}% of cases."
    )
    return text.replace("-", "−")


def alone(card: Card) -> list[str]:
    """The claims that only one of the places judges."""
    return [
        sentence(f"judged in the {place} runs only: {listed(list(claims))}")
        for place, claims in card.lone.items()
        if claims
    ]


def show(card: Card, console: Console) -> None:
    """Print the card on a terminal."""
    table = Table(title="Transfer: simulated and real", title_justify="left")
    for name in HEADER:
        table.add_column(name, justify="right" if name.startswith("P(") else "left")
    last: Pair | None = None
    for pair in ordered(card):
        row = list(cells(pair))
        if last is not None and last.name == pair.name:
            # Said once for an effect, however many tasks it was measured on.
            row[:2] = "", ""
        elif last is not None and last.name.claim != pair.name.claim:
            table.add_section()
        table.add_row(*map(Text, row), style=_colour(pair))
        last = pair
    console.print(table)
    for said in [*summary(card), *alone(card)]:
        console.print(Text(said))


def _colour(pair: Pair) -> str:
    """Green where the sign is almost certainly the same, red where it is almost certainly not."""
    if pair.probability is None or 0.05 < pair.probability < 0.95:
        return ""
    return "green" if pair.probability >= 0.95 else "red"


def as_json(card: Card) -> str:
    """Everything: effects, correlations, claims of one place only."""
    data = {
        "simulated": str(card.simulated.directory),
        "real": str(card.real.directory),
        "effects": [_entry(pair) for pair in ordered(card)],
        "correlations": [dataclasses.asdict(one) for one in card.correlations],
        "only": dict(card.lone),
    }
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(card: Card) -> str:
    """One line a pair of effects; cells are empty where there is no number."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for pair in ordered(card):
        entry = _entry(pair)
        flat = {name: entry[name] for name in COLUMNS if name in entry}
        for place in ("simulated", "real"):
            own = entry[place]
            low, high = own["interval"] or (None, None)
            numbers = {**own, "low": low, "high": high, "open": " ".join(own["open"])}
            names = ("task", "estimate", "low", "high", "verdict", "open")
            flat |= {f"{place}_{name}": numbers[name] for name in names}
        writer.writerow(flat)
    return buffer.getvalue()


def as_markdown(card: Card) -> str:
    """The table and what came out."""
    lines = [f"| {' | '.join(HEADER)} |", f"|{'---|' * len(HEADER)}"]
    lines += [f"| {' | '.join(map(safe, cells(pair)))} |" for pair in ordered(card)]
    said = [*summary(card), CAUTION, *alone(card)]
    return "\n".join([*lines, "", *(f"- {safe(one)}" for one in said)]) + "\n"


FORMS: Mapping[str, Callable[[Card], str]] = {
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

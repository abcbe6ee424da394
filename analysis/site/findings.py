"""What a study found, in one sentence made from its verdicts."""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis import html
from analysis.figures.inputs import metric_words
from analysis.site.study_data import StudyData
from analysis.verdicts.evidence import ALL_TASKS
from analysis.verdicts.verdict import paired

Entry = Mapping[str, Any]
_LEADING = ("MatchedDifference", "BestDifference")
"""Kinds of estimands that say what a study is about, the first that a claim uses."""


def lead(study_data: StudyData) -> tuple[Mapping[str, Any], int, list[Entry]]:
    """The comparison that a study is about: its estimand as data, its index among the tests of its claim, and the
    claim's entries on tasks with an estimate. No entries if there is none."""
    tests = [
        (claim.id, index, test.estimand.describe())
        for claim, _ in paired(study_data.results)
        for index, test in enumerate(claim.tests)
    ]
    ranked = [one for kind in _LEADING for one in tests if one[2]["kind"] == kind]
    for claim, index, estimand in [*ranked, *tests]:
        rows = [
            row
            for row in study_data.entries
            if row["claim"] == claim and row["task"] != ALL_TASKS
            if row["tests"][index]["estimate"] is not None
        ]
        if rows:
            return estimand, index, rows
    return {}, 0, []


def sentence(study_data: StudyData) -> str:
    """The finding, or that there is none."""
    estimand, index, rows = lead(study_data)
    if not rows:
        return "No claim of this study has an estimate yet." if study_data.entries else ""
    parts = []
    for row in rows:
        test = row["tests"][index]
        size = html.amount if not parts else html.number
        said = size(test["estimate"], test["unit"], True)
        interval = f" ({html.between(test)})" if test["interval"] is not None else ""
        parts.append(f"{said}{interval} on {row['task']}")
    begins, joint = _subject(estimand, rows[0]["tests"][index]["effect"])
    sizes = html.listed([parts[0], *(f"{joint}{part}" for part in parts[1:])])
    text = rows[0]["text"].rstrip(".")
    return f"{begins} {sizes}: {rows[0]['claim']}, “{text}”, is {_verdicts(rows)}."


def _subject(estimand: Mapping[str, Any], effect: str) -> tuple[str, str]:
    """The beginning of the sentence, and the word before further numbers."""
    if estimand["kind"] not in _LEADING:
        return f"{effect[:1].upper()}{effect[1:]}:", ""
    if estimand["kind"] == "MatchedDifference":
        token = " a token" if estimand["per_token"] else ""
        where = f"At the same KL ({estimand['low']:g} to {estimand['high']:g} nats{token})"
    else:
        budget = estimand["within"]
        where = "At their best" + ("" if budget is None else f" within {budget:g} nats")
    words = metric_words(estimand["outcome"])
    arms = f"{estimand['first']} and {estimand['second']}"
    return f"{where} {arms} differ in {words} by", "by "


def _verdicts(rows: Sequence[Entry]) -> str:
    """Verdicts with their tasks: "contradicted on Neural and undecided on Summarize"."""
    by_verdict: dict[str, list[str]] = {}
    for row in rows:
        by_verdict.setdefault(row["verdict"], []).append(row["task"])
    return html.listed(
        [f"{verdict} on {html.listed(tasks)}" for verdict, tasks in by_verdict.items()]
    )

"""The site's first page: the main figure and what was found, the scoreboard, the claims that were not reproduced, and
missing results."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis import html
from analysis.figures.style import CaptionedFigure
from analysis.html import Html, element
from analysis.load import counts
from analysis.site import design, findings, study, verdicts
from analysis.site.page import Place, document, navigation
from analysis.site.study_data import StudyData
from analysis.verdicts.verdict import PAPER, base, rank

_LEGEND = (
    "● reproduced: the effect is what the claim says with a probability of at least 95%; "
    "■ contradicted: it is not, with that probability; ○ undecided: neither. Numbers are posterior "
    "medians with 90% intervals, of the effect that decides. Rules were fixed before the runs, or are marked as newer; "
    "a contradicted claim is a finding about this simulation. “All tasks” is a typical task."
)


def page(
    all_study_data: Sequence[StudyData],
    entries: Sequence[Mapping[str, Any]],
    problems: Sequence[str],
    places: Sequence[Place],
    shown: Mapping[str, Sequence[CaptionedFigure]],
) -> str:
    """The whole page as HTML; ``shown`` are the figures of every study, by its name."""
    ranked = sorted(all_study_data, key=_place)
    body = [
        navigation(places, "index.html"),
        _head(all_study_data, entries, problems),
        study.main(ranked[0], shown[ranked[0].results.name]),
        html.section("findings", "What the other studies found", _findings(ranked[1:])),
        _board(all_study_data, entries),
        html.section(
            "reasons", "What did not come out as claimed", verdicts.not_reproduced(entries)
        ),
        _missing(entries, problems),
        _studies(all_study_data),
        html.section(
            "files",
            "For programs and papers",
            element(
                "p",
                "All verdicts with their numbers: ",
                html.link("verdicts.json", "verdicts.json"),
                ". Every figure is linked as PNG, SVG and CSV below it. ",
                element("code", "testbed report DIR --format json|csv|markdown"),
                " prints the scoreboard.",
            ),
        ),
    ]
    return document("Scoreboard", body, wide=True)


def _head(
    all_study_data: Sequence[StudyData],
    entries: Sequence[Mapping[str, Any]],
    problems: Sequence[str],
) -> Html:
    # Several studies, or several arms of one study, may share a run: it counts once.
    each = pd.concat([study_data.results.runs() for study_data in all_study_data])
    ends = counts(each.drop_duplicates("run", keep="last"))
    tasks = sorted({task for study_data in all_study_data for task in study_data.results.tasks})
    presets = dict.fromkeys(
        str(study_data.results.study.get("preset", "?")) for study_data in all_study_data
    )
    items = verdicts.tally_items(entries)
    items += [("", f"{ends['runs']:,}", f"runs, {ends['diverged']} diverged")]
    items += [("", len(all_study_data), "study" if len(all_study_data) == 1 else "studies")]
    title = "Scoreboard"
    if len(all_study_data) == 1:
        title = str(all_study_data[0].results.study.get("title", all_study_data[0].results.name))
    kicker = f"Preset {html.listed(list(presets))} · {html.listed(tasks)}"
    lead = (
        "Claims about online and offline alignment, measured in simulation and decided by rules "
        "that are written down before the runs."
    )
    said = f"{html.plural(len(problems), 'thing')} missing or odd"
    trouble = html.warning(Html(f"{html.link('#missing', said)}.")) if problems else ""
    return html.header(kicker, title, lead, html.tally(items), trouble)


def _place(study_data: StudyData) -> tuple[Any, ...]:
    """Studies are in the order of the claims that they lead with; those without a finding come last."""
    _, _, rows = findings.lead(study_data)
    return (0, rank(rows[0]["claim"])) if rows else (1,)


def _findings(all_study_data: Sequence[StudyData]) -> Html:
    """One sentence for each study that has claims."""
    said = [(study_data.results, findings.sentence(study_data)) for study_data in all_study_data]
    return html.bullets(
        Html(f"{html.link(study.file_name(results), results.name)}: {html.escape(found)}")
        for results, found in said
        if found
    )


def _seen(all_study_data: Sequence[StudyData]) -> str:
    """Studies whose worlds or widths were looked at before the verdicts."""
    said: dict[str, list[str]] = {}
    for study_data in all_study_data:
        for words in design.looked_at(study_data.results):
            said.setdefault(words, []).append(study_data.results.name)
    if len(all_study_data) == 1:
        return " ".join(said)
    return " ".join(f"{html.listed(names)}: {words}" for words, names in said.items())


def _board(all_study_data: Sequence[StudyData], entries: Sequence[Mapping[str, Any]]) -> Html:
    if not entries:
        words = "These studies make no claims: their pages show what was measured."
        return html.section("scoreboard", "Claims by tasks", html.paragraph(words))
    notes = (verdicts.many(entries), _seen(all_study_data), _LEGEND)
    parts = verdicts.scoreboard(entries), *(element("p", n, class_="legend") for n in notes if n)
    return html.section("scoreboard", "Claims by tasks", *parts)


def _missing(entries: Sequence[Mapping[str, Any]], problems: Sequence[str]) -> Html:
    """Unread studies, missing runs, claims of the paper that no study here tests, newer rules."""
    items = list(problems)
    asked = {base(row["claim"]) for row in entries}
    absent = [claim for claim in PAPER if claim not in asked]
    if absent:
        items.append(f"Claims of the paper that no study here asks: {', '.join(absent)}.")
    newer = sorted({(row["study"], row["claim"]) for row in entries if row["newer"]})
    if newer:
        said = html.listed([f"{claim} ({study})" for study, claim in newer])
        items.append(f"Judged by rules newer than the data: {said}.")
    return html.section("missing", "What is missing", html.bullets(items))


def _studies(all_study_data: Sequence[StudyData]) -> Html:
    """The studies with their questions and sizes."""
    rows = []
    for study_data in all_study_data:
        results = study_data.results
        numbers = counts(results.runs())
        seconds = sum(one.get("seconds") or 0 for one in results.study.get("sessions", ()))
        name = html.link(study.file_name(results), results.name)
        said = f"{results.study.get('title', '')}. {results.study.get('question', '')}".strip(". ")
        claims = sorted({row["claim"] for row in study_data.entries}, key=rank)
        cells = len(results.arms), numbers["seeds"], f"{numbers['runs']:,}", numbers["diverged"]
        took = html.duration(seconds) if seconds else "–"
        rows.append((name, said, ", ".join(claims) or "–", *cells, took))
    columns = ("study", "question", "claims", "arms", "seeds", "runs", "diverged", "took")
    note = "Studies of one command share its time: what they have in common is run once."
    shared = html.paragraph(note) if len(rows) > 1 else ""
    return html.section("studies", "Studies", html.table(columns, rows, numeric=5), shared)

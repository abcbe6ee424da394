"""The site's first page while runs go on: each study's main figure, and how narrow its intervals are, from the worlds
that are complete. It gives no verdicts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from analysis import html
from analysis.figures.style import CaptionedFigure
from analysis.html import Html
from analysis.load import Results
from analysis.site.page import document, figure
from analysis.site.study_data import StudyData
from analysis.verdicts.evidence import ALL_TASKS
from analysis.worlds.power import Components, point
from sweeps.seeds import seeds_from


def complete(results: Results) -> Results:
    """The results of the worlds whose runs are all stored, as if the study had planned no others."""
    seeds = seeds_from(results.study["seeds"])
    planned = sum(map(len, results.study.get("planned", {}).values()))
    stored = results.table.drop_duplicates(["arm", "run"]).groupby("seed").size()
    whole = stored.index[stored * len(seeds) >= planned]
    kept = results.table[results.table["seed"].isin(whole)].reset_index(drop=True)
    return dataclasses.replace(results, study={**results.study, "planned": {}}, table=kept)


def page(
    shown: Sequence[tuple[StudyData, CaptionedFigure | None]],
    stored: int,
    planned: int,
    left: float | None,
) -> str:
    """The page as HTML: studies with their main figures, of which ``stored`` runs out of ``planned`` are done; ``left``
    are the seconds until all are, if known."""
    time = "" if left is None else f", about {html.duration(left)} left"
    banner = (
        f"Provisional: {stored} of {planned} runs are stored{time}. Reload for what has come since. Verdicts come with "
        "the last run; this page has the worlds that are complete, and what more worlds will change."
    )
    titles = [str(data.results.study.get("title", data.results.name)) for data, _ in shown]
    title = titles[0] if len(titles) == 1 else "So far"
    body = [
        html.header("Provisional", title, "", html.warning(banner)),
        *(_study(data, drawn) for data, drawn in shown),
    ]
    return document(f"{title} (provisional)", body)


def _study(data: StudyData, drawn: CaptionedFigure | None) -> Html:
    results = data.results
    planned = len(seeds_from(results.study["seeds"]))
    done = results.table["seed"].nunique()
    title = f"{results.name}: {done} of {html.plural(planned, 'world')}"
    drawn_figure = figure(drawn) if drawn else Html("")
    return html.section(html.slug(results.name), title, drawn_figure, _widths(data, planned))


def _widths(data: StudyData, planned: int) -> Html:
    """The deciding effect of every claim and task so far, its half width, and that to expect of all worlds."""
    named, numbers = ["claim", "task", "effect"], ["so far", "± now", f"± with {planned} worlds"]
    wanted = data.results.study.get("precision", {}).get("points")
    rows = []
    for entry in data.entries:
        if entry["task"] == ALL_TASKS or entry["interval"] is None:
            continue
        row = [entry["claim"], entry["task"], entry["effect"], *_numbers(entry, planned)]
        rows.append([*row, _asked(entry, wanted)] if wanted else row)
    numbers += ["± asked"] if wanted else []
    return html.table([*named, *numbers], rows, len(numbers))


def _numbers(entry: Mapping[str, Any], planned: int) -> list[str]:
    low, high = entry["interval"]
    unit = entry["unit"]
    found = Components.of(entry["details"], entry["interval"], "")
    later = "" if found is None else html.number(found.half_width(planned), unit)
    now = html.number((high - low) / 2, unit)
    return [html.amount(entry["estimate"], unit), now, later]


def _asked(entry: Mapping[str, Any], wanted: float | Mapping[str, float]) -> str:
    """The half width that was asked for of an entry's claim, in the effect's unit; "" if it has no say."""
    points = wanted.get(entry["claim"]) if isinstance(wanted, Mapping) else wanted
    one = point(entry["unit"], entry["rule"]["rope"])
    return "" if points is None or one is None else html.number(points * one, entry["unit"])

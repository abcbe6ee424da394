"""The page on provenance: versions, machines, sessions, commands, runs and their configurations."""

import contextlib
import json
from collections.abc import Sequence

from analysis import html
from analysis.html import Html, element
from analysis.load import Results
from analysis.site import design
from analysis.site.page import Place, document, navigation
from analysis.site.study import file_name
from analysis.site.study_data import StudyData

_MOST_LISTED = 60


def page(all_study_data: Sequence[StudyData], places: Sequence[Place]) -> str:
    """The whole page as HTML."""
    sources = {
        str(study_data.results.study.get("source", "unknown")) for study_data in all_study_data
    }
    said = [
        "Every run is named by the hash of its whole configuration, seed included: the same name "
        "means the same run."
    ]
    if len(sources) > 1:
        said.append("These studies were begun with different versions of the code.")
    body = [
        navigation(places, "provenance.html"),
        html.header("Provenance", "Where the numbers come from", " ".join(said)),
        *(_study(study_data) for study_data in all_study_data),
    ]
    return document("Where the numbers come from", body)


def _study(study_data: StudyData) -> Html:
    results = study_data.results
    name = results.name
    return html.section(
        html.slug(name),
        f"Study {name}",
        element("p", html.link(file_name(results), str(results.study.get("title", name)))),
        design.facts_of(results.study),
        design.repeat(results, study_data.directory),
        _sessions(results),
        _runs(results),
        _example(results),
    )


def _sessions(results: Results) -> Html:
    """Every invocation that added to the results."""
    rows = []
    for session in results.study.get("sessions", ()):
        seconds = session.get("seconds")
        seen = ("created", "preset", "seeds", "source")
        facts = (str(session.get(key, "–")) for key in seen)
        took = html.duration(seconds) if seconds else "–"
        rows.append((*facts, took, session.get("command", "–")))
    columns = ("begun", "preset", "seeds", "source", "took", "command")
    return html.details(html.plural(len(rows), "session"), html.table(columns, rows))


def _runs(results: Results) -> Html:
    """The names of runs, by arm."""
    last = results.runs()
    parts = []
    for arm in results.arms:
        runs = last[last["arm"] == arm]
        seeds = sorted(runs["seed"].unique())
        names = [
            f"{run} (seed {seed})" for run, seed in zip(runs["run"], runs["seed"], strict=True)
        ]
        listed = ", ".join(names[:_MOST_LISTED])
        left = len(names) - _MOST_LISTED
        more = f", and {left} more in the results table" if left > 0 else ""
        parts.append((arm, ", ".join(map(str, seeds)), len(runs), listed + more))
    listing = html.table(("arm", "seeds", "runs", "configuration hashes"), parts)
    return html.details(f"{html.plural(len(last), 'run')} by configuration hash", listing)


def _example(results: Results) -> Html:
    """One complete configuration of each arm."""
    if "config" not in results.table:
        return Html("")
    last = results.runs()
    parts = []
    for arm in results.arms:
        runs = last[last["arm"] == arm]
        if runs.empty:
            continue
        text = str(runs["config"].iloc[0])
        with contextlib.suppress(ValueError, RecursionError):
            text = json.dumps(json.loads(text), indent=2)
        parts.append(html.details(f"{arm}: {runs['run'].iloc[0]}", html.preformatted(text)))
    words = html.paragraph("The first run of each arm; the results table holds every run’s.")
    return html.details("Whole configurations", words, html.join(parts)) if parts else Html("")

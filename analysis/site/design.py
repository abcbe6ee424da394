"""Sections on a study's design: arms and axes, worlds, runs and the resources they used, paper-style estimates."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis import html
from analysis.html import Html
from analysis.load import Results, Table, counts
from analysis.site import profile
from sweeps.seeds import seeds_from
from sweeps.tensorboard.samples import said
from testbed import paths
from testbed.metric_table import LEDGER, WORLD, Column

DEVELOPMENT = 100
"""Seeds below this one are for development; see docs/seeds.md."""
_MOST_LISTED = 40
_MOST_WORLDS = 60


def background(results: Results) -> Html:
    """The study's long description."""
    return html.section(
        "background", "Background", html.written(str(results.study.get("background", "")))
    )


def answers(results: Results) -> Html:
    """Sampled answers of policies, beside those of SFT; empty if the results were stored without answers."""
    several = len(results.tasks) > 1
    rows = [
        (*([one.task] if several else []), one.arm, one.prompt, one.before, one.after)
        for one in said(results.table)
    ]
    if not rows:
        return Html("")
    return html.section(
        "answers",
        "What do they answer?",
        html.paragraph(
            "Sampled answers to the first evaluation prompts, before training and after it: of each arm the run of "
            "the first seed that wins most in the end."
        ),
        html.table([*(["task"] if several else []), "arm", "prompt", "SFT", "trained"], rows),
    )


def _seeds(study: Mapping[str, Any]) -> str:
    """The seeds of a study in words."""
    chosen = seeds_from(study["seeds"])
    return html.plural(len(chosen), "seed") + (
        f", {chosen[0]} to {chosen[-1]}" if chosen.start else ""
    )


def looked_at(results: Results) -> list[str]:
    """What was looked at before the verdicts: worlds on which methods were developed, and widths while a study grew."""
    said = []
    seeds = seeds_from(results.study["seeds"])
    if seeds.stop <= DEVELOPMENT:
        said.append(
            f"Development seeds: looked at before. Worlds of seeds below {DEVELOPMENT} were seen while methods and "
            "defaults were chosen."
        )
    looks = results.study.get("precision", {}).get("looks", [])
    if looks:
        counts = html.listed([str(look["worlds"]) for look in looks])
        said.append(
            f"Grown until its intervals were narrow: looked at {html.plural(len(looks), 'time')}, with {counts} worlds "
            "a task. A look sees widths, never effects."
        )
    return said


def design(results: Results) -> Html:
    """Arms, axes, seeds and preset, in words and as tables; the base config."""
    study = results.study
    arms, axes, kept, further = (study.get(k, {}) for k in ("arms", "axes", "fixed", "further"))
    swept = [f"{path} at {html.plural(len(values), 'value')}" for path, values in axes.items()]
    words = (
        html.plural(len(arms), "arm")
        + (f", each with {html.listed(swept)}" if swept else "")
        + (", but for what it keeps fixed or runs besides" if swept and (kept or further) else "")
        + f", on {_seeds(study)} "
        f"(each redraws world, data and training). Preset {study.get('preset', '?')}."
    )
    rows = [
        (arm, _spelt(settings), _spelt(kept.get(arm, {})), _besides(further.get(arm, ()), axes))
        for arm, settings in arms.items()
    ]
    pairs = [(path, ", ".join(map(str, values))) for path, values in axes.items()]
    given = [(path, str(value)) for path, value in study.get("settings", {}).items()]
    base = json.dumps(study.get("base", {}), indent=2)
    changes = "what it changes in the base configuration"
    header = ("arm", changes, "what it keeps fixed", "what it runs besides")
    return html.section(
        "design",
        "What was run",
        html.paragraph(words),
        html.table(header, rows),
        html.table(("axis", "values"), pairs),
        html.details("What the preset and the command set", html.table(("path", "value"), given)),
        html.details("Base configuration", html.preformatted(base)),
    )


def _spelt(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} = {value}" for path, value in settings.items()) or "nothing"


def _besides(settings: Sequence[Mapping[str, Any]], axes: Mapping[str, Any]) -> str:
    """Settings that one arm runs in addition to the axes; paths with the same values as the axes are left out."""
    shown = {}
    for path, on_axis in axes.items():
        values = list(dict.fromkeys(setting[path] for setting in settings if path in setting))
        if values not in ([], on_axis):
            shown[path] = ", ".join(map(str, values))
    return _spelt(shown)


def _measured(rows: Table, columns: Sequence[Column]) -> list[Column]:
    """Those columns that hold numbers."""
    return [one for one in columns if one.name in rows and rows[one.name].notna().any()]


def worlds(results: Results) -> Html:
    """Measured properties of each seed's world: data, proxy, opponent."""
    facts = _measured(results.table, WORLD)
    if not facts:
        return Html("")
    keys = ["task", *results.strata, "seed"]
    means = results.table.groupby(keys, sort=True)[[fact.name for fact in facts]].mean()
    rows = [
        (*index, *("–" if value != value else f"{value:.2f}" for value in values))
        for index, values in zip(means.index, means.to_numpy(dtype=float), strict=True)
    ]
    header = (*keys, *(fact.words for fact in facts))
    words = html.paragraph(
        "A seed redraws the world. Accuracy is against the golden reward on held-out pairs; rewards are in standard "
        "deviations over SFT samples, whose mean is 0. Where arms differ in one of these numbers their mean is shown."
    )
    listing = html.table(header, rows, numeric=len(facts) + 1, most=_MOST_WORLDS)
    return html.section("worlds", "The worlds", words, listing)


def runs(results: Results, left_out: Sequence[str]) -> Html:
    """Runs, including diverged and missing ones, by task and arm; `left_out` names the checkpoints that curves do not
    use."""
    last = results.runs()
    rows = []
    for task in results.tasks:
        for arm in results.arms:
            ends = counts(last[(last["task"] == task) & (last["arm"] == arm)])
            rows.append((task, arm, *ends.values()))
    said = (
        "A diverged run is frozen where its loss or parameters stopped being finite; it is counted here, and enters "
        "the curves up to that step only."
    )
    others = f"Not in the curves: {html.listed(list(left_out))}." if left_out else ""
    return html.section(
        "runs",
        "Runs, and those that diverged",
        missing(results),
        html.table(("task", "arm", "seeds", "runs", "diverged"), rows, numeric=3),
        html.paragraph(said, others),
        _diverged(last[last["diverged_step"] >= 0], results.axes),
    )


def missing(results: Results) -> Html:
    """Planned runs that are missing, and stored runs that were not planned."""
    said = []
    if results.missing:
        lacking = [f"{count} of arm {arm}" for arm, count in results.missing.items()]
        total = html.plural(sum(results.missing.values()), "planned run")
        said.append(f"Missing: {total} ({html.listed(lacking)}). The same command completes them.")
    if results.foreign:
        said.append(f"Left out: {html.plural(results.foreign, 'run')} that the study did not plan.")
    return html.warning(" ".join(said))


def versions(results: Results) -> Html:
    """A warning if the results hold runs of several versions of the testbed's code."""
    runs = results.runs()
    if "code" not in runs:
        return Html("")
    counts = runs["code"].fillna("unknown").value_counts()
    if len(counts) < 2:
        return Html("")
    each = html.listed(
        [f"{html.plural(int(count), 'run')} by {code}" for code, count in counts.items()]
    )
    return html.warning(
        f"Made by {len(counts)} versions of the testbed’s code: {each}. Differences between them are differences "
        "between these runs too."
    )


def _diverged(rows: Table, axes: Sequence[str]) -> Html:
    columns = ["task", "arm", "seed", *axes, "diverged_step"]
    header = [*columns[:-1], "step"]
    shown = rows[columns].astype(object).itertuples(index=False)
    return html.details("The diverged runs", html.table(header, shown, most=_MOST_LISTED))


def consumed(results: Results) -> Html:
    """Resources that a run of each arm had used when it ended, and the study's duration."""
    last = results.runs()
    seconds = [one["seconds"] for one in results.study.get("sessions", ()) if one.get("seconds")]
    took = ""
    if seconds:
        took = (
            f"The command that ran this study, alone or with others, took {html.duration(sum(seconds))}"
            + (f" in {len(seconds)} sessions." if len(seconds) > 1 else ".")
        )
    known, where = _measured(last, LEDGER), profile.of(results.directory)
    if not known:
        said = took or "What runs consumed, and how long they took, was not stored."
        return html.section("cost", "What it cost", html.paragraph(said), where)
    middle = last.groupby(["task", "arm"], sort=False)[[one.name for one in known]].median()
    rows = [
        (task, arm, *(f"{value:,.0f}" for value in middle.loc[(task, arm)]))
        for task in results.tasks
        for arm in results.arms
        if (task, arm) in middle.index
    ]
    words = html.paragraph(
        "Median over an arm’s runs, at their end. Every row of the results has these numbers, so arms can be compared "
        "at equal labels or equal tokens as well. A proxy’s judgements rest on all labels of D_golden, whoever learns "
        "from them.",
        took,
    )
    listing = html.table(("task", "arm", *(one.words for one in known)), rows, numeric=len(known))
    return html.section("cost", "What a run consumed", words, listing, where)


def estimates(rows: Sequence[Mapping[str, Any]]) -> Html:
    """Paper-style estimates of the win rate: one row per panel and arm."""
    if not rows:
        return Html("")
    lines = [
        (
            row["panel"],
            row["arm"],
            html.percent(row["best"]),
            html.number(row["best_kl"]),
            html.percent(row["quantile"]),
        )
        for row in rows
    ]
    header = ("", "arm", "best checkpoint’s win rate", "at KL", "90% quantile")
    words = html.paragraph(
        "The best checkpoint is a maximum over noisy numbers, so it lies above the truth, the more so the more runs an "
        "arm has; the 90% quantile is what the paper compares sizes by. Neither decides anything here."
    )
    listing = html.table(header, lines, numeric=3)
    return html.section("estimates", "Estimates as the paper makes them", words, listing)


def repeat(results: Results, directory: Path) -> Html:
    """The commands that repeat the study and its analysis. A directory outside the working directory is named only:
    pages are passed on."""
    study, shown = results.study, paths.shown(directory)
    place = directory.name if Path(shown).is_absolute() else shown
    command = study.get("command") or f"testbed run {study.get('study', 'STUDY')}"
    return html.preformatted(f"{command}\ntestbed report {place}")


def facts_of(study: Mapping[str, Any]) -> Html:
    """Code, versions, machine and time of every session."""
    pairs: list[tuple[str, Any]] = [("begun", study.get("created", "unknown"))]
    sessions = study.get("sessions", ())
    if len(sessions) > 1:
        pairs.append(("continued", ", ".join(s.get("created", "?") for s in sessions[1:])))
    pairs += [(name, named(study.get(name, {}))) for name in ("machine", "versions")]
    pairs += [("source", f"{study.get('source', 'unknown')} (hash of the code that ran)")]
    return html.definitions(pairs)


def named(facts: Mapping[str, Any]) -> str:
    """Names and values of facts in one line."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())

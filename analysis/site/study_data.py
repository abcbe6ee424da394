"""All data that the site shows of one study, gathered once: verdicts, curves, estimates, words."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.curves import classic
from analysis.curves.checkpoints import clean
from analysis.curves.frontier import Frontier
from analysis.figures.inputs import FigureInputs, estimands, level_names
from analysis.html import listed, number, percent, sentence
from analysis.load import Results, Table, last_rows
from analysis.verdicts import verdict
from analysis.verdicts.evidence import describe_peak
from sweeps.estimands import Estimand, PeakPlaceTrend, Unanswerable


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyData(FigureInputs):
    """One study's results and the analyses of them.

    `unfitted` are the reasons why panels have no curves, `words` sentences for figures, by the figure's name.
    """

    directory: Path
    unfitted: Mapping[str, str]
    estimates: Sequence[Mapping[str, Any]]
    left_out: Sequence[str]
    words: Mapping[str, Sequence[str]]


def gather(results: Results, directory: Path) -> StudyData:
    """Judge a study's claims and collect the data of its page. Fits only curves that have not been fitted yet."""
    evidence = verdict.gather(results)
    entries = [{**entry, "study": results.name} for entry in verdict.decide(results, evidence)]
    sizes = _sizes(results, evidence)
    panels, where = _panels(results, evidence, sizes)
    fits, unfitted = _curves(results, panels)
    points = _usable({title: at.table for title, at in panels.items()})
    left_out = [
        f"{count} checkpoints {reason} ({title})"
        for title, fit in fits.items()
        for reason, count in fit.cleaned.left_out.items()
    ]
    envelopes, estimates = _classic(results, points, fits)
    return StudyData(
        results=results,
        directory=directory,
        entries=entries,
        fits=fits,
        typical=next(iter(evidence.values())).pool.fits.typical if fits else None,
        unfitted=unfitted,
        points=points,
        envelopes=envelopes,
        estimates=estimates,
        sizes=sizes,
        where=where,
        left_out=left_out,
        words=_words(results, fits, unfitted),
    )


def so_far(results: Results) -> FigureInputs:
    """Inputs for the figures that need no fit and no verdict, by task."""
    points = _usable({task: results.task(task) for task in results.tasks})
    envelopes, _ = _classic(results, points, {})
    return FigureInputs(results, {}, None, points, envelopes, (), {}, {})


def _usable(tables: Mapping[str, Table]) -> dict[str, Table]:
    """The checkpoints that can be drawn, by panel; panels without such checkpoints are left out."""
    trained = {title: clean(table).trained for title, table in tables.items()}
    return {title: rows for title, rows in trained.items() if len(rows)}


def _panels(
    results: Results, evidence: Mapping[str, Any], sizes: Mapping[str, Mapping[Any, float]]
) -> tuple[dict[str, Any], dict[str, tuple[str, Mapping[str, Any]]]]:
    """Evidence by panel (a task at each combination of the strata's levels), and each panel's task and levels."""
    names = {path: level_names(results, path, sizes.get(path, {})) for path in results.strata}
    panels, where = {}, {}
    for task, of_task in evidence.items():
        try:
            levels = [of_task.levels(path) for path in results.strata]
        except Unanswerable:
            continue
        for combination in itertools.product(*levels):
            at, titles = of_task, [task]
            chosen = dict(zip(results.strata, combination, strict=True))
            for path, level in chosen.items():
                at = at.at(path, level)
                titles.append(names[path][level])
            if len(at.table):
                title = ", ".join(titles)
                panels[title], where[title] = at, (task, chosen)
    return panels, where


def _curves(
    results: Results, panels: Mapping[str, Any]
) -> tuple[dict[str, Frontier], dict[str, str]]:
    """Fitted curves by panel, and the reasons why panels have none. Nothing is fitted if no claim needs a curve."""
    fits: dict[str, Frontier] = {}
    reasons: dict[str, str] = {}
    if not _wants_curves(results):
        return fits, reasons
    for title, at in panels.items():
        try:
            fits[title] = at.frontier
        except Unanswerable as problem:
            reasons[title] = str(problem)
    return fits, reasons


def _wants_curves(results: Results) -> bool:
    """Whether a claim uses fitted curves; a study without claims shows curves as well."""
    spoken = [Estimand.from_dict(one) for one in estimands(results)]
    return not spoken or any(one.from_curves or isinstance(one, PeakPlaceTrend) for one in spoken)


def _classic(
    results: Results, points: Mapping[str, Table], fits: Mapping[str, Frontier]
) -> tuple[Table, list[dict[str, Any]]]:
    """Upper envelopes of all panels, and paper-style estimates beside the model's."""
    envelopes, rows = [], []
    for title, checkpoints in points.items():
        envelopes.append(classic.envelope(checkpoints, results.arms).assign(panel=title))
        fit = fits.get(title)
        for row in classic.summary(checkpoints, results.arms).to_dict("records"):
            peak = describe_peak(fit, row["arm"]) if fit and row["arm"] in fit.arms else {}
            model = {name: peak.get(name) for name in ("peak", "peak_interval", "peak_kl")}
            rows.append({"panel": title, **row, **model})
    return (pd.concat(envelopes) if envelopes else pd.DataFrame()), rows


def _sizes(results: Results, evidence: Mapping[str, Any]) -> dict[str, dict[Any, float]]:
    """Positions on an axis of the levels of every stratum and of every path that claims use."""
    paths = dict.fromkeys(results.strata)
    paths |= dict.fromkeys(one["path"] for one in estimands(results) if "path" in one)
    sizes = {}
    for path in paths:
        if path not in results.table or results.table[path].nunique() < 2:
            continue
        sizes[path] = _places(path, evidence)
    return sizes


def _places(path: str, evidence: Mapping[str, Any]) -> dict[Any, float]:
    """A position for each level: its size if all levels have one, else its rank."""
    sizes: dict[Any, float] = {}
    ranks: dict[Any, float] = {}
    for of_task in evidence.values():
        try:
            levels = of_task.levels(path)
        except Unanswerable:
            continue
        for level in levels:
            ranks.setdefault(level, float(len(ranks)))
            try:
                sizes[level] = of_task.size(path, level)
            except Unanswerable:
                continue
    complete = sizes.keys() == ranks.keys() and len(set(sizes.values())) == len(sizes)
    return sizes if complete else ranks


def _words(
    results: Results, fits: Mapping[str, Frontier], unfitted: Mapping[str, str]
) -> dict[str, list[str]]:
    """Sentences beside figures, by the figure's name."""
    return {
        "frontier": list(_frontier_words(fits, unfitted)),
        "classification": _ends(
            results.arms,
            results.runs(),
            ("data_accuracy", "win_rate"),
            "at the end of training, ",
            lambda arm, accuracy, wins: (
                f"{arm} policies order {percent(accuracy)} of D_golden’s pairs as the golden reward does and win "
                f"{percent(wins)} of their comparisons"
            ),
        ),
        "logprob": _ends(
            results.arms,
            last_rows(results.on_axes),
            ("winner_logprob_change", "loser_logprob_change"),
            "",
            lambda arm, winners, losers: (
                f"{arm} training has changed the log-probability of D_golden’s winners by "
                f"{number(winners, signed=True)} nats and of its losers by {number(losers, signed=True)}"
            ),
        ),
    }


def _frontier_words(fits: Mapping[str, Frontier], unfitted: Mapping[str, str]) -> Iterator[str]:
    """Peaks and matched-KL gap of every panel, unless there are too many arms or panels to read."""
    for title, reason in unfitted.items():
        yield f"On {title} there is no curve: {reason}."
    for title, fit in fits.items():
        said = []
        if len(fit.arms) <= 4 and len(fit.arms) * len(fits) <= 8:
            said.append(f"On {title}, {listed([_peak(fit, arm) for arm in fit.arms])}.")
        if len(fit.arms) == 2 and len(fits) <= 4:
            said.append(_gap(fit))
        said += [sentence(reason) for reason in fit.missing.values()]
        trouble = fit.diagnostics.trouble()
        if trouble:
            said.append(f"Mind: {trouble}.")
        if said:
            yield " ".join(said)


def _peak(fit: Frontier, arm: str) -> str:
    peak = describe_peak(fit, arm)
    low, high = peak["peak_interval"]
    where = f"({percent(low)} to {percent(high)}) at KL {peak['peak_kl']:.2g}"
    if peak["peak_place"] == "end":
        return (
            f"{arm} does not reach a peak inside the observed range: its best fitted win rate "
            f"there is {percent(peak['peak'])} {where}"
        )
    return f"{arm} peaks at a win rate of {percent(peak['peak'])} {where}"


def _gap(fit: Frontier) -> str:
    first, second = fit.arms
    try:
        low, high = fit.shared(first, second)
    except Unanswerable as problem:
        return sentence(str(problem))
    lower, gap, upper = np.quantile(fit.gap(first, second), [0.05, 0.5, 0.95])
    sign = 1 if gap >= 0 else -1
    bounds = sorted((sign * lower, sign * upper))
    return (
        f"At equal KL, between {low**2:.2g} and {high**2:.2g} nats, a typical seed wins "
        f"{number(abs(gap), 'probability')} points {'more' if gap >= 0 else 'less'} often {first} "
        f"than {second} ({number(bounds[0], 'probability')} to {number(bounds[1], 'probability')})."
    )


def _ends(
    arms: Sequence[str],
    last: Table,
    metrics: tuple[str, str],
    when: str,
    part: Callable[[str, float, float], str],
) -> list[str]:
    """One sentence per task on two metrics at the ``last`` checkpoints of runs that did not diverge (means over seeds),
    one part per arm; only for studies with few arms."""
    rows = last[last["diverged_step"] < 0]
    seeds = rows.groupby(["task", "arm", "seed"])[list(metrics)].mean()
    said = []
    for task, means in seeds.groupby(["task", "arm"]).mean().dropna().groupby("task"):
        by_arm = means.droplevel("task")
        measured = [arm for arm in arms if arm in by_arm.index]
        if len(measured) <= 3:
            parts = [part(arm, *by_arm.loc[arm].astype(float)) for arm in measured]
            said.append(f"On {task}, {when}{'; '.join(parts)}.")
    return said

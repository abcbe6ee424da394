"""All data that the site shows of one study, gathered once: verdicts, curves, estimates, words."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.curves import classic
from analysis.figures.inputs import FigureInputs, estimands, level_names
from analysis.html import number, percent
from analysis.load import Results, Table, last_rows, lost
from analysis.verdicts import verdict
from sweeps.estimands import Unanswerable


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyData(FigureInputs):
    """One study's results and the analyses of them.

    `words` are sentences for figures, by the figure's name.
    """

    directory: Path
    words: Mapping[str, Sequence[str]]

    @property
    def estimates(self) -> list[dict[str, Any]]:
        """The paper's estimates by panel and arm; see `analysis.curves.classic.summary`."""
        return [
            {"panel": title, **row}
            for title, rows in self.points.items()
            for row in classic.summary(rows, self.arms).to_dict("records")
        ]

    @property
    def left_out(self) -> list[str]:
        """How many checkpoints no curve uses because their run had diverged, by panel."""
        counts = {title: int(lost(at.table).sum()) for title, at in self.panels.items()}
        return [f"{n} checkpoints after divergence ({title})" for title, n in counts.items() if n]


def gather(results: Results, directory: Path) -> StudyData:
    """Judge a study's claims and collect the data of its page. Fits only curves that have not been fitted yet."""
    evidence = verdict.gather(results)
    entries = [{**entry, "study": results.name} for entry in verdict.decide(results, evidence)]
    sizes = _sizes(results, evidence)
    panels, where = _panels(results, evidence, sizes)
    return StudyData(
        results=results,
        directory=directory,
        panels=panels,
        entries=entries,
        sizes=sizes,
        where=where,
        words=_words(results),
    )


def so_far(results: Results) -> FigureInputs:
    """Inputs for the figures that need no fit and no verdict, by task."""
    return FigureInputs(results, verdict.gather(results), (), {}, {})


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


def _words(results: Results) -> dict[str, list[str]]:
    """Sentences beside figures, by the figure's name."""
    return {
        "classification": _ends(
            results.arms,
            results.runs(),
            ("data_accuracy", "golden_reward"),
            "at the end of training, ",
            lambda arm, accuracy, reward: (
                f"{arm} policies order {percent(accuracy)} of D_golden’s pairs as the golden reward does and write "
                f"answers of {number(reward, signed=True)} SFT standard deviations"
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

"""Inputs of the figures, and words for columns, paths and levels."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.figures import style
from analysis.figures.curves import Outcome, Pair, Panels, panel
from analysis.figures.sizes import compact
from analysis.load import Results, Table, last_rows
from analysis.verdicts.evidence import TaskEvidence
from analysis.worlds import measured
from sweeps.estimands import Unanswerable
from testbed.metric_table import DECLARED, FACTS, declared

DECIDES = "golden_reward"
"""The outcome that comes first where claims read several."""
_MOST_PAIRS = 4


@dataclasses.dataclass(frozen=True)
class FigureInputs:
    """Inputs of a study's figures.

    `panels` is the evidence by panel (a task, or a task at levels of the strata), `entries` the verdicts, `sizes` the
    positions on an axis of the levels of every stratum, `where` each panel's task and levels.
    """

    results: Results
    panels: Mapping[str, TaskEvidence]
    entries: Sequence[Mapping[str, Any]]
    sizes: Mapping[str, Mapping[Any, float]]
    where: Mapping[str, tuple[str, Mapping[str, Any]]]

    @functools.cached_property
    def points(self) -> Mapping[str, Table]:
        """The trained checkpoints that can be drawn, by panel; panels without such checkpoints are left out."""
        found = {}
        for title, at in self.panels.items():
            with contextlib.suppress(Unanswerable):
                rows = measured.usable(at.table, "win_rate")
                found[title] = rows[rows["evaluation"] > 0]
        return {title: rows for title, rows in found.items() if len(rows)}

    @functools.cached_property
    def curves(self) -> Mapping[str, Panels]:
        """The curves of every outcome that is shown, by metric and panel; panels without curves are left out."""
        shown = {}
        for outcome in self.outcomes:
            panels = {title: panel(at, self.arms, outcome) for title, at in self.panels.items()}
            shown[outcome.metric] = {title: one for title, one in panels.items() if one.curves}
        return shown

    @functools.cached_property
    def outcomes(self) -> Sequence[Outcome]:
        """The outcomes over KL that claims read, the deciding one first; of a study without claims, reward and win
        rate."""
        spoken = estimands(self.results)
        named = [one["outcome"] for one in spoken if "outcome" in one]
        metrics = dict.fromkeys(named if spoken else (DECIDES, "win_rate"))
        first = [DECIDES] if DECIDES in metrics else []
        return [
            _outcome(self.results, metric, self.label(metric))
            for metric in dict.fromkeys([*first, *metrics])
        ]

    def label(self, metric: str) -> str:
        """The label of an outcome's axis."""
        if metric == "win_rate":
            return f"Win rate against {self.opponent}"
        unit = "" if is_rate(metric) else f", {declared(metric).unit}"
        return capital(metric) + unit

    @property
    def opponent(self) -> str:
        """Whom a policy is compared with in the win rate."""
        baseline = self.results.study.get("base", {}).get("baseline") or {}
        return "SFT" if baseline.get("steps") == 0 else "the golden baseline"

    @property
    def arms(self) -> tuple[str, ...]:
        return self.results.arms

    @property
    def several(self) -> bool:
        return len(self.results.arms) > style.FEW_ARMS


def estimands(results: Results, beside: bool = True) -> list[dict[str, Any]]:
    """All estimands of a study's claims as data, including nested ones, and those beside the tests if wanted."""
    claims = [claim.describe() for claim in (*results.claims, *(results.present_claims or ()))]
    waiting = [test["estimand"] for claim in claims for test in claim["tests"]]
    if beside:
        waiting += [one for claim in claims for one in claim["beside"]]
    found: list[dict[str, Any]] = []
    while waiting:
        one = waiting.pop(0)
        if one not in found:
            found.append(one)
        waiting += [value for value in one.values() if isinstance(value, Mapping)]
    return found


def _outcome(results: Results, metric: str, label: str) -> Outcome:
    """An outcome with the pairs of arms and the windows of KL of the claims that it decides, or beside which it stands;
    if claims compare no arms in windows, with any pair that they compare, or the two arms if there are two."""
    used = [
        [one for one in estimands(results, beside) if one.get("outcome") == metric]
        for beside in (False, True)
    ]
    spoken = used[0] or used[1]
    windowed = [
        one
        for one in spoken
        if not one.get("per_token") and None not in (one.get("low"), one.get("high"))
    ]
    pairs: list[Pair] = []
    for one in windowed or spoken:
        if "first" in one and "second" in one:
            pairs.append((one["first"], one["second"]))
        elif "candidate" in one:
            pairs += [(one["top"], one["bottom"]), (one["top"], one["candidate"])]
    if not pairs and len(results.arms) == 2:
        pairs.append((results.arms[0], results.arms[1]))
    windows = dict.fromkeys((one["low"], one["high"]) for one in windowed)
    return Outcome(metric, label, list(dict.fromkeys(pairs))[:_MOST_PAIRS], list(windows))


def columns_used(spoken: Iterable[Mapping[str, Any]]) -> set[str]:
    """The columns that estimands read."""
    found: set[str] = set()
    for one in spoken:
        names = [one.get(name) for name in ("metric", "outcome", "x", "y", "on")]
        if one["kind"] == "WithinRun":
            names += [*one["first"], *one["second"]]
        names += one.get("given", ())
        found |= {name for name in names if name}
    return found


def finished(results: Results) -> Table:
    """The last rows of all runs that did not diverge, with the best win rate and golden reward of each run."""
    table = results.table[results.table["diverged_step"] < 0]
    key = ["task", "arm", "run"]
    trained = table[table["evaluation"] > 0]
    outcomes = [name for name in ("win_rate", "golden_reward") if name in table]
    best = trained.groupby(key)[outcomes].max().add_prefix("best_").reset_index()
    return last_rows(table).merge(best, on=key, how="left")


def numeric_axes(figure_inputs: FigureInputs, rows: Table) -> list[str]:
    """Swept paths whose values are numbers."""
    swept = [axis for axis in figure_inputs.results.study.get("axes", ()) if axis in rows]
    return [
        axis
        for axis in swept
        if rows[axis].dropna().map(lambda value: isinstance(value, int | float | np.number)).all()
    ]


def places_named(places: Mapping[Any, float]) -> dict[float, str] | None:
    """Names for axis positions that are only ranks; None if the positions are numbers with a meaning."""
    if list(places.values()) != [float(rank) for rank in range(len(places))]:
        return None
    return {place: str(level) for level, place in places.items()}


def path_words(path: str) -> str:
    """A swept path or a column in words."""
    last = path.removeprefix(FACTS).replace("_", " ").split(".")
    return last[-1] if len(last) == 1 or last[-1] not in ("width", "value") else " ".join(last)


def counted(places: Mapping[Any, float]) -> bool:
    """Whether the positions of the levels are numbers of parameters: neither ranks nor the levels' values."""
    numbers = [level for level in places if isinstance(level, int | float | np.number)]
    return bool(places) and not places_named(places) and len(numbers) < len(places)


def level_words(path: str, figure_inputs: FigureInputs) -> str:
    """Words for the kind of the levels of a path."""
    return "the policy’s size" if counted(figure_inputs.sizes.get(path, {})) else path_words(path)


def axis_words(path: str, figure_inputs: FigureInputs) -> str:
    """The label of an axis along a path."""
    return (
        "Parameters of the policy" if counted(figure_inputs.sizes.get(path, {})) else capital(path)
    )


def metric_words(column: str) -> str:
    """A column in words."""
    return DECLARED[column].words if column in DECLARED else path_words(column)


def capital(column: str) -> str:
    """A column in words, with the capital letter of a label."""
    words = metric_words(column)
    return words[:1].upper() + words[1:]


def is_rate(column: str) -> bool:
    """Whether a column holds proportions."""
    return column.endswith(("win_rate", "accuracy")) or "_accuracy_" in column


def level_names(results: Results, path: str, sizes: Mapping[Any, float]) -> dict[Any, str]:
    """Short names of a swept path's levels: numbers of parameters or, for modules, the fields in which they differ."""
    levels = list(dict.fromkeys(results.table[path].dropna()))
    if counted(sizes):
        return {level: f"{compact(size)} parameters" for level, size in sizes.items()}
    texts = [str(level) for level in levels]
    split = [_split(text) for text in texts]
    kinds = {kind for kind, _ in split}
    shared = set.intersection(*(set(fields) for _, fields in split)) if len(split) > 1 else set()
    names = []
    for kind, fields in split:
        inner = ", ".join(field for field in fields if field not in shared)
        names.append((kind, inner))
    # A module with default values shows no fields.
    bare = len(kinds) == 1 and all(inner for _, inner in names)
    texts = [inner if bare else f"{kind}({inner})" if inner else kind for kind, inner in names]
    return dict(zip(levels, texts, strict=True))


def _split(text: str) -> tuple[str, list[str]]:
    """Kind and fields of a module as text: "Ipo(a=1,b=2)" gives "Ipo" and ["a=1", "b=2"]."""
    kind, bracket, rest = text.partition("(")
    if not bracket:
        return text, []
    fields, depth = [""], 0
    for letter in rest.removesuffix(")"):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            fields.append("")
        else:
            fields[-1] += letter
    return kind, [field.strip() for field in fields if field.strip()]

"""A view of results for TensorBoard: event files that are written again from the store at each call. The store remains
the only source.

``summary/`` holds at most 40 logs (TensorBoard opens blank with more): one for each arm and setting with the median and
quartiles over seeds, and one per study with the question, the verdicts, the effects of worlds, the figures, and the
charts that compare the best setting of each arm. On request ``runs/`` holds a limited choice of single runs, and
``hparams/`` the results of every run.
"""

import dataclasses
import itertools
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tensorboardX import summary as summaries

from sweeps.store.file_names import file_name, told_apart
from sweeps.tensorboard import events, hparams, worlds
from sweeps.tensorboard import log_names as names_of
from sweeps.tensorboard.events import LOWER, MIDDLE, UPPER, Table
from sweeps.tensorboard.log_names import Meaning
from sweeps.tensorboard.texts import Logged, answer_texts, texts_of
from testbed.config import unknown
from testbed.errors import InvalidInput
from testbed.metric_table import METRICS, QUANTILES

MAX_SUMMARIES = 39
MAX_RUNS = 500
#: Largest number of best runs, of worst runs and of diverged runs shown per arm.
_FEW = 3
_DIVERGED = "train/diverged"
#: The column of each tag; `_marked` adds the last column.
TAGS = {metric.tag: metric.name for metric in METRICS if metric.tag} | {_DIVERGED: "diverged"}
#: The columns of the golden reward's quantiles, in rising order.
_QUANTILES = [m.name for m in METRICS if m.name.startswith("golden_reward_quantile_")]
#: Columns in which arms are compared.
_COMPARED = ("win_rate", "golden_reward", "kl", "data_accuracy", "winner_logprob_change")


@dataclasses.dataclass(frozen=True)
class More:
    """Optional logs beside the summary.

    Attributes:
        runs: single runs: for each arm the best, the worst and the diverged, or those that match `where`.
        where: values of columns, as text.
        hparams: every run with its settings and results.
    """

    runs: bool = False
    where: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hparams: bool = False


# Numbers whose sum or square overflows are left out, like numbers that are not finite.
@np.errstate(over="ignore")
def write(studies: Sequence[Logged], directory: Path, more: More | None = None) -> Path:
    """Write event files under ``directory/tensorboard``, in place of the files of an earlier call.

    Returns the directory to give to TensorBoard. Raises InvalidInput for conditions that no run meets.
    """
    more = more or More()
    root = directory / "tensorboard"
    studies = [_marked(study) for study in studies]
    chosen = [_runs(study, more.where) for study in studies] if more.runs else []
    if more.where and not any(chosen):
        raise InvalidInput(_nothing(studies, more.where))
    events.clear(root)
    schema = _Schema(studies)
    # TensorBoard's limit of logs, minus the studies' logs and the single runs.
    left = MAX_SUMMARIES + 1 - len(studies) - min(sum(map(len, chosen)), MAX_SUMMARIES // 2)
    names: dict[str, Meaning] = {}
    for study, place in zip(studies, _places(studies), strict=True):
        names |= _summarise(study, place, root / "summary", schema, max(1, left // len(studies)))
    names_of.write_names(root / "summary", names)
    names = {}
    for runs, place in zip(chosen, _places(studies), strict=False):
        for kind, label, meaning, table in runs:
            path = _joined(place, kind, label)
            names[path] = meaning
            with events.log(root / "runs" / path) as add:
                events.scalars(add, _tagged(table.set_index("step").sort_index()))
    if names:
        names_of.write_names(root / "runs", names)
    if more.hparams:
        schema.write(root / "hparams", studies)
    # Given a directory with every run's results below it, TensorBoard would show all of them as curves of one point.
    if more.hparams and not more.runs:
        return root / "hparams"
    return root if more.runs else root / "summary"


def _places(studies: Sequence[Logged]) -> list[str]:
    """A directory for each study's logs; a single study needs no directory."""
    if len(studies) < 2:
        return [""]
    names = [_name(study) for study in studies]
    # Studies with the same name are distinguished by their path in the results directory.
    return told_apart([file_name(name) for name in names], list(enumerate(names)))


def _name(study: Logged) -> str:
    return str(study.header.get("study"))


def _joined(*parts: str) -> str:
    """A path of the parts that are not empty."""
    return "/".join(filter(None, parts))


def _marked(study: Logged) -> Logged:
    """The study with an added column: whether a row's run had diverged by then. A median over runs would hide this."""
    diverged = study.results["diverged_step"].between(0, study.results["step"])
    results = study.results.assign(diverged=diverged.astype(float))
    if "win_rate" not in results:  # settings and runs are chosen by win rate
        results = results.assign(win_rate=math.nan)
    return dataclasses.replace(study, results=results)


def _keys(study: Logged) -> list[str]:
    """Columns that distinguish settings: the arm, and every other column with several values."""
    candidates = dict.fromkeys(["task", *study.header.get("axes", {})])
    varied = [name for name in candidates if len(study.results[name].unique()) > 1]
    return ["arm", *varied]


def _tagged(table: Table) -> Table:
    """The metrics that a table has, under their tags."""
    known = {tag: column for tag, column in TAGS.items() if column in table}
    return table[list(known.values())].set_axis(list(known), axis=1)


def _summarise(
    study: Logged, place: str, root: Path, schema: "_Schema", most: int
) -> dict[str, Meaning]:
    """Write the logs of a study's settings and the study's own log; returns their contents, by their paths below
    ``root``. The best setting of each arm is written a second time, under tags for the comparison of arms: in a chart
    TensorBoard gives each log one colour, so two curves of one log could not be told apart."""
    keys = _keys(study)
    groups = dict(iter(study.results.groupby(keys, sort=False, dropna=False)))
    peaks = {key: _peak(group) for key, group in groups.items()}
    best = _best(keys, groups, peaks)
    # Computed from all settings, so that a setting's name does not depend on the chosen ones.
    labels = dict(zip(groups, names_of.labels(keys, list(groups), taken=("study",)), strict=True))
    names: dict[str, Meaning] = {}
    for key in _chosen(groups, peaks, best, most):
        path = _joined(place, labels[key])
        row = {"study": _name(study), **dict(zip(keys, key, strict=True))}
        names[path] = names_of.meaning(row, row)
        with events.log(root / path) as add:
            for part in _over_seeds(groups[key]):
                events.scalars(add, part)
                if key in best:
                    compared = _compared(place, best[key], part)
                    events.scalars(add, part[list(compared)].rename(columns=compared))
            _spread(add, groups[key])
            schema.setting(add, groups[key], study)
    shown = names_of.page(names)
    pages = (
        texts_of(study) | answer_texts(study.results) | ({"study/6_logs": shown} if shown else {})
    )
    with events.log(root / _joined(place, "study")) as add:
        for tag, words in pages.items():
            add(summaries.text(tag, words), 0)
        for figure in study.figures:
            add(events.image(figure), 0)
        for effect, count in worlds.effects(study.verdicts):
            add(effect, count)
        add(events.layout(_charts(study, place, sorted(set(best.values())))), 0)
        add(hparams.schema(schema.table, schema.settings), 0)
    return names


def _over_seeds(group: Table) -> Iterator[Table]:
    """Medians and quartiles at each step; for the column of diverged runs, the share."""
    table = _tagged(group).assign(step=group["step"])
    by_step = table.groupby("step")
    levels = by_step.quantile([LOWER, MIDDLE, UPPER]).unstack()
    middle = levels.xs(MIDDLE, axis=1, level=1)
    yield middle.assign(**{_DIVERGED: by_step[_DIVERGED].mean()})
    for level, which in ((LOWER, 0), (UPPER, 1)):
        band = levels.xs(level, axis=1, level=1).drop(columns=_DIVERGED)
        yield band.rename(columns=lambda tag, which=which: _band(tag)[which])


def _spread(add: events.Add, group: Table) -> None:
    """The golden reward's distribution over prompts at each step, from its quantiles, median over seeds."""
    if not set(_QUANTILES) <= set(group):
        return
    medians = group.groupby("step")[[*_QUANTILES, "prompts"]].median().dropna()
    for step, *limits, prompts in medians.itertuples():
        add(events.histogram("samples/golden_reward", QUANTILES, limits, prompts), step)


def _band(tag: str) -> tuple[str, str]:
    """The tags of the lower and the upper quartile."""
    return f"quartiles/{tag}/lower", f"quartiles/{tag}/upper"


def _best(
    keys: Sequence[str], groups: Mapping[Any, Table], peaks: Mapping[Any, float]
) -> dict[Any, str]:
    """For each arm on each task the setting whose median has the highest peak, with the task if there are several."""
    task = keys.index("task") if "task" in keys else None
    best: dict[tuple[str, str], Any] = {}
    for key in sorted(groups, key=lambda key: -peaks[key]):
        best.setdefault((key[0], "" if task is None else str(key[task])), key)
    return {key: where for (_, where), key in best.items()}


def _compared(place: str, task: str, tags: Iterable[str]) -> dict[str, str]:
    """The tags for the comparison of arms, by those of ``tags`` that are compared: the same name for all arms of a
    study."""
    wanted = {tag for tag, column in TAGS.items() if column in _COMPARED}
    wanted |= {edge for tag in wanted for edge in _band(tag)}
    prefix = "/".join(filter(None, ("side_by_side", place, task)))
    return {tag: f"{prefix}/{tag}" for tag in tags if tag in wanted}


def _charts(study: Logged, place: str, tasks: Sequence[str]) -> dict[str, dict[str, events.Margin]]:
    """The charts of CUSTOM SCALARS, with one series each: for a chart of several series TensorBoard prints a warning
    for every log that lacks one."""
    tags = [tag for tag in _tagged(study.results) if tag != _DIVERGED]
    bands = {tag: (tag, *_band(tag)) for tag in tags}
    charts: dict[str, dict[str, events.Margin]] = {}
    for task in tasks:
        where = " on ".join(filter(None, (place, task)))
        title = "Arms side by side, each at its best" + (f": {where}" if where else "")
        charts[title] = {}
        for tag in (tag for column in _COMPARED for tag in tags if TAGS[tag] == column):
            middle, lower, upper = _compared(place, task, bands[tag]).values()
            charts[title][tag] = middle, lower, upper
    charts["Settings: median and quartiles over seeds"] = bands
    return charts


class _Schema:
    """One schema for the runs of all studies, with every path that any of the studies sweeps."""

    def __init__(self, studies: Sequence[Logged]) -> None:
        tables = [
            hparams.outcomes(study.results, _keys(study)).assign(study=_name(study))
            for study in studies
        ]
        # By identity: two studies of one directory may have the same name.
        self._own = {id(study): table for study, table in zip(studies, tables, strict=True)}
        self.table: Table = pd.concat(tables, ignore_index=True)
        swept = dict.fromkeys(key for study in studies for key in _keys(study))
        self.settings = [*(["study"] if len(studies) > 1 else []), *swept]
        self.mixed = hparams.mixed(self.table, self.settings)

    def setting(self, add: events.Add, group: Table, study: Logged) -> None:
        """Write a session of a setting: the median of the results over its runs, and the share of diverged runs."""
        runs = self._own[id(study)]
        runs = runs[runs["run"].isin(group["run"]) & (runs["arm"] == group["arm"].iat[0])]
        row = next(iter(runs.to_dict("records")))
        row |= runs[hparams.tags(runs)].median().to_dict()
        row[hparams.DIVERGED] = float(runs[hparams.DIVERGED].mean())
        hparams.session(add, row, self.settings, self.mixed)

    def write(self, root: Path, studies: Sequence[Logged]) -> None:
        """Write a session of every run."""
        keys = [*self.settings, "seed"]
        with events.log(root) as add:
            add(hparams.schema(self.table, keys), 0)
        names: dict[str, Meaning] = {}
        for study, place in zip(studies, _places(studies), strict=True):
            settings = _keys(study)
            rows = self._own[id(study)].to_dict("records")
            for row, label in zip(rows, names_of.run_labels(settings, rows), strict=True):
                path = _joined(place, label)
                names[path] = names_of.meaning(row, ("study", *settings, "seed", "run"))
                with events.log(root / path) as add:
                    hparams.session(add, row, keys, self.mixed)
        names_of.write_names(root, names)


def _chosen(
    groups: Mapping[Any, Table], peaks: Mapping[Any, float], best: Container[Any], most: int
) -> list[Any]:
    """The settings to summarise: all if they are few, else for each arm the settings with the best peaks, first those
    that are the ``best`` on a task."""
    if len(groups) <= most:
        return list(groups)
    by_arm: dict[str, list[Any]] = {}
    for key in sorted(groups, key=lambda key: (key not in best, -peaks[key])):
        by_arm.setdefault(key[0], []).append(key)
    # Arms take turns, so that every arm has one setting before any arm has two.
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_arm.values()))
    return [key for key in turns if key is not None][:most]


def _peak(group: Table) -> float:
    """The highest median win rate of a setting; minus infinity if there is none."""
    medians = group.groupby("step")["win_rate"].median().to_numpy(float)
    return float(np.max(medians, initial=-math.inf, where=np.isfinite(medians)))


def _runs(study: Logged, where: Mapping[str, str]) -> list[tuple[str, str, Meaning, Table]]:
    """Single runs, each with the reason why it is shown, a label, and the label's meaning: the runs that match
    ``where``, or for each arm the best, the worst and the diverged."""
    keys = _keys(study)
    if not set(where) <= set(study.results):
        return []
    table = hparams.outcomes(study.results, [*keys, *where])
    named = table.assign(study=_name(study)).to_dict("records")
    labels = dict(zip(table.index, names_of.run_labels(keys, named), strict=True))
    if where:
        for path, wanted in where.items():
            table = table[table[path].map(lambda value, wanted=wanted: _is(value, wanted))]
        picked = {"matching": table.sort_values("seed", kind="stable").head(MAX_RUNS)}
    else:
        # Half of the logs, but at least one of each kind for each arm.
        few = max(1, min(_FEW, MAX_SUMMARIES // 2 // (3 * table["arm"].nunique())))
        ordered = table.sort_values("outcome/peak_win_rate", ascending=False, kind="stable")
        lost = ordered[hparams.DIVERGED] == 1
        ranked = ordered[~lost].dropna(subset="outcome/peak_win_rate").groupby("arm", sort=False)
        best = ranked.head(few)
        worst = ranked.tail(few)
        picked = {
            "best": best,
            "worst": worst[~worst.index.isin(best.index)],
            "diverged": ordered[lost].groupby("arm", sort=False).head(few),
        }
    groups = study.results.groupby(["arm", "run"], sort=False)
    return [
        (
            kind,
            labels[index],
            names_of.meaning(row, ("study", *keys, "seed", "run")),
            groups.get_group((row["arm"], row["run"])),
        )
        for kind, rows in picked.items()
        for index, row in rows.assign(study=_name(study)).to_dict("index").items()
    ]


def _is(value: Any, wanted: str) -> bool:
    """Whether a value equals the requested one, as text or as a number."""
    try:
        return float(value) == float(wanted)
    except (TypeError, ValueError):
        return str(value).casefold() == wanted.casefold()


def _nothing(studies: Sequence[Logged], where: Mapping[str, str]) -> str:
    """Why no run meets the conditions: the first condition that no run meets, or that no run meets all of them."""
    for path, wanted in where.items():
        columns = [study.results[path] for study in studies if path in study.results]
        if not columns:
            known = dict.fromkeys(key for study in studies for key in [*_keys(study), "seed"])
            return str(unknown("column", path, known))
        values = pd.concat(columns).dropna().unique().tolist()
        if not any(_is(value, wanted) for value in values):
            named = ", ".join(map(names_of.value_text, values[:20]))
            return f"no run has {path}={wanted}: its values are {named}"
    return f"no run has all of {', '.join(f'{path}={value}' for path, value in where.items())}"

"""Choose the figures of a study, by the measured columns and by the claims."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from analysis.curves import classic
from analysis.figures import curves, effects, inputs, learning, multiverse, sizes, style
from analysis.figures.inputs import FigureInputs
from analysis.figures.style import FEW_PANELS, CaptionedFigure
from analysis.load import Table
from analysis.worlds.multiverse import specifications
from testbed.metric_table import FACTS, declared

Spoken = Sequence[Mapping[str, Any]]
"""All estimands of a study's claims as data."""
MANY_WORLDS = 4
"""Fewest worlds of a study whose multiverse is drawn."""
OWN_FIGURES = (
    "win_rate",
    "best_win_rate",
    "best_golden_reward",
    "policy_checksum",
    *learning.LOGPROBS,
)
"""Metrics without a figure of last values: another figure shows them, or they are not amounts."""


def captioned_figures(figure_inputs: FigureInputs) -> list[CaptionedFigure]:
    """All figures that have data to show; figures that show a claim's quantity come first."""
    spoken = inputs.estimands(figure_inputs.results)
    makers = (
        _frontier, _peaks, _relative, _peak_place, _along, _windows,
        _scatters, _logprob, _ends, _forest, _each_level, _worlds, _envelope, _multiverse,
    )  # fmt: skip
    shown = [captioned for maker in makers for captioned in maker(figure_inputs, spoken)]
    return sorted(shown, key=lambda captioned: not captioned.central)


def main_figure(figure_inputs: FigureInputs) -> CaptionedFigure | None:
    """The figure with which the pages of a study begin, if it shows curves over KL."""
    return next(_frontier(figure_inputs, ()), None)


def early(figure_inputs: FigureInputs) -> list[CaptionedFigure]:
    """Figures that need no model and no verdict, so that they can be drawn while runs go on."""
    spoken = inputs.estimands(figure_inputs.results)
    return [*_envelope(figure_inputs, spoken), *_scatters(figure_inputs, spoken)]


def _frontier(figure_inputs: FigureInputs, spoken: Spoken) -> Iterator[CaptionedFigure]:
    """A figure for each outcome over KL; the first is the study's main figure."""
    for index, outcome in enumerate(figure_inputs.outcomes):
        panels = figure_inputs.curves[outcome.metric]
        if not panels:
            continue
        words = inputs.metric_words(outcome.metric)
        few = not figure_inputs.several and len(panels) <= FEW_PANELS
        caption = "Thick lines are means over worlds"
        caption += ", bands their 90% intervals, thin lines worlds." if few else "."
        caption += " Each world’s curve is smoothed over its own checkpoints; a mean ends where half of the worlds do."
        if few and any(one.differences for one in panels.values()):
            caption += (
                " Below: differences within worlds. What makes a world easy for one arm makes it easy for both, so "
                "bands may overlap while the difference is clear."
            )
            caption += " Grey: the KL at which claims compare." if outcome.windows else ""
        zero = {"win_rate": f" Dotted: a draw with {figure_inputs.opponent}."}
        yield CaptionedFigure(
            "frontier" if not index else f"frontier-{outcome.metric}",
            "How far does each arm get, and at what distance?"
            if not index
            else f"The same in {words}",
            f"{inputs.capital(outcome.metric)} over the square root of KL from SFT, by arm and world.",
            caption + zero.get(outcome.metric, ""),
            partial(curves.frontier, panels, figure_inputs.arms, outcome),
            curves.frontier_table(panels, outcome.metric),
            central=not index,
        )


def _peaks(figure_inputs: FigureInputs, spoken: Spoken) -> Iterator[CaptionedFigure]:
    if figure_inputs.results.strata or len(figure_inputs.arms) < 3 or not figure_inputs.outcomes:
        return
    outcome = figure_inputs.outcomes[0]
    table = effects.peaks_table(figure_inputs.panels, figure_inputs.arms, outcome.metric)
    if table.empty:
        return
    yield CaptionedFigure(
        "peaks",
        "What does each arm reach?",
        f"The best {inputs.metric_words(outcome.metric)} of every arm and the KL at its peak, with 90% intervals.",
        "Left: the best of each arm’s smoothed curves over its settings, as a gain over SFT. Right: where its typical "
        "curve is highest. Both are pooled over worlds, with 90% intervals; hollow marks: still rising at the end of "
        "the observed range, so the peak itself was not seen.",
        partial(
            effects.peaks, table, figure_inputs.arms, outcome.label, inputs.is_rate(outcome.metric)
        ),
        table,
    )


def _windows(figure_inputs: FigureInputs, spoken: Spoken) -> Iterator[CaptionedFigure]:
    table = learning.window_table(inputs.finished(figure_inputs.results))
    if not table.empty:
        yield CaptionedFigure(
            "windows",
            "Who can tell good from bad on the online stream?",
            "Classification accuracy on ten windows of the online stream, of proxy and policies.",
            "Accuracy against the golden reward on pairs of the recorded online run, window by window. Policies are "
            "those at the end of training; means over settings and seeds, with 90% t intervals over seeds, or the "
            "seeds themselves if they are two.",
            partial(learning.windows, table, figure_inputs.arms),
            table,
        )


def _scatters(figure_inputs: FigureInputs, spoken: Spoken) -> Iterator[CaptionedFigure]:
    """Accuracy over golden reward, and each pair of columns that a claim correlates or regresses."""
    wanted: dict[tuple[str, str], bool] = {}
    for one in spoken:
        if one["kind"] == "RankCorrelation":
            x, y = one["x"], one["y"]
            wanted[(y, x) if x == "data_accuracy" else (x, y)] = True
        elif one["kind"] == "Slope":
            wanted.setdefault((one["on"], one["metric"]), False)
    classification = (inputs.DECIDES, "data_accuracy")
    central = {*wanted}
    if "data_accuracy" in inputs.columns_used(spoken):
        central.add(classification)
    for columns in dict.fromkeys([*wanted, classification]):
        correlated = wanted.get(columns, False)
        rows = _points(figure_inputs, columns, correlated)
        if rows.empty or rows[columns[0]].nunique() < 2:
            continue
        x, y = map(inputs.metric_words, columns)
        accuracy = columns == classification
        grouped = accuracy or correlated
        caption = f"{'Small marks' if grouped else 'Marks'} are "
        caption += "all trained checkpoints" if correlated else "last checkpoints of all runs"
        caption += "; runs that diverged are left out."
        caption += " Large marks are means of each seed." if grouped else ""
        if accuracy:
            caption += (
                " Accuracy is the share of D_golden’s pairs that the policy, scored against SFT, orders as the golden "
                "reward does."
            )
        labels = [inputs.capital(name) for name in columns]
        rates = [inputs.is_rate(name) for name in columns]
        yield CaptionedFigure(
            "classification" if accuracy else f"scatter-{columns[1]}-{columns[0]}",
            "Does telling good from bad make a good writer?"
            if accuracy
            else f"How does {y} depend on {x}?",
            f"{y} over {x}, by arm.",
            caption,
            partial(
                learning.scatter, rows, figure_inputs.arms, columns, labels, rates, grouped=grouped
            ),
            rows,
            columns in central,
        )


def _points(figure_inputs: FigureInputs, columns: tuple[str, str], every: bool) -> Table:
    """Rows of a scatter, of runs that did not diverge: every trained checkpoint, or each run's last one."""
    table = figure_inputs.results.table
    trained = table[(table["evaluation"] > 0) & (table["diverged_step"] < 0)]
    rows = trained if every else inputs.finished(figure_inputs.results)
    names = ["task", "arm", "seed", "run", "step", *columns]
    if any(name not in rows for name in columns):
        return rows.iloc[:0]
    return rows.loc[rows[list(columns)].notna().all(axis=1), names]


def _logprob(figure_inputs: FigureInputs, spoken: Spoken) -> Iterator[CaptionedFigure]:
    table = figure_inputs.results.on_axes
    metrics = [name for name in learning.LOGPROBS if name in table and table[name].notna().any()]
    averaged = learning.training_curves(table, metrics) if metrics else table.iloc[:0]
    if averaged.empty:
        return
    seeds = (
        ". Thin lines are seeds, the thick line is their mean, the band a 90% t interval over seeds, if they are three "
        "or more."
    )
    besides = len(table) < len(figure_inputs.results.table)
    yield CaptionedFigure(
        "logprob",
        "What happens to the answers in the data?",
        "Change of the log-probability of winners and losers over training, by arm.",
        "Mean log-probability of whole responses relative to SFT, averaged over settings"
        + (", without those that single arms run besides" if besides else "")
        + ("." if figure_inputs.several else seeds),
        partial(learning.logprob, averaged, figure_inputs.arms),
        averaged,
        bool(inputs.columns_used(spoken) & set(learning.LOGPROBS)),
    )


def _ends(figure_inputs: FigureInputs, spoken: Spoken) -> Iterator[CaptionedFigure]:
    """Last values of the metrics that claims compare, unless another figure shows them."""
    last = inputs.finished(figure_inputs.results)
    compared = ("PairedDifference", "Change", "Level")
    used = [one["metric"] for one in spoken if one["kind"] in compared and one["metric"] in last]
    metrics = [name for name in dict.fromkeys(used) if name not in OWN_FIGURES]
    table = learning.ends_table(last, metrics)
    if table.empty:
        return
    lines = {one["metric"]: float(one["against"]) for one in spoken if one["kind"] == "Level"}
    words = {name: inputs.capital(name) for name in metrics}
    yield CaptionedFigure(
        "ends",
        "Where do the arms end?",
        "Values at the end of training of the metrics that claims compare, by arm.",
        "Last checkpoints, averaged over settings: a small mark a seed, a large one their mean. A dotted line marks "
        "the value that a claim compares with.",
        partial(learning.ends, table, figure_inputs.arms, words, lines),
        table,
    )


def _forest(figure_inputs: FigureInputs, spoken: Spoken) -> Iterator[CaptionedFigure]:
    rows = effects.effects(figure_inputs.entries)
    if rows:
        yield CaptionedFigure(
            "effects",
            "How large are the effects?",
            "Effects of all claims with intervals and the region of practical equivalence.",
            "Posterior medians and the intervals that decide. Grey is what the rule calls practically nothing, or the "
            "bound that it sets. What an effect must be is in each claim’s rule: mostly, that the whole interval lies "
            "right of the grey region. A claim with several tests needs all of them. Arrowheads mark intervals that "
            "go on beyond the panel.",
            partial(effects.forest, rows),
            effects.effects_table(rows),
        )


def _worlds(figure_inputs: FigureInputs, spoken: Spoken) -> Iterator[CaptionedFigure]:
    rows = effects.deciding_worlds(figure_inputs.entries)
    if rows:
        yield CaptionedFigure(
            "worlds",
            "How do the worlds differ?",
            "The deciding effect of every claim in every world, with 90% bars, and the pooled interval.",
            "A line is a world: its own estimate, with a 90% bar from its standard error. The diamond is the pooled "
            "effect, as wide as its interval. Grey: practically nothing. Of several tests, the deciding one is shown.",
            partial(effects.worlds, rows),
            effects.worlds_table(rows),
            central=False,
        )


def _envelope(figure_inputs: FigureInputs, spoken: Spoken) -> Iterator[CaptionedFigure]:
    arms, points = figure_inputs.arms, figure_inputs.points
    parts = [classic.envelope(rows, arms).assign(panel=title) for title, rows in points.items()]
    envelopes = style.joined(parts)
    if not envelopes.empty:
        yield CaptionedFigure(
            "envelope",
            "The same points as the paper draws them",
            "All checkpoints as a scatter of win rate over KL with each arm’s upper envelope.",
            "All checkpoints of all runs and settings; lines are upper envelopes: the best win rate of an arm’s "
            "checkpoints in bins of KL, the best so far carried on. No model, no interval: an envelope rises with the "
            "number of runs, so compare arms of equally many.",
            partial(curves.envelope, points, envelopes, arms, figure_inputs.label("win_rate")),
            envelopes,
            central=False,
        )


def _relative(figure_inputs: FigureInputs, spoken: Spoken) -> Iterator[CaptionedFigure]:
    """Win rates over the levels of each stratum, relative to the reference arm that claims name."""
    for path, places in figure_inputs.sizes.items():
        tops = [one["top"] for one in _along_path(spoken, path) if one["kind"] == "RelativeBest"]
        top = tops[0] if tops else figure_inputs.arms[0]
        table = sizes.relative_table(figure_inputs.results.table, path, top, places)
        if table.empty:
            continue
        column = "relative" if tops else "quantile"
        words = f"90% quantile{f', {top} = 100%' if tops else ' of win rates'}"
        shown = table, figure_inputs.arms, column
        if inputs.places_named(places):
            names = inputs.level_names(figure_inputs.results, path, places)
            draw = partial(sizes.by_level, *shown, words, [names[at] for at in places])
        else:
            labels = inputs.axis_words(path, figure_inputs), words
            draw = partial(sizes.along, *shown, labels, percents=True)
        yield CaptionedFigure(
            f"levels-{path}",
            f"How does the comparison change with {inputs.level_words(path, figure_inputs)}?",
            f"High quantile of the win rates at every level of {path}, by arm.",
            "The 90% quantile of the win rates of an arm’s checkpoints"
            + (f", relative to that of {top}" if tops else "")
            + ". Small marks are seeds, large ones their mean; a paper-style estimate, without a model.",
            draw,
            table,
        )


def _along_path(spoken: Spoken, path: str) -> list[Mapping[str, Any]]:
    """Estimands that claims measure at every level of a path."""
    nested = [one.get("of") or one.get("estimand") for one in spoken if one.get("path") == path]
    return [one for one in nested if one is not None]


def _peak_place(figure_inputs: FigureInputs, spoken: Spoken) -> Iterator[CaptionedFigure]:
    """KL at the peaks over the levels of each path along which a claim follows peaks."""
    for path, places in figure_inputs.sizes.items():
        asked = [one for one in _along_path(spoken, path) if one["kind"] == "PeakPlace"]
        levels = {title: at[1].get(path) for title, at in figure_inputs.where.items()}
        if (
            not asked
            or inputs.places_named(places)
            or any(x not in places for x in levels.values())
        ):
            continue
        metric = asked[0]["outcome"]
        peaks = effects.peaks_table(figure_inputs.panels, figure_inputs.arms, metric)
        if peaks.empty:
            continue
        at = peaks["panel"].map(levels)
        tasks = peaks["panel"].map({title: of[0] for title, of in figure_inputs.where.items()})
        table = peaks.assign(task=tasks, level=at, size=at.map(places))
        words = inputs.axis_words(path, figure_inputs)
        yield CaptionedFigure(
            f"places-{path}",
            f"Does the peak’s KL change with {inputs.level_words(path, figure_inputs)}?",
            f"KL at the peak of every arm at every level of {path}, with intervals.",
            f"KL at the peak of {inputs.metric_words(metric)}, pooled over worlds, with 90% intervals; square-root "
            "scale. Hollow marks: still rising at the end of the observed range.",
            partial(sizes.peak_places, table, figure_inputs.arms, words),
            table,
        )


def _along(figure_inputs: FigureInputs, spoken: Spoken) -> Iterator[CaptionedFigure]:
    """Distance to the exact optimum over every swept or measured number that varies."""
    metric = "optimum_distance"
    last = inputs.finished(figure_inputs.results)
    if metric not in last or last[metric].isna().all():
        return
    last = last[last[metric].notna()]
    facts = [f"{FACTS}data_support_mass", f"{FACTS}coverage"]
    for path in dict.fromkeys([*inputs.numeric_axes(figure_inputs, last), *facts]):
        if path not in last or last[path].nunique() < 2:
            continue
        groups = last.groupby(["task", "arm", "seed", path])[metric].mean().reset_index()
        table = groups.rename(columns={path: "size"}).assign(path=path)
        words = (
            inputs.axis_words(path, figure_inputs),
            f"{inputs.capital(metric)} ({declared(metric).unit})",
        )
        scattered = path.startswith(FACTS)
        shown = table, figure_inputs.arms
        draw = (
            partial(learning.scatter, *shown, ("size", metric), words, (False, False))
            if scattered
            else partial(sizes.along, *shown, metric, words)
        )
        yield CaptionedFigure(
            f"distance-{path}",
            f"How near to the exact optimum, by {inputs.path_words(path)}?",
            f"Distance of the trained policies to the exact optimum over {path}, by arm.",
            "Total variation between the trained policy and the optimum that theory gives, mean over prompts, at the "
            "last checkpoint, averaged over the other settings. Small marks "
            f"{'are settings and seeds, large ones' if scattered else 'are seeds, large ones'} means.",
            draw,
            table,
            not scattered,
        )


def _each_level(figure_inputs: FigureInputs, spoken: Spoken) -> Iterator[CaptionedFigure]:
    """One figure of effects by level, for claims that test every level of a path."""
    rows = effects.level_effects(figure_inputs.entries)
    if rows:
        yield CaptionedFigure(
            "every-level",
            "How large are the effects at each level?",
            "Effects at each level, with 90% intervals and the region of practical equivalence.",
            "What claims say of every level, level by level: posterior medians and 90% intervals. The verdict rests on "
            "the smallest.",
            partial(effects.forest, rows),
            effects.effects_table(rows),
        )


def _multiverse(figure_inputs: FigureInputs, spoken: Spoken) -> Iterator[CaptionedFigure]:
    """The effects of the compared arms under every reasonable choice of the analysis."""
    results = figure_inputs.results
    if results.table["seed"].nunique() < MANY_WORLDS or not figure_inputs.panels:
        return
    pool = next(iter(figure_inputs.panels.values())).study
    table = specifications(results, pool.hyperparameters, pool.curve)
    if not table.empty and table["estimate"].notna().any():
        yield dataclasses.replace(multiverse.captioned(table), central=False)

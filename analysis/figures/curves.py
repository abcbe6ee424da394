"""Figures of an outcome over KL: the curves of a study's arms, world by world, and the same checkpoints in the paper's
style."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.figures.style import FEW_ARMS, FEW_PANELS, INK, MANY_POINTS, RULE, look
from analysis.html import scale_of, unit_name
from analysis.load import Table
from analysis.verdicts.evidence import TaskEvidence
from analysis.worlds.typical_curve import TypicalCurve, difference_curve, typical_curve
from sweeps.estimands import Unanswerable
from testbed.metric_table import declared

Pair = tuple[str, str]
_THIN = 4
"""Of the points of a band and of a world's own curve, every fourth is drawn, to keep pages small."""
_FEW_WORLDS = 5
"""The curves of more worlds than this are fainter."""


class Outcome(NamedTuple):
    """An outcome over KL: the metric, its label, the pairs of arms whose difference is shown, and the windows of KL in
    nats in which claims decide."""

    metric: str
    label: str
    pairs: Sequence[Pair]
    windows: Sequence[tuple[float, float]]

    @property
    def unit(self) -> str:
        return declared(self.metric).unit


class Panel(NamedTuple):
    """The curves of one task, or of a task at a level of a stratum: of arms, and of differences of two arms.

    ``lacking`` are the reasons why arms or pairs have none.
    """

    curves: Mapping[str, TypicalCurve]
    differences: Mapping[Pair, TypicalCurve]
    lacking: Sequence[str]


Panels = Mapping[str, Panel]
"""Panels by their titles."""


def panel(at: TaskEvidence, arms: Sequence[str], outcome: Outcome) -> Panel:
    """The curves of one panel; fits those that no verdict has needed."""
    curves, differences, lacking = {}, {}, {}
    for arm in arms:
        try:
            curves[arm] = typical_curve(at.curves(arm, outcome.metric), at.starts(outcome.metric))
        except Unanswerable as problem:
            lacking[str(problem)] = None
    for first, second in outcome.pairs:
        if first in curves and second in curves:
            both = (at.curves(arm, outcome.metric) for arm in (first, second))
            try:
                differences[first, second] = difference_curve(*both)
            except Unanswerable as problem:
                lacking[f"{first} and {second}: {problem}"] = None
    return Panel(curves, differences, list(lacking))


def frontier_table(panels: Panels, metric: str) -> Table:
    """The numbers of `frontier`; in the column "kind", the mean over worlds, or one world."""
    parts = []
    for title, shown in panels.items():
        lines = {(arm, ""): one for arm, one in shown.curves.items()} | dict(shown.differences)
        for (first, second), one in lines.items():
            named = {"panel": title, "arm": first, "less": second}
            kl = one.d[::_THIN] ** 2
            band = {"low": one.low[::_THIN], "high": one.high[::_THIN]}
            mean = style.frame({"kl": kl, metric: one.mean[::_THIN], **band})
            parts.append(mean.assign(kind="mean", **named))
            worlds = one.worlds[:, ::_THIN]
            seeds = np.repeat(one.seeds, worlds.shape[1])
            columns = {"kl": np.tile(kl, len(worlds)), metric: worlds.ravel(), "seed": seeds}
            parts.append(style.frame(columns).dropna().assign(kind="world", **named))
    return style.joined(parts)


def frontier(panels: Panels, arms: Sequence[str], outcome: Outcome, width: float) -> Figure:
    """An outcome over sqrt(KL): each arm's mean over worlds, its 90% band and the worlds.

    Below, the figure shows the differences of those pairs of arms that claims compare: worlds that are good for one arm
    are good for the other, so bands may overlap although the difference is clear. A figure of many arms or panels has
    a legend instead of labels, and neither bands nor worlds; the worlds are shown of the arms that claims compare.
    """
    shown = [arm for arm in arms if any(arm in one.curves for one in panels.values())]
    small = len(panels) > FEW_PANELS
    columns = style.columns_for(len(panels), width)
    blocks = -(-len(panels) // columns)
    below = not small and any(one.differences for one in panels.values())
    ratios = [2.6, 1.4] if below else [1.0]
    height = 2.0 if small else 5.0 if columns == 1 else 4.4
    figure = Figure(
        figsize=(width, height * blocks * (1 if small or below else 0.74)), layout="constrained"
    )
    grid = figure.subplots(
        blocks * len(ratios), columns, squeeze=False, height_ratios=ratios * blocks
    )
    for axes in grid.ravel():
        axes.set_visible(False)
    labelled = len(shown) <= FEW_ARMS and not small
    rows: list[list[Axes]] = [[] for _ in ratios]
    for index, (title, one) in enumerate(panels.items()):
        block, column = divmod(index, columns)
        own = grid[block * len(ratios) : (block + 1) * len(ratios), column]
        _curves_panel(own[0], one, arms, outcome, labelled)
        style.title(own[0], title)
        if len(own) > 1 and one.differences:
            _differences_panel(own[1], one, arms, outcome, own[0].get_xlim()[1])
            own[0].set_xlabel("")
            own[0].tick_params(labelbottom=False)
            rows[1].append(own[1])
        rows[0].append(own[0])
        for axes in own if column else ():
            axes.set_ylabel("")
    if small:
        style.only_outer(rows[0], columns)
    else:
        for axes_row in rows:
            style.share_limits(axes_row)
    if labelled:
        for axes, one in zip(rows[0], panels.values(), strict=True):
            _name_curves(axes, one, arms)
    else:
        style.legend(figure, arms, shown, width)
    return figure


def _curves_panel(
    axes: Axes, shown: Panel, arms: Sequence[str], outcome: Outcome, labelled: bool
) -> None:
    axes.set_visible(True)
    compared = [arm for pair in outcome.pairs for arm in pair] or list(shown.curves)
    for arm, one in shown.curves.items():
        colour, _, dashes = look(arms, arm)
        _line(axes, one, colour, dashes, labelled, labelled and arm in compared)
    style.kl_axis(axes, 1.04 * max((one.d[-1] for one in shown.curves.values()), default=1.0))
    _limit(axes, shown.curves.values(), outcome.metric, labelled)
    axes.set_ylabel(outcome.label)


def _line(
    axes: Axes, one: TypicalCurve, colour: str, dashes: Any, band: bool, worlds: bool
) -> None:
    """A mean over worlds, with its ``band`` and the ``worlds`` if wanted."""
    if worlds:
        faint = 0.4 if len(one.seeds) <= _FEW_WORLDS else 0.22
        for values in one.worlds:
            axes.plot(one.d[::_THIN], values[::_THIN], color=colour, lw=0.6, alpha=faint, zorder=2)
    if band:
        d, low, high = (each[::_THIN] for each in (one.d, one.low, one.high))
        axes.fill_between(d, low, high, color=colour, alpha=0.15, lw=0, zorder=3)
    axes.plot(one.d, one.mean, color=colour, lw=2.2, ls=dashes, dash_capstyle="butt",
              solid_capstyle="round", zorder=4)  # fmt: skip


def _limit(axes: Axes, curves: Any, metric: str, worlds: bool) -> None:
    """The axis of an outcome: it covers the means and, if they are drawn, the worlds, not the band, which is very wide
    for few worlds; with a line at SFT's reward, at a draw, or at no difference."""
    drawn = [one.worlds if worlds else one.mean for one in curves]
    values = np.concatenate([np.ravel(one) for one in drawn]) if drawn else np.zeros(1)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.06 * (high - low) or 0.05
    axes.set_ylim(low - margin, high + margin)
    at = 0.5 if metric == "win_rate" else 0.0
    if low - margin < at < high + margin:
        style.reference(axes, at)
    if scale_of(declared(metric).unit) != 1:
        style.percent_axis(axes, "y")


def _differences_panel(
    axes: Axes, shown: Panel, arms: Sequence[str], outcome: Outcome, limit: float
) -> None:
    """Differences of arms' curves, and the windows in which claims decide."""
    axes.set_visible(True)
    pairs = list(shown.differences)
    single = len(pairs) == 1
    for low, high in outcome.windows:
        axes.axvspan(low**0.5, min(high**0.5, limit), color=RULE, alpha=0.5, lw=0, zorder=0)
    for (_, second), one in shown.differences.items():
        colour, _, dashes = look(arms, second)
        colour, dashes = (INK, "-") if single else (colour, dashes)
        _line(axes, one, colour, dashes, single, single)
    _limit(axes, shown.differences.values(), "", single)
    scale, unit = scale_of(outcome.unit), unit_name(outcome.unit)
    short = {"SFT standard deviations": "SFT s.d.", "percentage points": "points"}.get(unit, unit)
    firsts = {first for first, _ in pairs}
    names = f"{pairs[0][0]} −\n{pairs[0][1]}" if single else "difference"
    if len(firsts) == 1 and not single:
        names = f"{pairs[0][0]} −\nothers"
    axes.set_ylabel(f"{names}\n{short}" if len(names) > 14 else f"{names}, {short}")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: f"{scale * value:+.2g}" if value else "0")
    style.kl_axis(axes, limit)


def _name_curves(axes: Axes, shown: Panel, arms: Sequence[str]) -> None:
    """Writes arms' names at the ends of their curves, moved apart where they would touch."""
    line = 0.21 / style.inches(axes)[1] * np.ptp(axes.get_ylim())
    ends = {arm: (float(one.d[-1]), float(one.mean[-1])) for arm, one in shown.curves.items()}
    names = sorted(ends, key=lambda arm: ends[arm][1])
    places = style.spread([ends[arm][1] + 0.8 * line for arm in names], line)
    for arm, y in zip(names, places, strict=True):
        x = ends[arm][0]
        share = x / axes.get_xlim()[1]
        side = "left" if share < 0.25 else "right" if share > 0.75 else "center"
        axes.annotate(arm, (x, y), ha=side, va="center", color=look(arms, arm).colour,
                      weight="bold", path_effects=style.halo(), zorder=7)  # fmt: skip


def envelope(
    points: Mapping[str, Table], envelopes: Table, arms: Sequence[str], label: str, width: float
) -> Figure:
    """The paper's style: all checkpoints of all runs, and each arm's upper envelope.

    `points` are checkpoints by panel, with KL and win rate; `envelopes` has the columns panel, arm, kl and win_rate,
    one row per bin; `label` is that of the axis.
    """
    small = len(points) > FEW_PANELS
    columns = style.columns_for(len(points), width)
    figure, panels = style.grid(len(points), width, 2.0 if small else 3.3)
    shown = style.present(envelopes, arms)
    for index, (axes, (title, rows)) in enumerate(zip(panels, points.items(), strict=True)):
        for arm in shown:
            _points(axes, rows, arm, arms)
            upper = envelopes[(envelopes["panel"] == title) & (envelopes["arm"] == arm)]
            upper = upper.sort_values("kl")
            colour, marker, dashes = look(arms, arm)
            axes.plot(np.sqrt(upper["kl"].to_numpy(float)), upper["win_rate"], marker=marker, ls=dashes,
                      color=colour, lw=1.4, ms=2.6, mew=0, zorder=4)  # fmt: skip
        style.kl_axis(axes, 1.04 * float(np.sqrt(rows["kl"].max())))
        rates = rows["win_rate"]
        axes.set_ylim(max(0.0, rates.min() - 0.04), min(1.0, rates.max() + 0.04))
        if axes.get_ylim()[1] > 0.5:
            style.reference(axes, 0.5)
        axes.set_ylabel("" if index % columns else label if not small else "Win rate")
        style.percent_axis(axes, "y")
        style.title(axes, title)
    if small:
        style.only_outer(panels, columns)
    style.legend(figure, arms, shown, width)
    return figure


def _points(axes: Axes, trained: Table, arm: str, arms: Sequence[str]) -> None:
    """Checkpoints of an arm, faint."""
    rows = trained[trained["arm"] == arm]
    colour, marker, _ = look(arms, arm)
    many = len(trained) > MANY_POINTS
    axes.plot(
        np.sqrt(rows["kl"].clip(lower=0.0)), rows["win_rate"], marker, ms=2.7, mew=0,
        color=colour, alpha=0.15 if many else 0.3, rasterized=many, zorder=1,
    )  # fmt: skip

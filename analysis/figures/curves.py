"""Figures of win rate over KL: the fitted curves of a study, and the same checkpoints in the paper's style."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.curves.frontier import Frontier
from analysis.figures import style
from analysis.figures.style import FEW_ARMS, FEW_PANELS, INK, MANY_POINTS, PAPER, SOFT, look
from analysis.load import Table
from analysis.verdicts.evidence import describe_peak
from sweeps.estimands import Unanswerable

Fits = Mapping[str, Frontier]
"""Fitted curves by the title of the panel: a task, or a task at a level of a stratum."""
Pair = tuple[str, str]

_CURVE_POINTS = 161


class Curve(NamedTuple):
    """A typical seed's curve: d = sqrt(KL), and at each d the median and the ends of the 90% interval."""

    d: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray


def curve(fit: Frontier, arm: str) -> Curve:
    """An arm's curve over the range in which it was observed."""
    span = fit.spans[arm]
    d = np.linspace(span.start, span.end, _CURVE_POINTS)
    return Curve(d, *np.quantile(fit.win_rate(arm, d), [0.05, 0.5, 0.95], axis=0))


def frontier_table(fits: Fits) -> Table:
    """The points and the curves of `frontier`; the column "kind" distinguishes them."""
    measured = ["arm", "seed", "run", "step", "kl", "win_rate"]
    parts = []
    for title, fit in fits.items():
        named = {"kind": "checkpoint", "panel": title}
        parts.append(fit.cleaned.trained[measured].assign(**named))
        for arm in fit.arms:
            d, low, middle, high = curve(fit, arm)
            numbers = {"kl": d**2, "win_rate": middle, "low": low, "high": high}
            parts.append(style.frame(numbers).assign(kind="curve", panel=title, arm=arm))
    return pd.concat(parts)[["kind", "panel", *measured, "low", "high"]]


def frontier(fits: Fits, arms: Sequence[str], pairs: Sequence[Pair], width: float) -> Figure:
    """Win rate over sqrt(KL): every checkpoint, the typical seed's curve, its band and peak.

    Below, the figure shows the differences of those `pairs` of arms that claims compare at equal KL: arms share most of
    the uncertainty of a single curve, so bands may overlap although the difference is clear. A figure of many arms has
    a legend instead of labels, and no bands.
    """
    shown = [arm for arm in arms if any(arm in fit.arms for fit in fits.values())]
    small = len(fits) > FEW_PANELS
    columns = style.columns_for(len(fits), width)
    blocks = -(-len(fits) // columns)
    ratios = [3.3, 1.15] if pairs and not small else [1.0]
    height = 2.0 if small else 5.0 if columns == 1 else 4.4
    figure = Figure(
        figsize=(width, height * blocks * (0.74 if not small and len(ratios) == 1 else 1)),
        layout="constrained",
    )
    grid = figure.subplots(
        blocks * len(ratios), columns, squeeze=False, height_ratios=ratios * blocks
    )
    for axes in grid.ravel():
        axes.set_visible(False)
    labelled = len(shown) <= FEW_ARMS and not small
    uppers = []
    for index, (title, fit) in enumerate(fits.items()):
        block, column = divmod(index, columns)
        panels = grid[block * len(ratios) : (block + 1) * len(ratios), column]
        _frontier_panel(panels[0], fit, arms, labelled)
        style.title(panels[0], title)
        if column:
            panels[0].set_ylabel("")
        if len(panels) > 1 and _gap_panel(panels[1], fit, pairs, arms, panels[0].get_xlim()[1]):
            panels[0].set_xlabel("")
            panels[0].tick_params(labelbottom=False)
        uppers.append(panels[0])
    if small:
        style.only_outer(uppers, columns)
    if not labelled:
        style.legend(figure, arms, shown, width)
    return figure


def _frontier_panel(axes: Axes, fit: Frontier, arms: Sequence[str], labelled: bool) -> None:
    axes.set_visible(True)
    trained = fit.cleaned.trained
    curves = {arm: curve(fit, arm) for arm in fit.arms}
    for arm, (d, low, middle, high) in curves.items():
        colour, _, dashes = look(arms, arm)
        _points(axes, trained, arm, arms)
        if labelled:
            axes.fill_between(d, low, high, color=colour, alpha=0.14, lw=0, zorder=2)
        axes.plot(
            d, middle, color=colour, lw=2, ls=dashes, dash_capstyle="butt",
            solid_capstyle="round", zorder=4,
        )  # fmt: skip
    style.kl_axis(axes, max(span.end for span in fit.spans.values()) * 1.04)
    tops = [one.high.max() if labelled else one.middle.max() for one in curves.values()]
    _rates(axes, trained["win_rate"], max(tops))
    _mark_peaks(axes, fit, arms, labelled)


def _points(axes: Axes, trained: Table, arm: str, arms: Sequence[str]) -> None:
    """Checkpoints of an arm, faint."""
    rows = trained[trained["arm"] == arm]
    colour, marker, _ = look(arms, arm)
    many = len(trained) > MANY_POINTS
    axes.plot(
        np.sqrt(rows["kl"].clip(lower=0.0)), rows["win_rate"], marker, ms=2.7, mew=0,
        color=colour, alpha=0.15 if many else 0.3, rasterized=many, zorder=1,
    )  # fmt: skip


def _rates(axes: Axes, observed: Any, top: float = 0.0) -> None:
    """The axis of win rates: it covers the observed values, with a line at a draw."""
    axes.set_ylim(max(0.0, observed.min() - 0.04), min(1.0, max(float(observed.max()), top) + 0.04))
    if axes.get_ylim()[1] > 0.5:
        style.reference(axes, 0.5)
    axes.set_ylabel(
        "Win rate against the golden baseline" if style.inches(axes)[1] > 3.6 else "Win rate"
    )
    style.percent_axis(axes, "y")


def _gap_panel(
    axes: Axes, fit: Frontier, pairs: Sequence[Pair], arms: Sequence[str], limit: float
) -> bool:
    """Draws the differences of arms' curves over their shared ranges; False if there are none."""
    ends = []
    for first, second in pairs:
        try:
            d = np.linspace(*fit.shared(first, second), 121)
        except Unanswerable:
            continue
        draws = fit.win_rate(first, d) - fit.win_rate(second, d)
        low, middle, high = np.quantile(draws, [0.05, 0.5, 0.95], axis=0)
        colour, _, dashes = look(arms, second)
        colour = INK if len(pairs) == 1 else colour
        axes.fill_between(d, low, high, color=SOFT if len(pairs) == 1 else colour, alpha=0.2, lw=0)
        axes.plot(d, middle, color=colour, lw=1.6, ls=dashes if len(pairs) > 1 else "-")
        ends.append((first, second))
    if not ends:
        return False
    axes.set_visible(True)
    style.reference(axes, 0.0)
    firsts = {first for first, _ in ends}
    if len(ends) == 1:
        words = f"{ends[0][0]} −\n{ends[0][1]}, points"
    else:
        words = f"{firsts.pop()} − others,\npoints" if len(firsts) == 1 else "difference,\npoints"
    axes.set_ylabel(words)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:+.0f}" if value else "0")
    axes.margins(y=0.12)
    style.kl_axis(axes, limit)
    return True


def _mark_peaks(axes: Axes, fit: Frontier, arms: Sequence[str], labelled: bool) -> None:
    """Marks every arm's peak; if there is room, with its name, its height and the interval of its KL.

    A triangle and "rising" mean that the curve still rises at the end of its range.
    """
    peaks = {arm: describe_peak(fit, arm) for arm in fit.arms}
    for arm, peak in peaks.items():
        colour, marker, _ = look(arms, arm)
        x, y = np.sqrt(peak["peak_kl"]), peak["peak"]
        if labelled:
            axes.plot(np.sqrt(peak["peak_kl_interval"]), [y, y], color=colour, lw=1.1, zorder=5)
            marker = ">" if peak["peak_place"] == "end" else "o"
        axes.plot(x, y, marker, ms=7.5, color=colour, mec=PAPER, mew=1.3, zorder=6, clip_on=False)
    if labelled:
        _name_peaks(axes, peaks, arms)


def _name_peaks(axes: Axes, peaks: Mapping[str, Mapping[str, Any]], arms: Sequence[str]) -> None:
    """Writes names beside peaks, without overlap: above the mark for the higher half of the peaks, below for the
    others."""
    line = 0.21 / style.inches(axes)[1] * np.ptp(axes.get_ylim())
    ranked = sorted(peaks, key=lambda arm: peaks[arm]["peak"])
    upper = ranked[len(ranked) // 2 :]
    wanted = [peaks[arm]["peak"] + (0.85 if arm in upper else -0.85) * line for arm in ranked]
    for arm, y in zip(ranked, style.spread(wanted, line), strict=True):
        x = np.sqrt(peaks[arm]["peak_kl"])
        share = x / axes.get_xlim()[1]
        rising = ", rising" if peaks[arm]["peak_place"] == "end" else ""
        axes.annotate(
            f"{arm} {100 * peaks[arm]['peak']:.0f}%{rising}",
            (x, y),
            ha="left" if share < 0.25 else "right" if share > 0.75 else "center",
            va="center",
            color=look(arms, arm).colour,
            weight="bold",
            path_effects=style.halo(),
            zorder=7,
        )


def envelope(
    points: Mapping[str, Table], envelopes: Table, arms: Sequence[str], width: float
) -> Figure:
    """The paper's style: all checkpoints of all runs, and each arm's upper envelope.

    `points` are checkpoints by panel, with KL and win rate; `envelopes` has the columns panel, arm, kl and win_rate,
    one row per bin.
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
        _rates(axes, rows["win_rate"])
        style.title(axes, title)
        if index % columns:
            axes.set_ylabel("")
    if small:
        style.only_outer(panels, columns)
    style.legend(figure, arms, shown, width)
    return figure

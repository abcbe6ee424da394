"""Figures of effects measured twice, simulated and real: intervals one below the other, and real over simulated."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.figures.style import CaptionedFigure
from analysis.html import scale_of, unit_name
from analysis.transfer.effects import LEAST, Measured, Pair, by_unit
from analysis.transfer.table import COLUMNS, row

SIMULATED, REAL = style.ARM_COLOURS[:2]
_NAMES = ((SIMULATED, "o", "simulated"), (REAL, "D", "real"))


def captioned_figures(pairs: Sequence[Pair]) -> list[CaptionedFigure]:
    """The figures that can be drawn from these pairs, in order."""
    shown = [pair for pair in pairs if pair.same_sign is not None]
    if not shown:
        return []
    others = ("verdict", "open", "same_sign", "text")
    names = [name for name in COLUMNS if not name.endswith(others)]
    table = style.frame(map(row, shown))[names]
    effects = CaptionedFigure(
        "transfer-effects",
        "Side by side",
        "Every effect with its interval, simulated above real.",
        "Posterior medians with their intervals. A hollow mark is an effect on which no verdict was given there.",
        partial(_intervals, shown),
        table,
    )
    crowded = {
        unit: some for unit, some in by_unit(shown).items() if len({p.name for p in some}) >= LEAST
    }
    scatter = CaptionedFigure(
        "transfer-scatter",
        "Real over simulated",
        "Real effects over simulated ones, with the diagonal.",
        "Dotted: the diagonal, on which an effect is as large in both places. In the shaded quadrants the signs "
        "differ. Bars are the intervals, up to the panel's edge. Units with fewer than three effects are left out, and "
        "names where there is no room for them.",
        partial(_scatter, crowded),
        table,
    )
    return [effects, scatter] if crowded else [effects]


def _lines(pairs: Sequence[Pair]) -> Iterator[tuple[str, list[tuple[int, Measured]]]]:
    """Each effect's words and its measurements: (0, simulated) on every task, then (1, real)."""
    for name in dict.fromkeys(pair.name for pair in pairs):
        same = [pair for pair in pairs if pair.name == name]
        simulated = {pair.simulated.task: (0, pair.simulated) for pair in same}
        real = {pair.real.task: (1, pair.real) for pair in same}
        words = f"{name.claim}  {same[0].real.judgement.label}"
        yield words, [*simulated.values(), *real.values()]


def _intervals(pairs: Sequence[Pair], width: float) -> Figure:
    """One panel per unit; below the words of each effect one line per task, simulated before real."""
    rows = {unit: list(_lines(some)) for unit, some in by_unit(pairs).items()}
    step = 0.2
    heights = [
        step * sum(1.6 + len(measured) for _, measured in effects) + 0.55
        for effects in rows.values()
    ]
    figure, panels = style.stacked(heights, width, 0.35)
    for axes, (unit, effects) in zip(panels, rows.items(), strict=True):
        _interval_panel(axes, unit, effects, width > 5)
    handles = [
        Line2D([], [], color=colour, marker=marker, lw=2, ms=6, label=name)
        for colour, marker, name in _NAMES
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, borderpad=0)
    return figure


def _interval_panel(
    axes: Axes, unit: str, rows: Sequence[tuple[str, list[tuple[int, Measured]]]], wide: bool
) -> None:
    scale, most = scale_of(unit), 96 if wide else 50
    everything = [one for _, measured in rows for _, one in measured]
    # Room for the tasks' names.
    low, high = _limits(everything, scale, 0.16 if wide else 0.45)
    axes.axvline(0, color=style.SOFT, lw=0.7, zorder=1)
    height = 0.0
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "fontsize": 8.5}
    place |= {
        "va": "center",
        "path_effects": style.halo(),
    }  # the line at zero passes behind the words
    for words, measured in rows:
        short = words if len(words) <= most else f"{words[: most - 1]}…"
        axes.annotate(short, (0, height), **place)
        for where, one in measured:
            height += 1
            _line(axes, height, where, one, (low, high), scale)
            axes.annotate(one.task, (1, height), ha="right", color=style.SOFT, **place)
        height += 1.6
    axes.set_xlim(low, high)
    axes.set_ylim(height - 1.0, -0.8)
    style.effect_axis(axes, unit_name(unit) or "effect")


def _line(
    axes: Axes,
    height: float,
    where: int,
    one: Measured,
    limits: tuple[float, float],
    scale: float,
) -> None:
    colour, marker, _ = _NAMES[where]
    judged = one.judgement
    if judged.interval:
        ends = np.clip(scale * np.array(judged.interval), *limits)
        axes.plot(ends, [height] * 2, color=colour, lw=2, solid_capstyle="round")
    face = style.PAPER if judged.verdict == "undecided" else colour
    estimate = scale * (judged.estimate or 0.0)
    axes.plot(estimate, height, marker, ms=5.5, color=colour, mfc=face, mew=1.5, zorder=3)


def _limits(measured: Sequence[Measured], scale: float, room: float = 0.05) -> tuple[float, float]:
    points = [one.judgement.estimate or 0.0 for one in measured]
    return style.limits(points, [one.judgement.interval for one in measured], scale, room)


def _scatter(groups: Mapping[str, Sequence[Pair]], width: float) -> Figure:
    """One square panel per unit; the marks distinguish simulated tasks. The figure is as wide as the others: a page
    shows all figures at one width, so the letters of a narrower figure would appear large."""
    tasks = list(dict.fromkeys(pair.simulated.task for some in groups.values() for pair in some))
    columns = min(len(groups), 2 if width > 5 else 1)
    side = min(width / columns, 3.6)
    figure, panels = style.grid(len(groups), width, side, columns)
    for axes, (unit, some) in zip(panels, groups.items(), strict=True):
        _scatter_panel(axes, unit, some, tasks)
    if len(tasks) > 1:
        handles = [
            Line2D([], [], color=SIMULATED, marker=marker, ls="", ms=5.5, label=task)
            for task, marker in zip(tasks, np.resize(style.ARM_MARKERS, len(tasks)), strict=True)
        ]
        columns = min(len(tasks), int(width / 1.4))
        figure.legend(handles=handles, loc="outside upper left", ncols=columns, borderpad=0)
    return figure


def _scatter_panel(axes: Axes, unit: str, pairs: Sequence[Pair], tasks: Sequence[str]) -> None:
    scale = scale_of(unit)
    low, high = _limits([one for pair in pairs for one in (pair.simulated, pair.real)], scale)
    for x, y in (((low, 0), (0, high)), ((0, high), (low, 0))):
        axes.fill_between(x, *y, color=style.RULE, alpha=0.35, lw=0, zorder=0)
    axes.plot([low, high], [low, high], color=style.SOFT, lw=0.8, ls=style.DOTTED, zorder=1)
    points = scale * np.array(
        [[one.judgement.estimate or 0.0 for one in (pair.simulated, pair.real)] for pair in pairs]
    )
    for pair, (x, y) in zip(pairs, points, strict=True):
        bars = [
            np.clip(scale * np.array(one.judgement.interval or (middle / scale,) * 2), low, high)
            for one, middle in ((pair.simulated, x), (pair.real, y))
        ]
        axes.plot(bars[0], [y, y], color=SIMULATED, lw=1, alpha=0.45)
        axes.plot([x, x], bars[1], color=REAL, lw=1, alpha=0.45)
        marker = style.ARM_MARKERS[tasks.index(pair.simulated.task) % len(style.ARM_MARKERS)]
        axes.plot(x, y, marker, ms=5.5, color=SIMULATED, mec=style.PAPER, mew=0.7, zorder=3)
        # A name takes the space right of its point and above it.
        across, up = ((points - [x, y]) / (high - low)).T
        if np.count_nonzero((across > -0.02) & (across < 0.13) & (abs(up - 0.02) < 0.06)) == 1:
            axes.annotate(
                pair.name.claim,
                (x, y),
                (4, 4),
                textcoords="offset points",
                fontsize=8,
                path_effects=style.halo(),
            )
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(f"simulated, {unit_name(unit)}".rstrip(", "), fontsize=8.5)
    axes.set_ylabel("real", fontsize=8.5)

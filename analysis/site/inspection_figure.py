"""The figure of the page on a task: distributions of rewards, and how often the better response wins."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from analysis.figures.style import ARM_COLOURS, INK, PAPER, SOFT, Z90
from sweeps import inspection
from sweeps.inspection import Inspection, Judged

RIDGES = (inspection.WRITERS, inspection.SFT, inspection.BEST)


COLOURS = {
    inspection.WRITERS: ARM_COLOURS[4],
    inspection.SFT: ARM_COLOURS[0],
    inspection.BEST: ARM_COLOURS[2],
    inspection.WORST: ARM_COLOURS[1],
    inspection.IDEAL: ARM_COLOURS[3],
}


#: Number of groups of pairs, equal in size and ordered by the difference of the pairs' rewards.
GROUPS = 8


def alternative_text(seen: Inspection) -> str:
    """The figure in words."""
    means = ", ".join(f"{row['source']} {row['mean']:+.2f}" for row in seen.distributions())
    return (
        f"Golden rewards by source, means {means}; and how often the better of a pair is preferred."
    )


def draw(seen: Inspection, width: float) -> Figure:
    """Rewards by source, and how reliably the better response is recognised."""
    wide = width > 5
    rows = len(seen.rewards) - (inspection.WORST in seen.rewards)
    tall = 0.42 * rows + 0.7
    size = (width, tall if wide else tall + 2.9)
    figure = Figure(figsize=size, layout="constrained")
    ratios: dict[str, Any] = {"width_ratios": [1.35, 1]} if wide else {"height_ratios": [tall, 2.7]}
    left, right = figure.subplots(*((1, 2) if wide else (2, 1)), **ratios)
    _rewards_panel(left, seen)
    _pairs_panel(right, seen)
    return figure


def _rewards_panel(axes: Axes, seen: Inspection) -> None:
    """One row per source: a histogram for sources with many responses, mean and range for all."""
    shown = [source for source in seen.rewards if source != inspection.WORST]
    everything = np.concatenate([seen.rewards[source] for source in shown])
    low, high = np.quantile(everything, [0.001, 0.999])
    edges = np.linspace(low, high, 46)
    for height, source in enumerate(reversed(shown)):
        rewards, colour = seen.rewards[source], COLOURS.get(source, SOFT)
        if source in RIDGES:
            counts, _ = np.histogram(rewards, edges)
            tops = height + 0.8 * counts / counts.max()
            axes.stairs(tops, edges, baseline=height, fill=True, color=colour, alpha=0.4, lw=0)
        low, high = np.percentile(rewards, [1, 99])
        axes.plot([low, high], [height, height], color=colour, lw=1.4, solid_capstyle="round")
        mark = "D" if source in inspection.TRIVIAL else "o"
        axes.plot(rewards.mean(), height, mark, ms=5, color=colour, mec=PAPER, mew=0.8, zorder=4)
    limit = float(np.percentile(seen.rewards[inspection.WRITERS], 99))
    axes.axvline(limit, color=INK, lw=0.8, ls=(0, (1, 2.5)))
    top = len(shown) - 0.05
    place: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 8}
    axes.annotate("writers’ 99%", (limit, -0.7), (-3, 3), color=SOFT, **place)
    axes.set_yticks(range(len(shown)), reversed(shown))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-0.7, top)
    axes.set_title("Where the rewards lie")
    axes.set_xlabel("Golden reward, SFT standard deviations")


def grouped(judged: Judged) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean difference of rewards, mean share of right preferences, and its standard error, in `GROUPS` groups of equal
    size."""
    order = np.argsort(judged.difference, kind="stable")
    parts = [part for part in np.array_split(order, GROUPS) if part.size > 1]
    right = [judged.right[part] for part in parts]
    return (
        np.asarray([judged.difference[part].mean() for part in parts]),
        np.asarray([values.mean() for values in right]),
        np.asarray([values.std(ddof=1) / np.sqrt(values.size) for values in right]),
    )


def _pairs_panel(axes: Axes, seen: Inspection) -> None:
    """Labels and proxy against the difference in golden reward."""
    least, ends = 1.0, []
    for name, judged, colour, mark in (
        ("labels", seen.labels, COLOURS[inspection.WRITERS], "^"),
        ("proxy", seen.proxy, COLOURS[inspection.SFT], "o"),
    ):
        x, share, error = grouped(judged)
        if not x.size:
            continue
        band = np.clip([share - Z90 * error, share + Z90 * error], 0, 1)
        axes.fill_between(x, *band, color=colour, alpha=0.15, lw=0)
        axes.plot(x, share, mark, ls="-", ms=4, lw=1.6, color=colour, clip_on=False)
        least = min(least, float(band.min()))
        ends.append((float(share[-1]), float(x[-1]), name, colour))
    axes.axhline(0.5, color=SOFT, lw=0.7, ls=(0, (1, 2.5)))
    height = np.inf
    for share, x, name, colour in sorted(ends, key=lambda end: -end[0]):
        # Names are written after the curves' ends, moved apart where the ends meet.
        height = min(share, height - 0.06)
        axes.annotate(
            name,
            (x, height),
            (7, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            weight="bold",
        )
    axes.set_xlim(0, 1.3 * max((x for _, x, *_ in ends), default=1.0))
    axes.set_ylim(min(0.45, least - 0.02), 1.02)
    axes.yaxis.set_major_locator(MultipleLocator(0.1))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.set_title("Preferring the better one")
    axes.set_xlabel("Difference in golden reward")

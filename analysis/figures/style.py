"""Common parts of all figures: colours, marks and lines of arms, panels, axes, and writing to files.

Colours are Okabe and Ito's (distinguishable with any colour vision). Figures with more than a handful of arms also use
marks and dashes to distinguish the arms, so that figures can be read in greyscale. Files are reproducible: fixed
identifiers, no date.
"""

import dataclasses
import functools
import hashlib
import io
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator
from scipy.optimize import isotonic_regression

from analysis.figures.inline import inlined
from analysis.figures.printing import laid_out, print_figure
from analysis.load import Table

INK, SOFT, RULE, PAPER = "#1b1b1f", "#5f6068", "#d9dade", "#ffffff"
ARM_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#3d3e46")
ARM_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">")
ARM_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.4, 1.2, 1.4)))
VERDICT_COLOURS = {"reproduced": "#00785a", "contradicted": "#a8326f", "undecided": "#6e6f78"}
DOTTED = (0, (1, 2.5))
WIDE, NARROW = 7.2, 3.7
"""Widths in inches of a figure's two versions: for a desktop's column and for a phone."""
Z90 = 1.645
"""Half the width of a 90% interval of a normal distribution, in standard errors."""
FEW_ARMS = 4
"""Up to this many arms are labelled beside their curves; figures of more arms have a legend and dashes."""
FEW_PANELS = 4
"""Up to this many panels are drawn large; a figure of more panels has small ones."""
MANY_POINTS = 1500
"""A figure of more points than this draws them as one bitmap image, to keep files small."""
KL_TICKS = (
    0.0, 0.01, 0.03, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3,
)  # fmt: skip

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    # No panel has ticks above, which would push its title upwards, so that nothing need be measured for it.
    "axes.titley": 1.0,
    "axes.unicode_minus": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "svg.hashsalt": "testbed",
}


@dataclasses.dataclass(frozen=True)
class CaptionedFigure:
    """A named figure that can be drawn at a given width in inches, with its heading and caption.

    `alt` describes the figure in words, `table` is its data (None: no data file is written). `central`: a claim is
    about the quantity that the figure shows.
    """

    name: str
    heading: str
    alt: str
    caption: str
    draw: Callable[[float], Figure]
    table: Table | None = None
    central: bool = True

    @functools.cached_property
    def _wide(self) -> Figure:
        """The wide version, laid out once for all the files made from it."""
        return laid_out(self.draw(WIDE))

    def save(self, directory: Path, stem: str = "") -> list[Path]:
        """Write STEM.png, .svg (text as outlines, for use in documents) and .csv.

        The stem is the figure's name unless given. Returns the paths.
        """
        paths = [directory / f"{stem or self.name}.{kind}" for kind in self.kinds]
        with _context("path"):
            print_figure(self._wide, paths[0])
            print_figure(self._wide, paths[1])
        if self.table is not None:
            self.table.to_csv(paths[2], index=False, float_format="%.6g")
        return paths

    @property
    def kinds(self) -> tuple[str, ...]:
        """Endings of the files that `save` writes."""
        return ("png", "svg") if self.table is None else ("png", "svg", "csv")

    def inline(self, width: float) -> str:
        """An `<svg>` element for a page: live text, transparent, colours as CSS variables."""
        buffer = io.StringIO()
        with _context("none"):
            figure = self._wide if width == WIDE else laid_out(self.draw(width))
            print_figure(figure, buffer)
        own = hashlib.sha256(f"{self.name} {width:g}".encode()).hexdigest()[:5]
        return _inlined(buffer.getvalue(), f"f{own}-", self.alt)


def _context(fonttype: str) -> Any:
    """Matplotlib's settings while a figure is drawn; text as "path" (outlines) or "none" (text)."""
    style: dict[Any, Any] = {**_STYLE, "svg.fonttype": fonttype}
    return mpl.rc_context(style)


def _inlined(svg: str, prefix: str, alt: str) -> str:
    """An element for a page, whose style sheet sets the colours."""
    svg = inlined(svg, prefix, alt)
    names = {INK: "ink", SOFT: "soft", RULE: "rule", PAPER: "paper"}
    names |= {colour: f"arm{index}" for index, colour in enumerate(ARM_COLOURS)}
    names |= {colour: verdict for verdict, colour in VERDICT_COLOURS.items()}
    for colour, name in names.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


class Look(NamedTuple):
    """Colour, mark and dashes of an arm, the same in every figure of its study."""

    colour: str
    marker: str
    dashes: Any


def look(arms: Sequence[str], arm: str) -> Look:
    """Colour, mark and dashes of an arm; no two of up to 63 arms share colour and mark."""
    index = list(arms).index(arm)
    dashes = ARM_DASHES[index % len(ARM_DASHES)] if len(arms) > FEW_ARMS else "-"
    return Look(
        ARM_COLOURS[index % len(ARM_COLOURS)], ARM_MARKERS[index % len(ARM_MARKERS)], dashes
    )


def columns_for(count: int, width: float) -> int:
    """Number of columns for `count` panels: few panels are large, many are small."""
    if count <= FEW_PANELS:
        return 1 if width < 5 else min(count, 2)
    if width < 5:
        return 2
    return 4 if count % 4 == 0 else 3


def grid(
    count: int, width: float, height: float, columns: int = 0, **options: Any
) -> tuple[Figure, list[Axes]]:
    """`count` panels in rows of `columns` (0: chosen by `columns_for`); `height` of a row in inches."""
    columns = columns or columns_for(count, width)
    rows = -(-count // columns)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, list(axes[:count])


def by_task(
    table: Table, arms: Sequence[str], width: float, height: float, **options: Any
) -> tuple[Figure, list[str], list[tuple[Axes, str, Table]]]:
    """A figure with one panel per task, titled if there are several; the arms in the table, in order; each panel with
    its task and rows."""
    tasks = sorted(table["task"].unique())
    figure, panels = grid(len(tasks), width, height, **options)
    for axes, task in zip(panels, tasks, strict=True):
        axes.set_title(task if len(tasks) > 1 else "")
    parts = [
        (axes, task, table[table["task"] == task]) for axes, task in zip(panels, tasks, strict=True)
    ]
    return figure, present(table, arms), parts


def present(table: Table, arms: Sequence[str]) -> list[str]:
    """Those arms that have rows in the table."""
    return [arm for arm in arms if arm in set(table["arm"])]


def by_arm(rows: Table, arms: Sequence[str]) -> Iterator[tuple[str, Look, Table]]:
    """The arms that have rows: name, look and rows of each."""
    for arm in present(rows, arms):
        yield arm, look(arms, arm), rows[rows["arm"] == arm]


def stacked(heights: Sequence[float], width: float, extra: float) -> tuple[Figure, list[Axes]]:
    """Panels of these heights, one below the other; `extra` is the height of the rest of the figure."""
    figure = Figure(figsize=(width, sum(heights) + extra), layout="constrained")
    panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
    return figure, list(panels.ravel())


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """The width of a line of text in points."""
    font = FontProperties(size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def wrapped(text: str, room: float, size: float) -> list[str]:
    """The text in lines of at most ``room`` points, broken at spaces."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def limits(
    points: Sequence[float],
    intervals: Sequence[Sequence[float] | None],
    scale: float,
    room: float = 0.05,
) -> tuple[float, float]:
    """The ends of an axis of effects, times `scale`: they include zero, all points, and all intervals that are not very
    wide. `room` is the margin at the right, as a share of the axis."""
    inside = scale * np.array([0.0, *points])
    most = 2.5 * max(np.ptp(inside), 1e-9)
    ends = scale * np.array([end for interval in intervals for end in interval or ()])
    ends = np.clip(ends, inside.min() - most, inside.max() + most)
    low, high = min(*inside, *ends), max(*inside, *ends)
    size = high - low
    return low - (0.05 * size or 1.0), high + (room * size or 1.0)


def effect_axis(axes: Axes, label: str) -> None:
    """An axis of effects, whose rows have their names inside the panel."""
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(label, fontsize=8.5)


def title(axes: Axes, text: str) -> None:
    """A panel's title, wrapped to the panel's width."""
    wide = inches(axes)[0]
    size = 9.5 if wide > 2.6 else 8.0
    lines = textwrap.wrap(text.replace("(", " ("), max(12, int(wide * 88 / size)))
    axes.set_title("\n".join(line.replace(" (", "(") for line in lines), fontsize=size)


def only_outer(panels: Sequence[Axes], columns: int) -> None:
    """Equal limits for all panels, and labels at the outer panels only: for figures of many small panels."""
    share_limits(panels, "xlim")
    share_limits(panels)
    for index, axes in enumerate(panels):
        if index % columns:
            axes.set_ylabel("")
            axes.tick_params(labelleft=False)
        if index + columns < len(panels):
            axes.set_xlabel("")
            axes.tick_params(labelbottom=False)


def inches(axes: Axes) -> tuple[float, float]:
    """Approximate width and height of a panel."""
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    if figure is None or place is None:
        return 5.0, 3.0
    rows, columns = place.get_gridspec().get_geometry()
    return float(figure.get_figwidth()) / columns, float(figure.get_figheight()) / rows


def percent_axis(axes: Axes, which: str) -> None:
    """Ticks of a proportion as percentages."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")


def kl_axis(axes: Axes, limit: float, label: bool = True, which: str = "x") -> None:
    """An axis in d = sqrt(KL), up to `limit`, whose ticks are labelled with KL."""
    ticks = _kl_ticks(limit, 2.4 * inches(axes)[which == "y"])
    texts = [f"{tick:g}" for tick in ticks]
    if which == "y":
        axes.set_ylim(0, limit)
        axes.set_yticks(np.sqrt(ticks), texts)
        return
    axes.set_xlim(0, limit)
    axes.set_xticks(np.sqrt(ticks), texts)
    if label:
        wide = inches(axes)[0]
        words = "KL(policy ‖ SFT) in nats" if wide > 2.2 else "KL, nats"
        axes.set_xlabel(words + (", square-root scale" if wide > 3.2 else ""))


def _kl_ticks(limit: float, most: float) -> list[float]:
    """Round KL values below limit**2, no two closer than limit / most on the root scale."""
    chosen: list[float] = []
    for tick in KL_TICKS:
        far = not chosen or np.sqrt(tick) - np.sqrt(chosen[-1]) >= limit / most
        if tick <= limit**2 and far:
            chosen.append(tick)
    return chosen


def reference(axes: Axes, value: float, which: str = "y") -> None:
    """A dotted line at a value with a meaning: no gain, a draw, chance."""
    draw = axes.axhline if which == "y" else axes.axvline
    draw(value, color=SOFT, lw=0.7, ls=DOTTED, zorder=0)


def halo() -> list[withStroke]:
    """A paper-coloured outline that keeps text legible on points."""
    return [withStroke(linewidth=2.5, foreground=PAPER)]


def legend(figure: Figure, arms: Sequence[str], shown: Sequence[str], width: float) -> None:
    """A legend of arms above the panels: colour, mark and dashes as in the figure."""
    looks = [(arm, look(arms, arm)) for arm in shown]
    handles = [
        Line2D([], [], color=colour, marker=marker, ls=dashes, ms=5.5, lw=1.6, label=arm)
        for arm, (colour, marker, dashes) in looks
    ]
    columns = max(1, int(width / (0.5 + 0.06 * max(map(len, shown)))))
    figure.legend(handles=handles, loc="outside upper left", ncols=min(columns, len(shown)),
                  handlelength=2.8, columnspacing=1.4, borderpad=0)  # fmt: skip


def spread(wanted: Sequence[float], least: float) -> list[float]:
    """Positions as close as possible to the wanted ones, in the same order, at least `least` apart."""
    if not len(wanted):
        return []
    order = np.argsort(wanted, kind="stable")
    # Isotonic regression on positions minus their least offsets gives the closest feasible positions.
    offsets = least * np.arange(len(order))
    positions = np.empty(len(order))
    positions[order] = isotonic_regression(np.asarray(wanted)[order] - offsets).x + offsets
    return positions.tolist()


def labelled(axes: Axes, names: Sequence[str]) -> bool:
    """Whether there is room for names beside the ends of a panel's curves; otherwise a legend has the names."""
    return len(names) <= FEW_ARMS and 0.085 * max(map(len, names)) < 0.4 * inches(axes)[0]


def label_ends(
    axes: Axes, ends: Sequence[tuple[str, float, float]], arms: Sequence[str], far: float = 5.0
) -> None:
    """Write (name, x, y) labels `far` points after the curves' ends, moved apart where they would touch."""
    least = 0.2 / inches(axes)[1] * np.ptp(axes.get_ylim())
    places = spread([y for *_, y in ends], least)
    for (name, x, _), y in zip(ends, places, strict=True):
        colour = look(arms, name).colour if name in arms else SOFT
        axes.annotate(name, (x, y), (far, 0), textcoords="offset points", va="center", color=colour,
                      weight="bold", annotation_clip=False)  # fmt: skip


def share_limits(panels: Sequence[Axes], which: str = "ylim") -> None:
    """Equal limits for panels that are compared."""
    limits = np.array([getattr(axes, f"get_{which}")() for axes in panels])
    for axes in panels:
        axes.set(**{which: (limits[:, 0].min(), limits[:, 1].max())})


def frame(records: Any) -> Table:
    """Records, or columns by name, as the data table of a figure."""
    return pd.DataFrame(records if isinstance(records, Mapping) else list(records))


def joined(parts: Sequence[Table]) -> Table:
    """Tables one below the other; an empty table if there are none."""
    return pd.concat(parts, ignore_index=True) if parts else frame([])

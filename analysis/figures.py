"""The study's four figures, each in a wide and a narrow cut, as Matplotlib figures.

Colours are Okabe and Ito's (distinguishable with any colour vision and in greyscale together with
the markers); arms and verdicts are labelled where they are drawn, not in legends. Files are
reproducible: fixed identifiers, no date.
"""

import dataclasses
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from scipy import stats

from analysis.frontier import Frontier
from analysis.load import Results, Table, last_rows
from analysis.verdict import TaskEvidence, describe_peak
from sweeps.claims import Unanswerable

INK, SOFT, RULE, PAPER = "#1b1b1f", "#5f6068", "#d9dade", "#ffffff"
ARM_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
ARM_MARKERS = ("o", "^", "s", "D", "v", "P")
VERDICT_COLOURS = {"reproduced": "#00785a", "contradicted": "#a8326f", "undecided": "#6e6f78"}
KL_TICKS = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3)
MANY_POINTS = 1500
"""Above this many points a figure's points are drawn as one picture, to keep files small."""

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
    "axes.unicode_minus": True,
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
class Drawing:
    """A named figure that can be drawn at a width in inches; `alt` describes it in words."""

    name: str
    alt: str
    draw: Callable[[float], Figure]

    def save(self, directory: Path) -> None:
        """Write NAME.png and NAME.svg (text as outlines, for use in documents)."""
        with _context("path"):
            figure = self.draw(7.2)
            FigureCanvasAgg(figure)
            figure.savefig(directory / f"{self.name}.png", dpi=200, facecolor=PAPER)
            figure.savefig(directory / f"{self.name}.svg", metadata={"Date": None}, facecolor=PAPER)

    def inline(self, width: float) -> str:
        """An `<svg>` element for a page: live text, transparent, colours as CSS variables."""
        buffer = io.StringIO()
        with _context("none"):
            figure = self.draw(width)
            FigureCanvasAgg(figure)
            figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
        return _inlined(buffer.getvalue(), f"{self.name}-{width:g}-".replace(".", "_"), self.alt)


def _context(fonttype: str) -> Any:
    """Matplotlib's settings while a figure is drawn; text as "path" (outlines) or "none" (text)."""
    style: dict[Any, Any] = {**_STYLE, "svg.fonttype": fonttype}
    return mpl.rc_context(style)


def _inlined(svg: str, prefix: str, alt: str) -> str:
    """Strip the XML prologue, make identifiers unique in the page, hand colours to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    svg = re.sub(r'\s(width|height)="[\d.]+pt"', "", svg, count=2)
    names = {INK: "ink", SOFT: "soft", RULE: "rule", PAPER: "paper"}
    names |= {colour: f"arm{index}" for index, colour in enumerate(ARM_COLOURS)}
    names |= {colour: verdict for verdict, colour in VERDICT_COLOURS.items()}
    for colour, name in names.items():
        svg = svg.replace(colour, f"var(--{name})")
    label = alt.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def drawings(
    results: Results,
    evidence: Mapping[str, TaskEvidence],
    verdicts: Sequence[Mapping[str, Any]],
) -> list[Drawing]:
    """All figures for which there is anything to show, in the order of the report."""
    found = []
    fits: dict[str, Frontier] = {}
    for task, one in evidence.items():
        try:
            fits[task] = one.frontier
        except Unanswerable:
            continue
    if fits:
        alt = "Win rate over the square root of KL from SFT, fitted curves with 90% bands by arm."
        found.append(Drawing("frontier", alt, lambda w: frontier(fits, results.arms, w)))
    last = last_rows(results.table)
    last = last[last["diverged_step"] < 0]
    if last[["data_accuracy", "win_rate"]].notna().all(axis=1).any():
        alt = "Accuracy on D_golden over win rate at the last checkpoint, by arm."
        found.append(Drawing("classification", alt, lambda w: classification(last, results, w)))
    if results.table["winner_logprob_change"].notna().any():
        alt = "Change of the log-probability of winners and losers over training, by arm."
        found.append(Drawing("logprob", alt, lambda w: logprob(results, w)))
    if any(row["estimate"] is not None for row in verdicts):
        alt = "Effects of all claims with intervals and the region of practical equivalence."
        found.append(Drawing("verdicts", alt, lambda w: forest(verdicts, w)))
    return found


def _style(arms: Sequence[str], arm: str) -> tuple[str, str]:
    """Colour and marker of an arm."""
    index = list(arms).index(arm)
    return ARM_COLOURS[index % len(ARM_COLOURS)], ARM_MARKERS[index % len(ARM_MARKERS)]


def _panels(count: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """`count` panels: side by side in pairs on a wide figure, below each other on a narrow one."""
    columns = 1 if width < 5 else min(count, 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, list(axes[:count])


def _percent(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")


def frontier(fits: Mapping[str, Frontier], arms: Sequence[str], width: float) -> Figure:
    """Win rate over sqrt(KL): every checkpoint, the typical seed's curve, its band and peak.

    Below it, where two arms are compared, their difference: most of a single curve's uncertainty is
    common to the arms, so the bands may overlap while the difference is clear.
    """
    columns = 1 if width < 5 else min(len(fits), 2)
    blocks = -(-len(fits) // columns)
    paired = any(len(fit.arms) == 2 for fit in fits.values())
    ratios = [3.3, 1.15] if paired else [1.0]
    height = 5.2 if columns == 1 else 4.6
    figure = Figure(figsize=(width, height * blocks), layout="constrained")
    grid = figure.subplots(
        blocks * len(ratios), columns, squeeze=False, height_ratios=ratios * blocks
    )
    for axes in grid.ravel():
        axes.set_visible(False)
    for index, (task, fit) in enumerate(fits.items()):
        block, column = divmod(index, columns)
        own = grid[block * len(ratios) : (block + 1) * len(ratios), column]
        _frontier_panel(own[0], fit, arms)
        own[0].set_title(task)
        if len(fit.arms) == 2 and _gap_panel(own[1], fit, own[0]):
            own[0].set_xlabel("")
            own[0].tick_params(labelbottom=False)
    return figure


def _frontier_panel(axes: Axes, fit: Frontier, arms: Sequence[str]) -> None:
    axes.set_visible(True)
    trained = fit.cleaned.trained
    limit = max(span.end for span in fit.spans.values()) * 1.04
    curves = {}
    for arm in fit.arms:
        colour, marker = _style(arms, arm)
        rows = trained[trained["arm"] == arm]
        axes.plot(
            rows["d"],
            rows["win_rate"],
            marker,
            ms=2.7,
            mew=0,
            color=colour,
            alpha=0.3,
            rasterized=len(trained) > MANY_POINTS,
            zorder=1,
        )
        span = fit.spans[arm]
        d = np.linspace(span.start, span.end, 161)
        low, middle, high = np.quantile(fit.win_rate(arm, d), [0.05, 0.5, 0.95], axis=0)
        axes.fill_between(d, low, high, color=colour, alpha=0.14, lw=0, zorder=2)
        axes.plot(d, middle, color=colour, lw=2, solid_capstyle="round", zorder=4)
        curves[arm] = (d, middle, high)
    _kl_axis(axes, limit)
    ranked = sorted(curves, key=lambda arm: -curves[arm][1].max())
    for rank, arm in enumerate(ranked):
        _mark_peak(axes, fit, arm, _style(arms, arm)[0], above=rank < (len(ranked) + 1) // 2)
    top = max(trained["win_rate"].max(), *(high.max() for *_, high in curves.values()))
    axes.set_ylim(max(0.0, trained["win_rate"].min() - 0.04), min(1.0, top + 0.04))
    if axes.get_ylim()[1] > 0.5:
        axes.axhline(0.5, color=SOFT, lw=0.7, ls=(0, (1, 2.5)), zorder=0)
    axes.set_ylabel("Win rate against the golden baseline")
    _percent(axes, "y")


def _inches(axes: Axes) -> tuple[float, float]:
    """Width and height that a panel has to itself, roughly."""
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    if figure is None or place is None:
        return 5.0, 3.0
    rows, columns = place.get_gridspec().get_geometry()
    return float(figure.get_figwidth()) / columns, float(figure.get_figheight()) / rows


def _kl_axis(axes: Axes, limit: float) -> None:
    """An axis in d = sqrt(KL) whose ticks are labelled with KL."""
    axes.set_xlim(0, limit)
    ticks = _kl_ticks(limit, 2.4 * _inches(axes)[0])
    axes.set_xticks(np.sqrt(ticks), [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("KL(policy ‖ SFT) in nats, square-root scale")


def _gap_panel(axes: Axes, fit: Frontier, above: Axes) -> bool:
    """The difference of two arms' curves over their shared range; False if there is none."""
    first, second = fit.arms
    try:
        d = np.linspace(*fit.shared(first, second), 121)
    except Unanswerable:
        return False
    axes.set_visible(True)
    draws = fit.win_rate(first, d) - fit.win_rate(second, d)
    low, middle, high = np.quantile(draws, [0.05, 0.5, 0.95], axis=0)
    axes.fill_between(d, low, high, color=SOFT, alpha=0.2, lw=0)
    axes.plot(d, middle, color=INK, lw=1.6, solid_capstyle="round")
    axes.axhline(0, color=SOFT, lw=0.7, ls=(0, (1, 2.5)))
    axes.set_ylabel(f"{first} −\n{second}, points")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:+.0f}" if value else "0")
    axes.margins(y=0.12)
    _kl_axis(axes, above.get_xlim()[1])
    return True


def _kl_ticks(limit: float, most: float) -> list[float]:
    """Round KL values below limit**2, no two closer than limit / most on the root scale."""
    chosen: list[float] = []
    for tick in KL_TICKS:
        far = not chosen or np.sqrt(tick) - np.sqrt(chosen[-1]) >= limit / most
        if tick <= limit**2 and far:
            chosen.append(tick)
    return chosen


def _mark_peak(axes: Axes, fit: Frontier, arm: str, colour: str, above: bool) -> None:
    """The arm's name and peak, with the interval of its KL; a triangle if the range ends first."""
    peak = describe_peak(fit, arm)
    x, y = np.sqrt(peak["peak_kl"]), peak["peak"]
    unreached = peak["peak_place"] == "end"
    axes.plot(np.sqrt(peak["peak_kl_interval"]), [y, y], color=colour, lw=1.1, zorder=5)
    marker = ">" if unreached else "o"
    axes.plot(x, y, marker, ms=7.5, color=colour, mec=PAPER, mew=1.3, zorder=6, clip_on=False)
    share = x / axes.get_xlim()[1]
    axes.annotate(
        f"{arm}: peak not reached" if unreached else f"{arm} {100 * y:.0f}%",
        (x, y),
        (0, 7 if above else -13),
        textcoords="offset points",
        ha="left" if share < 0.2 else "right" if share > 0.8 else "center",
        va="bottom" if above else "top",
        color=colour,
        weight="bold",
        path_effects=_halo(),
        zorder=7,
    )


def _halo() -> list[withStroke]:
    """A paper-coloured outline that keeps text legible on points."""
    return [withStroke(linewidth=2.5, foreground=PAPER)]


def classification(last: Table, results: Results, width: float) -> Figure:
    """Accuracy on D_golden over win rate at the last checkpoint; large marks are seed means."""
    figure, panels = _panels(len(results.tasks), width, 3.5)
    for axes, task in zip(panels, results.tasks, strict=True):
        rows = last[last["task"] == task]
        for arm in results.arms:
            own = rows[rows["arm"] == arm]
            if own.empty:
                continue
            colour, marker = _style(results.arms, arm)
            axes.plot(
                own["win_rate"], own["data_accuracy"], marker, ms=4, mew=0, color=colour, alpha=0.35
            )
            means = own.groupby("seed")[["win_rate", "data_accuracy"]].mean()
            axes.plot(*means.to_numpy().T, marker, ms=8, color=colour, mec=PAPER, mew=1.2, zorder=3)
            x, y = means.mean()
            axes.annotate(
                arm, (x, y), (9, 9), textcoords="offset points", color=colour, weight="bold"
            )
        axes.margins(0.09)
        axes.set_xlim(left=max(axes.get_xlim()[0], 0.0))
        axes.set_title(task)
        axes.set_xlabel("Win rate (generates)")
        axes.set_ylabel("Accuracy on D_golden (discriminates)")
        _percent(axes, "x")
        _percent(axes, "y")
    return figure


def logprob(results: Results, width: float) -> Figure:
    """Mean change of log-probability of winners and losers over training, with 90% bands.

    Bands are t intervals over seed means; runs that diverged are left out.
    """
    table = results.table[results.table["diverged_step"] < 0]
    metrics = {"winner_logprob_change": "winners", "loser_logprob_change": "losers"}
    figure, panels = _panels(2 * len(results.tasks), width, 3.2 if width > 5 else 2.7)
    pairs = [(task, metric) for task in results.tasks for metric in metrics]
    labels = []
    for axes, (task, metric) in zip(panels, pairs, strict=True):
        rows = table[(table["task"] == task) & table[metric].notna()]
        ends = []
        for arm in results.arms:
            own = rows[rows["arm"] == arm]
            if len(own):
                ends.append(
                    (arm, *_training_curve(axes, own, metric, _style(results.arms, arm)[0]))
                )
        axes.axhline(0, color=SOFT, lw=0.7, ls=(0, (1, 2.5)), zorder=0)
        axes.set_title(
            f"D_golden’s {metrics[metric]}" + (f", {task}" if len(results.tasks) > 1 else "")
        )
        axes.set_xlim(0, 1.22)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
        axes.spines["bottom"].set_bounds(0, 1)
        _percent(axes, "x")
        axes.set_xlabel("Training done")
        axes.set_ylabel("Log-probability against SFT, nats")
        labels.append(ends)
    _share_limits(panels, len(metrics))
    for axes, ends in zip(panels, labels, strict=True):
        _label_ends(axes, ends, results.arms)
    return figure


def _label_ends(axes: Axes, ends: Sequence[tuple[str, float, float]], arms: Sequence[str]) -> None:
    """Write (arm, x, y) labels at the curves' ends, moved apart where they would touch."""
    least = 0.2 / _inches(axes)[1] * np.ptp(axes.get_ylim())
    lowest = -np.inf
    for arm, x, y in sorted(ends, key=lambda end: end[2]):
        lowest = max(y, lowest + least)
        axes.annotate(
            arm,
            (x, lowest),
            (5, 0),
            textcoords="offset points",
            va="center",
            color=_style(arms, arm)[0],
            weight="bold",
        )


def _training_curve(axes: Axes, rows: Table, metric: str, colour: str) -> tuple[float, float]:
    """Draw one arm's mean curve, band and seed means; returns where the curve ends."""
    grid = np.linspace(0, 1, 41)
    by_seed: dict[int, list[np.ndarray]] = {}
    for (seed, _), own in rows.sort_values("evaluation").groupby(["seed", "run"]):
        done = own["step"] / max(own["step"].max(), 1)
        by_seed.setdefault(seed, []).append(np.interp(grid, done, own[metric]))
    seeds = np.stack([np.mean(curves, axis=0) for curves in by_seed.values()])
    axes.plot(grid, seeds.T, color=colour, lw=0.7, alpha=0.45)
    mean, count = seeds.mean(axis=0), len(seeds)
    if count > 1:
        half = stats.t.ppf(0.95, count - 1) * seeds.std(axis=0, ddof=1) / np.sqrt(count)
        axes.fill_between(grid, mean - half, mean + half, color=colour, alpha=0.14, lw=0)
    axes.plot(grid, mean, color=colour, lw=2)
    return 1.0, float(mean[-1])


def _share_limits(panels: Sequence[Axes], group: int) -> None:
    """Equal y limits within each group of neighbouring panels."""
    for start in range(0, len(panels), group):
        neighbours = panels[start : start + group]
        low = min(axes.get_ylim()[0] for axes in neighbours)
        high = max(axes.get_ylim()[1] for axes in neighbours)
        for axes in neighbours:
            axes.set_ylim(low, high)


def effects(verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per effect: claims, and in their place the parts of conjunctions."""
    rows = []
    for verdict in verdicts:
        for part in verdict["details"].get("parts", [verdict]):
            keep = {key: verdict[key] for key in ("claim", "task", "rule")}
            rows.append({**part, **keep})
    return [row for row in rows if row["estimate"] is not None]


def forest(verdicts: Sequence[Mapping[str, Any]], width: float) -> Figure:
    """Every effect with its interval, one panel a unit; shaded: practically nothing."""
    rows = effects(verdicts)
    units = list(dict.fromkeys(row["unit"] for row in rows))
    groups = {unit: [row for row in rows if row["unit"] == unit] for unit in units}
    named = len({row["task"] for row in rows}) > 1
    row_height = 0.5 if width > 5 else 0.62
    heights = [len(group) * row_height + 0.45 for group in groups.values()]
    figure = Figure(figsize=(width, sum(heights) + 0.15), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights).ravel()
    for axes, (unit, group) in zip(panels, groups.items(), strict=True):
        _forest_panel(axes, unit, group)
        for height, row in enumerate(reversed(group)):
            task = f" ({row['task']})" if named else ""
            _forest_words(axes, height, row, f"{row['claim']}{task}", width > 5)
    return figure


def _forest_panel(axes: Axes, unit: str, rows: Sequence[Mapping[str, Any]]) -> None:
    rope = max(row["rule"]["rope"] for row in rows)
    scale = 100 if unit == "probability" else 1
    axes.axvspan(-rope * scale, rope * scale, color=RULE, lw=0, zorder=0)
    axes.axvline(0, color=SOFT, lw=0.7, zorder=1)
    for height, row in enumerate(reversed(rows)):
        colour = VERDICT_COLOURS[row["verdict"]]
        if row["interval"]:
            ends = [scale * bound for bound in row["interval"]]
            axes.plot(ends, [height] * 2, color=colour, lw=2, solid_capstyle="round")
        face = PAPER if row["verdict"] == "undecided" else colour
        marker = "s" if row["verdict"] == "contradicted" else "o"
        x = scale * row["estimate"]
        axes.plot(x, height, marker, ms=6.5, color=colour, mfc=face, mew=1.6)
    axes.set_ylim(-0.45, len(rows) - 0.1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    words = "percentage points" if unit == "probability" else unit
    axes.set_xlabel(f"{words}; grey: practically nothing (±{scale * rope:g})", fontsize=8.5)


def _forest_words(axes: Axes, height: int, row: Mapping[str, Any], name: str, wide: bool) -> None:
    """What the effect is and its verdict: one line above the interval, two on a narrow figure."""
    options: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "fontsize": 8.5,
    }
    verdict = {"color": VERDICT_COLOURS[row["verdict"]], "weight": "bold", "ha": "right"}
    if wide:
        axes.annotate(f"{name}  {row['effect']}", (0, height), (0, 7), **options)
    else:
        axes.annotate(name, (0, height), (0, 18), **options)
        axes.annotate(row["effect"], (0, height), (0, 7), **options)
    axes.annotate(row["verdict"], (1, height), (0, 7 if wide else 18), **verdict, **options)

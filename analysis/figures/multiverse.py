"""The specification curve of a study: its effects under every reasonable choice of the analysis.

`python -m analysis.figures.multiverse DIR --out FOLDER` writes multiverse.csv and multiverse.png for every study in a
results directory whose claims compare the curves of two arms (in folders named after the studies, if DIR holds
several). `analysis.worlds.multiverse` says which choices there are.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Path2D

from analysis.figures import style
from analysis.figures.style import INK, PAPER, RULE, SOFT, VERDICT_COLOURS, CaptionedFigure
from analysis.load import Results, Table, load_all
from analysis.verdicts.evidence import Pool
from analysis.worlds.multiverse import CHOICES, ROPES, specifications
from testbed.metric_table import declared

_ROW, _CURVE, _GAP = 0.145, 2.1, 0.5
"""Heights in inches: of a row of choices, of the estimates, of the rest of a block."""
_DOT = 1.5
"""Diameter of a dot, in points."""
_SHOWN = 0.9
"""The axis shows all estimates and the ends of this share of the intervals; the others leave the panel."""


class Row(NamedTuple):
    """One choice of the dot matrix."""

    group: str
    choice: str


def specification_curve(results: Results, width: float = style.WIDE) -> tuple[Table, Figure]:
    """The table of `analysis.worlds.multiverse.specifications`, and its figure: `draw`. The table and the figure are
    empty if no claim of the study compares curves of two arms."""
    table = _table(results)
    return table, draw(table, width)


def _table(results: Results) -> Table:
    """The specifications, with curves as smooth as those of verdicts."""
    pool = Pool.of(results)
    return specifications(results, pool.hyperparameters, pool.curve)


def captioned(table: Table) -> CaptionedFigure:
    """The figure of a table that is not empty, with heading and caption."""
    ropes = [_rope_words(outcome) for outcome in ROPES if outcome in set(table["outcome"])]
    count = len(table)
    return CaptionedFigure(
        "multiverse",
        "Under every reasonable choice of the analysis",
        f"Specification curve of {count} specifications: estimates in increasing order above, choices below.",
        "Each mark is the effect under one specification, in increasing order, with its 90% interval; the rows below "
        "show which choices were made. Effects are in units of what is practically nothing "
        f"({'; '.join(ropes)}), so that outcomes can be compared: above 1 the first arm is better. Large marks are the "
        "specifications of the claims. Specifications are not independent of one another: their share on one side is "
        "no probability.",
        lambda width: draw(table, width),
        table,
    )


def _rope_words(outcome: str) -> str:
    column = declared(outcome)
    return f"{column.words}: {ROPES[outcome]:g} {column.unit}"


def draw(table: Table, width: float = style.WIDE) -> Figure:
    """One block a task and pair of arms, two blocks side by side where there is room."""
    if table.empty:
        return Figure(figsize=(width, 1.0))
    keys = table[["first", "second", "task"]].drop_duplicates()
    blocks = sorted(keys.itertuples(index=False, name=None))
    rows = _rows(table)
    columns = 1 if width < 5 else min(2, len(blocks))
    lines = -(-len(blocks) // columns)
    matrix = _ROW * (len(rows) + len({row.group for row in rows}))
    figure = Figure(figsize=(width, lines * (_CURVE + matrix + _GAP)), layout="constrained")
    grid = figure.subplots(
        2 * lines, columns, squeeze=False, height_ratios=[_CURVE, matrix] * lines
    )
    limits = _limits(table)
    for index, (first, second, task) in enumerate(blocks):
        line, column = divmod(index, columns)
        part = table[(table["task"] == task) & (table["first"] == first)]
        part = part[(part["second"] == second) & part["estimate"].notna()]
        part = part.assign(scaled=part["estimate"] / part["rope"]).sort_values("scaled")
        upper, lower = grid[2 * line, column], grid[2 * line + 1, column]
        style.title(upper, f"{task}: {first} − {second}")
        _estimates(upper, part, limits)
        _matrix(lower, part, rows)
        if column == 0:
            upper.set_ylabel("effect / ROPE")
        else:
            lower.set_yticklabels([])
    for unused in grid[-2:, len(blocks) - columns * (lines - 1) :].ravel():
        unused.set_visible(False)
    return figure


def _limits(table: Table) -> tuple[float, float]:
    """The range of effects that is shown, in ROPEs."""
    low, estimate, high = (
        (table[name] / table["rope"]).dropna() for name in ("low", "estimate", "high")
    )
    if estimate.empty:
        return -1.0, 1.0
    least = min(float(np.quantile(low, 1 - _SHOWN)), float(estimate.min()), -2.0)
    most = max(float(np.quantile(high, _SHOWN)), float(estimate.max()), 2.0)
    margin = 0.04 * (most - least)
    return least - margin, most + margin


def _rows(table: Table) -> list[Row]:
    """The choices of all blocks, in the table's order, of those groups that have several."""
    rows = []
    for group in CHOICES:
        values = list(dict.fromkeys(table[group]))
        rows += [Row(group, value) for value in values] if len(values) > 1 else []
    return rows


def _estimates(axes: Axes, part: Table, limits: tuple[float, float]) -> None:
    """The estimates with their intervals, in order."""
    place = np.arange(len(part))
    colours = [VERDICT_COLOURS[verdict] for verdict in part["verdict"]]
    ends = [(part[name] / part["rope"]).to_numpy() for name in ("low", "high")]
    axes.axhspan(-1, 1, color=RULE, alpha=0.6, linewidth=0)
    axes.axhline(0, color=SOFT, linewidth=0.6)
    axes.vlines(place, *ends, colors=colours, linewidth=0.6, alpha=0.55)
    axes.scatter(place, part["scaled"], c=colours, s=4, linewidths=0, zorder=3)
    own = part["claimed"].to_numpy(dtype=bool)
    chosen = [colour for colour, is_own in zip(colours, own, strict=True) if is_own]
    axes.scatter(
        place[own], part["scaled"][own], c=chosen, s=34, edgecolors=INK, linewidths=0.9, zorder=4
    )
    axes.set_ylim(*limits)
    axes.set_xlim(-1, max(len(part), 1))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def _matrix(axes: Axes, part: Table, rows: Sequence[Row]) -> None:
    """A dot for every choice of every specification; the rows' labels at the left."""
    heights, labels, height = [], [], 0.0
    groups = list(dict.fromkeys(row.group for row in rows))
    for group in groups:
        labels.append((height, group, True))
        height += 1
        for row in rows:
            if row.group == group:
                heights.append(height)
                words = declared(row.choice).words if group == "outcome" else row.choice
                labels.append((height, words, False))
                height += 1
    place = np.arange(len(part))
    colours = np.array([VERDICT_COLOURS[verdict] for verdict in part["verdict"]])
    own = part["claimed"].to_numpy(dtype=bool)
    made = np.array([part[row.group] == row.choice for row in rows]).reshape(len(rows), len(part))
    axes.hlines(heights, -1, max(len(part), 1), color=RULE, linewidth=0.4, zorder=0)
    for colour in dict.fromkeys(colours.tolist()):
        _dots(axes, made & (colours == colour), heights, colour)
        row, column = np.nonzero(made & (colours == colour) & own)
        axes.scatter(
            place[column], np.array(heights)[row], s=14, c=colour,
            edgecolors=INK, linewidths=0.7, zorder=3,
        )  # fmt: skip
    axes.set_facecolor(PAPER)
    axes.set_ylim(height - 0.4, -0.6)
    axes.set_xlim(-1, max(len(part), 1))
    axes.set_xticks([])
    axes.set_yticks([at for at, *_ in labels], [words for _, words, _ in labels], fontsize=6.5)
    for tick, (_, _, is_group) in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set_fontweight("bold" if is_group else "normal")
        tick.set_color(INK if is_group else SOFT)
    axes.tick_params(axis="y", length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _dots(
    axes: Axes, made: Bool[np.ndarray, "row place"], heights: Sequence[float], colour: str
) -> None:
    """A dot at every place of every row where a choice was made, as lines with round ends. Where neighbouring dots
    touch, one line joins them, and one path has all the lines, so that pages stay small."""
    if _DOT * made.shape[1] > 72 * style.inches(axes)[0]:
        edges = np.diff(made.astype(np.int8), axis=1, prepend=0, append=0)
        (row, first), (_, after) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    else:
        row, first = np.nonzero(made)
        after = first + 1
    if not len(row):
        return
    y = np.array(heights, dtype=float)[row]
    # A line without any length would not be drawn.
    ends = np.stack([first - 0.01, y, after - 0.99, y], axis=1).reshape(-1, 2)
    lines = Path2D(ends, np.tile([Path2D.MOVETO, Path2D.LINETO], len(row)))
    axes.add_patch(
        PathPatch(lines, fill=False, edgecolor=colour, linewidth=_DOT, capstyle="round", snap=False)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Write the specification curves of results.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args(arguments)
    studies = load_all(options.directory).studies
    for results in studies:
        table = _table(results)
        if table.empty:
            print(f"{results.name}: no claim compares the curves of two arms")
            continue
        folder = options.out / results.name if len(studies) > 1 else options.out
        folder.mkdir(parents=True, exist_ok=True)
        paths = captioned(table).save(folder)
        print(f"{results.name}: {len(table)} specifications in {', '.join(map(str, paths))}")


if __name__ == "__main__":
    main()

"""Figures over a swept axis: relative peaks and their KL over size, measured values over a numeric setting."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.style import PAPER, RULE
from analysis.load import Table, lost


def relative_table(
    table: Table, path: str, top: str, places: Mapping[Any, float], share: float = 0.9
) -> Table:
    """Each arm's quantile of win rates, absolute and divided by the top arm's quantile, by task, level and seed.

    `table` holds checkpoints; rows from a run's divergence on do not count. `places` gives the position on an axis of
    each level of the path.
    """
    trained = table[(table["evaluation"] > 0) & table["win_rate"].notna()]
    trained = trained[~lost(trained) & trained[path].isin(list(places))]
    high = trained.groupby(["task", path, "seed", "arm"], observed=True)["win_rate"].quantile(share)
    parts = []
    for (task, level, seed, arm), value in high.items():
        best = high.get((task, level, seed, top), float("nan"))
        ident = {"task": task, "level": level, "size": places[level], "seed": seed, "arm": arm}
        relative = float(value / best) if best > 0 else float("nan")
        parts.append({**ident, "quantile": float(value), "relative": relative})
    return style.frame(parts)


def along(
    table: Table,
    arms: Sequence[str],
    column: str,
    words: tuple[str, str],
    width: float,
    percents: bool = False,
) -> Figure:
    """A value over an axis, one panel per task: small marks are seeds, lines join their means.

    `table` has the columns task, arm, seed, size and `column`; `words` label the axes.
    """
    figure, shown, panels = style.by_task(table, arms, width, 3.0)
    for axes, _, part in panels:
        ends = []
        for arm, (colour, marker, dashes), rows in style.by_arm(part, arms):
            axes.plot(rows["size"], rows[column], marker, ms=3.6, mew=0, color=colour, alpha=0.4)
            means = rows.groupby("size")[column].mean()
            axes.plot(means.index, means, marker=marker, ls=dashes,
                      color=colour, ms=6, lw=1.7, mec=PAPER, mew=0.9)  # fmt: skip
            ends.append((arm, float(means.index[-1]), float(means.iloc[-1])))
        _axis(axes, table["size"].to_numpy(float))
        axes.set_xlabel(words[0])
        axes.set_ylabel(words[1])
        if percents:
            style.percent_axis(axes, "y")
        if style.labelled(axes, shown):
            style.label_ends(axes, ends, arms)
    if not style.labelled(panels[0][0], shown):
        style.legend(figure, arms, shown, width)
    return figure


def peak_places(table: Table, arms: Sequence[str], words: str, width: float) -> Figure:
    """KL at every arm's fitted peak over size, with 90% intervals. Hollow marks: the peak is at the end of the range.

    `table` has the columns task, arm, size, kl, kl_low, kl_high and place.
    """
    figure, shown, panels = style.by_task(table, arms, width, 3.0)
    for axes, _, part in panels:
        for arm, (colour, marker, dashes), rows in style.by_arm(part.sort_values("size"), arms):
            roots = np.sqrt(rows[["kl", "kl_low", "kl_high"]].to_numpy(float)).T
            aside = shown.index(arm) - (len(shown) - 1) / 2
            sizes = _moved(rows["size"].to_numpy(float), table["size"], 0.012 * aside)
            axes.plot(sizes, roots[0], ls=dashes, color=colour, lw=1.6)
            axes.vlines(sizes, roots[1], roots[2], color=colour, lw=1.1, alpha=0.7)
            faces = [colour if place == "inside" else PAPER for place in rows["place"]]
            for x, y, face in zip(sizes, roots[0], faces, strict=True):
                axes.plot(x, y, marker, ms=6, color=colour, mfc=face, mew=1.2, zorder=4)
        _axis(axes, table["size"].to_numpy(float))
        style.kl_axis(axes, 1.05 * float(np.sqrt(table["kl_high"].max())), False, "y")
        axes.set_ylim(bottom=0.9 * float(np.sqrt(table["kl_low"].min())))
        axes.set_xlabel(words)
        axes.set_ylabel("KL at the peak, nats")
    style.legend(figure, arms, shown, width)
    return figure


def _logarithmic(places: np.ndarray) -> bool:
    return bool(places.min() > 0 and places.max() / places.min() >= 8)


def _moved(sizes: np.ndarray, all_sizes: Any, share: float) -> np.ndarray:
    """Sizes shifted by a share of the axis, so that marks of several arms at one size do not overlap."""
    places = np.asarray(all_sizes, dtype=float)
    if _logarithmic(places):
        return sizes * (places.max() / places.min()) ** share
    return sizes + share * np.ptp(places)


def by_level(
    table: Table, arms: Sequence[str], column: str, words: str, names: Sequence[str], width: float
) -> Figure:
    """A proportion at named levels: one panel per task, one row per level; small marks are seeds.

    `table` has the columns task, arm, seed, size (the level's rank) and `column`.
    """
    row = 0.3 + 0.05 * table["arm"].nunique()
    height = row * len(names) + 0.9
    figure, shown, panels = style.by_task(table, arms, width, height, sharey=width > 5)
    columns = style.columns_for(len(panels), width)
    for index, (axes, _, part) in enumerate(panels):
        for arm, (colour, marker, _), rows in style.by_arm(part, arms):
            aside = 0.6 * ((shown.index(arm) + 0.5) / len(shown) - 0.5)
            place = rows["size"] + aside
            axes.plot(rows[column], place, marker, ms=3.4, mew=0, color=colour, alpha=0.4)
            means = rows.groupby("size")[column].mean()
            axes.plot(means, means.index + aside, marker, color=colour, ms=6.5, mec=PAPER, mew=1)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0, labelleft=index % columns == 0)
        for edge in range(1, len(names)):
            axes.axhline(edge - 0.5, color=RULE, lw=0.6)
        style.percent_axis(axes, "x")
        axes.set_xlabel(words)
    style.legend(figure, arms, shown, width)
    return figure


def _axis(axes: Axes, sizes: np.ndarray) -> None:
    """Ticks at the sizes, on a logarithmic axis if the sizes have a wide range."""
    places = np.unique(sizes)
    if _logarithmic(places):
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(places, [compact(place) for place in places])


def compact(value: float) -> str:
    """A number in few characters: 3.2k, 1.1M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"

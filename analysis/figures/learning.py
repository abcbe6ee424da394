"""Figures of other changes during training than win rate: classification accuracy, log-probabilities, last values."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.special import stdtrit

from analysis.figures import style
from analysis.figures.style import FEW_ARMS, PAPER, SOFT, look
from analysis.load import Table
from sweeps.store.store import FACTS

LOGPROBS = {"winner_logprob_change": "winners", "loser_logprob_change": "losers"}
LEAST_SEEDS = 3
"""Fewest seeds for a band: the t interval of two seeds is wider than any figure."""
_GRID = np.linspace(0, 1, 41)


def scatter(
    rows: Table,
    arms: Sequence[str],
    axes: tuple[str, str],
    words: Sequence[str],
    percents: Sequence[bool],
    width: float,
    grouped: bool = True,
) -> Figure:
    """Scatter plot of two measured columns, one panel per task; if `grouped`, with seeds' means.

    `rows` has the columns task, arm, seed and `axes`, one row per point; `words` label the axes.
    """
    x, y = axes
    figure, shown, panels = style.by_task(rows, arms, width, 3.4)
    for panel, task, part in panels:
        centres = []
        for arm, (colour, marker, _), points in style.by_arm(part, arms):
            many = len(points) > style.MANY_POINTS // 3
            size, alpha = (2.5, 0.2) if many else (3.8, 0.45) if grouped else (5.0, 0.6)
            panel.plot(points[x], points[y], marker, ms=size, mew=0, color=colour, alpha=alpha,
                       rasterized=many)  # fmt: skip
            means = points.groupby("seed")[[x, y]].mean()
            if grouped:
                panel.plot(*means.to_numpy().T, marker, ms=8, color=colour, mec=PAPER, mew=1.2,
                           ls="none", zorder=3)  # fmt: skip
            centres.append((arm, *means.mean()))
        panel.margins(0.09)
        panel.set_title(task)
        panel.set_xlabel(words[0])
        panel.set_ylabel(words[1])
        for which, is_percent in zip("xy", percents, strict=True):
            if is_percent:
                style.percent_axis(panel, which)
        if 1 < len(shown) <= FEW_ARMS:
            _name_clouds(panel, centres, arms)
    if len(shown) > FEW_ARMS:
        style.legend(figure, arms, shown, width)
    return figure


def _name_clouds(
    axes: Axes, centres: Sequence[tuple[str, float, float]], arms: Sequence[str]
) -> None:
    """Writes arms' names beside their points, moved apart where they would touch."""
    places = style.spread(
        [y for *_, y in centres], 0.22 / style.inches(axes)[1] * np.ptp(axes.get_ylim())
    )
    for (arm, x, _), y in zip(centres, places, strict=True):
        right = x > np.mean(axes.get_xlim())
        axes.annotate(
            arm, (x, y), (-9 if right else 9, 9), textcoords="offset points",
            ha="right" if right else "left", color=look(arms, arm).colour, weight="bold",
            path_effects=style.halo(), zorder=5,
        )  # fmt: skip


def training_curves(table: Table, metrics: Sequence[str]) -> Table:
    """Mean of metrics over training, by task, arm and seed, on a common grid of the share of training completed.

    Runs that diverged are left out; settings are averaged within a seed. One row per task, arm, seed and point of the
    grid.
    """
    parts = []
    table = table[(table["diverged_step"] < 0) & table[list(metrics)].notna().all(axis=1)]
    for (task, arm, seed), rows in table.groupby(["task", "arm", "seed"], sort=True):
        curves: list[np.ndarray] = []
        for _, run in rows.sort_values("evaluation").groupby("run", sort=True):
            done = run["step"] / max(run["step"].max(), 1)
            curves.append(np.stack([np.interp(_GRID, done, run[name]) for name in metrics]))
        means = dict(zip(metrics, np.mean(curves, axis=0), strict=True))
        ident = {"task": task, "arm": arm, "seed": seed}
        parts.append(style.frame({**ident, "training_done": _GRID, **means}))
    return style.joined(parts)


def logprob(curves: Table, arms: Sequence[str], width: float) -> Figure:
    """Change of the log-probability of winners and losers over training, with 90% t bands."""
    tasks = sorted(curves["task"].unique())
    shown = style.present(curves, arms)
    metrics = [name for name in LOGPROBS if name in curves]
    wide = width > 5
    figure, panels = style.grid(
        len(metrics) * len(tasks), width, 3.1 if wide else 2.7, len(metrics) if wide else 1
    )
    places = [(task, metric) for task in tasks for metric in metrics]
    labels = []
    for axes, (task, metric) in zip(panels, places, strict=True):
        rows = curves[curves["task"] == task]
        ends = [
            (arm, 1.0, _band(axes, part, metric, arms, arm))
            for arm, _, part in style.by_arm(rows, arms)
        ]
        style.reference(axes, 0.0)
        named = f", {task}" if len(tasks) > 1 else ""
        axes.set_title(f"D_golden’s {LOGPROBS[metric]}{named}")
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
        style.percent_axis(axes, "x")
        axes.set_xlabel("Training done")
        axes.set_ylabel("Log-probability against SFT, nats" if metric == metrics[0] else "")
        labels.append(ends)
    for start in range(0, len(panels), len(metrics)):
        style.share_limits(panels[start : start + len(metrics)])
    if not style.labelled(panels[0], shown):
        for axes in panels:
            axes.set_xlim(0, 1.02)
        style.legend(figure, arms, shown, width)
        return figure
    room = 1.06 + 0.028 * max(map(len, shown)) * 3.4 / style.inches(panels[0])[0]
    for axes, ends in zip(panels, labels, strict=True):
        axes.set_xlim(0, room)
        axes.spines["bottom"].set_bounds(0, 1)
        style.label_ends(axes, ends, arms)
    return figure


def _band(axes: Axes, rows: Table, metric: str, arms: Sequence[str], arm: str) -> float:
    """Draws one arm's mean curve, band and seeds; returns the value at the curve's end."""
    colour, _, dashes = look(arms, arm)
    seeds = rows.pivot(index="seed", columns="training_done", values=metric).to_numpy()
    few = len(arms) <= FEW_ARMS
    if few:
        axes.plot(_GRID, seeds.T, color=colour, lw=0.7, alpha=0.45)
    mean, count = seeds.mean(axis=0), len(seeds)
    if count >= LEAST_SEEDS and few:
        half = _half(seeds)
        axes.fill_between(_GRID, mean - half, mean + half, color=colour, alpha=0.14, lw=0)
    axes.plot(_GRID, mean, color=colour, lw=2, ls=dashes)
    return float(mean[-1])


def _half(seeds: np.ndarray) -> np.ndarray:
    """Half the width of the 90% t interval of the mean over the first axis."""
    count = len(seeds)
    return stdtrit(count - 1, 0.95) * seeds.std(axis=0, ddof=1) / np.sqrt(count)


def window_columns(table: Table, prefix: str) -> list[str]:
    """Columns PREFIX1, PREFIX2, ... that hold numbers, in the order of the windows."""
    names = [name for name in table.columns if name.startswith(prefix)]
    names = [name for name in names if name[len(prefix) :].isdigit() and table[name].notna().any()]
    return sorted(names, key=lambda name: int(name[len(prefix) :]))


def window_table(last: Table) -> Table:
    """Accuracy on each window of the recorded stream at the end of training.

    One row per task, arm, seed and window; the proxy's accuracy is stored under the arm "proxy".
    """
    parts = []
    for prefix, whose in (("stream_accuracy_", ""), (f"{FACTS}proxy_stream_accuracy_", "proxy")):
        columns = window_columns(last, prefix)
        if not columns:
            continue
        rows = last.assign(arm=whose) if whose else last
        means = rows.groupby(["task", "arm", "seed"])[columns].mean()
        means.columns = range(1, len(columns) + 1)
        parts.append(
            means.rename_axis(columns="window").stack().dropna().reset_index(name="accuracy")
        )
    return style.joined(parts)


def windows(table: Table, arms: Sequence[str], width: float) -> Figure:
    """Accuracy over the windows of the online stream: of the proxy, and of the policies of every arm."""
    figure, shown, panels = style.by_task(table, arms, width, 3.1)
    last = int(table["window"].max())
    for axes, task, rows in panels:
        ends = []
        for arm in (*shown, "proxy"):
            by_seed = rows[rows["arm"] == arm].pivot(
                index="seed", columns="window", values="accuracy"
            )
            if by_seed.empty:
                continue
            colour, marker, dashes = look(arms, arm) if arm in arms else (SOFT, "", (0, (4, 2)))
            seeds = by_seed.to_numpy()
            mean, x = np.nanmean(seeds, axis=0), by_seed.columns.to_numpy(float)
            if len(seeds) >= LEAST_SEEDS and len(shown) <= FEW_ARMS:
                half = _half(seeds)
                axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.12, lw=0)
            elif len(shown) <= FEW_ARMS:
                axes.plot(x, seeds.T, color=colour, lw=0.7, alpha=0.45)
            axes.plot(x, mean, marker=marker, ls=dashes, color=colour, ms=4.5, lw=1.8)
            ends.append((arm, x[-1], mean[-1]))
        style.reference(axes, 0.5)
        axes.set_ylim(min(0.48, rows["accuracy"].min() - 0.02), rows["accuracy"].max() + 0.02)
        axes.set_xlim(0.7, last + 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(last, integer=True))
        axes.set_title(task)
        axes.set_xlabel("Window of the online stream")
        axes.set_ylabel("Accuracy against the golden reward")
        style.percent_axis(axes, "y")
        beside = style.labelled(axes, shown)
        style.label_ends(axes, [end for end in ends if beside or end[0] not in arms], arms, 7.0)
    if not style.labelled(panels[0][0], shown):
        style.legend(figure, arms, shown, width)
    return figure


def ends_table(last: Table, metrics: Sequence[str]) -> Table:
    """Last values of metrics, averaged over settings: one row per metric, task, arm and seed."""
    keys = ["task", "arm", "seed"]
    parts = []
    for metric in metrics:
        means = last.groupby(keys)[metric].mean().dropna().reset_index(name="value")
        parts.append(means.assign(metric=metric)[["metric", *keys, "value"]])
    return style.joined(parts)


def ends(
    table: Table,
    arms: Sequence[str],
    words: Mapping[str, str],
    references: Mapping[str, float],
    width: float,
) -> Figure:
    """Last values of metrics by arm, one row of panels per task: small marks are seeds, a large mark is their mean.

    `words` names the metrics; `references` gives the values at which a reference line is drawn.
    """
    metrics = list(dict.fromkeys(table["metric"]))
    tasks = sorted(table["task"].unique())
    shown = style.present(table, arms)
    places = [(task, metric) for task in tasks for metric in metrics]
    columns = min(len(metrics), 2) if width > 5 else 1
    figure, panels = style.grid(len(places), width, 0.27 * len(shown) + 0.85, columns)
    for axes, (task, metric) in zip(panels, places, strict=True):
        rows = table[(table["task"] == task) & (table["metric"] == metric)]
        for height, arm in enumerate(shown):
            values = rows.loc[rows["arm"] == arm, "value"].to_numpy()
            colour, marker, _ = look(arms, arm)
            axes.plot(values, [height] * len(values), marker, ms=4, mew=0, color=colour, alpha=0.45)
            if len(values):
                axes.plot(values.mean(), height, marker, ms=7.5, color=colour, mec=PAPER, mew=1.2)
        if metric in references:
            style.reference(axes, references[metric], "x")
        axes.set_yticks(range(len(shown)), shown)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_title(task if len(tasks) > 1 else "")
        axes.set_xlabel(words.get(metric, metric))
        if "accuracy" in metric or "rate" in metric:
            style.percent_axis(axes, "x")
    return figure

"""Figures of posteriors: every effect that a claim uses, and every arm's best outcome."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.style import INK, PAPER, RULE, SOFT, VERDICT_COLOURS, Z90, look
from analysis.html import scale_of, unit_name
from analysis.load import Table
from analysis.verdicts.evidence import TaskEvidence
from analysis.verdicts.verdict import flat
from sweeps.estimands import Evidence, InWorlds, PeakPlace, Unanswerable
from sweeps.estimands.base import contrast
from sweeps.rules import Draws, More

MARKS = {"reproduced": "o", "contradicted": "s", "undecided": "o"}

Entry = Mapping[str, Any]
_FONT = 8.5
_PANEL = 0.93
"""The width of a forest's panel, as a share of the figure's."""


def effects(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """One row per test of every claim that has an estimate, with its claim and task."""
    return [
        {**test, "claim": entry["claim"], "task": entry["task"]}
        for entry in entries
        for test in entry["tests"]
        if test["estimate"] is not None
    ]


def level_effects(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """One row per level of every test that covers all levels of a path; without a verdict."""
    rows = []
    for entry in entries:
        for test in entry["tests"]:
            levels = test["details"].get("levels", {})
            if not isinstance(levels, Mapping):
                continue
            shared = {"claim": entry["claim"], "task": entry["task"], "unit": test["unit"]}
            shared |= {"rule": test["rule"], "verdict": "", "probability": None}
            for level, effect in levels.items():
                numbers = {"estimate": effect["estimate"], "interval": effect["interval"]}
                rows.append({**shared, **numbers, "effect": f"at {level}"})
    return [row for row in rows if row["estimate"] is not None]


def effects_table(rows: Sequence[Entry]) -> Table:
    """The numbers of `forest`, in the units of verdicts.json."""
    names = ["claim", "task", "effect", "unit", "estimate", "low", "high", "probability"]
    return style.frame(map(flat, rows))[[*names, "rule", "rope", "verdict"]]


def forest(rows: Sequence[Entry], width: float) -> Figure:
    """Every effect with its interval, one panel per unit and region. Shaded: effects within the rule's bound."""
    groups: dict[tuple[str, float], list[Entry]] = {}
    for row in rows:
        groups.setdefault((row["unit"], row["rule"]["rope"]), []).append(row)
    named = len({row["task"] for row in rows}) > 1
    words = [
        [
            _lines(row, f"{row['claim']} · {row['task']}" if named else row["claim"], width)
            for row in group
        ]
        for group in groups.values()
    ]
    heights = [sum(map(_row_height, lines)) + 0.5 for lines in words]
    figure, panels = style.stacked(heights, width, 0.15)
    for axes, ((unit, rope), group), lines in zip(panels, groups.items(), words, strict=True):
        # Places in inches above the lowest interval; the words of an interval stand above it.
        places = np.append(0.0, np.cumsum([_row_height(own) for own in reversed(lines)]))
        _forest_panel(axes, unit, rope, group, places)
        for height, row, own in zip(places, reversed(group), reversed(lines), strict=False):
            _forest_words(axes, float(height), row, own)
    return figure


def _row_height(lines: Sequence[str]) -> float:
    """The height in inches of an interval with its words."""
    return 0.32 + 0.15 * len(lines)


def _lines(row: Entry, name: str, width: float) -> list[str]:
    """The words of an effect: one line if there is room beside the verdict, otherwise its name and, below, itself in as
    many lines as it needs."""
    room = 72 * width * _PANEL
    beside = room - style.text_width(row["verdict"], _FONT, "bold") - _FONT
    whole = f"{name} · {row['effect']}"
    if style.text_width(whole, _FONT) <= beside:
        return [whole]
    return [name, *style.wrapped(row["effect"], room, _FONT)]


def _forest_panel(
    axes: Axes,
    unit: str,
    rope: float,
    rows: Sequence[Entry],
    places: Float[np.ndarray, " rows_and_top"],
) -> None:
    """The intervals of one panel, the last row at the first of the ``places``; the last of these is the top."""
    scale = scale_of(unit)
    if rope:
        axes.axvspan(-rope * scale, rope * scale, color=RULE, lw=0, zorder=0)
    axes.axvline(0, color=SOFT, lw=0.7, zorder=1)
    points = [rope, -rope, *(row["estimate"] for row in rows)]
    low, high = style.limits(points, [row["interval"] for row in rows], scale)
    for height, row in zip(places.tolist(), reversed(rows), strict=False):
        colour = VERDICT_COLOURS.get(row["verdict"], INK)
        if row["interval"]:
            ends = [scale * bound for bound in row["interval"]]
            axes.plot(ends, [height] * 2, color=colour, lw=2, solid_capstyle="round")
            _arrows(axes, ends, (low, high), height, colour)
        face = PAPER if row["verdict"] == "undecided" else colour
        x = scale * row["estimate"]
        mark = MARKS.get(row["verdict"], "D")
        axes.plot(x, height, mark, ms=6.5, color=colour, mfc=face, mew=1.6)
    axes.set_xlim(low, high)
    axes.set_ylim(-0.2, places[-1] - 0.05)
    grey = f"grey: up to ±{scale * rope:g}, the rule’s bound" if rope else ""
    style.effect_axis(axes, "; ".join(filter(None, (unit_name(unit), grey))))


def _arrows(
    axes: Axes, ends: Sequence[float], limits: tuple[float, float], height: float, colour: str
) -> None:
    """Marks at the panel's edge where an interval continues beyond the edge."""
    for end, limit, mark in zip(ends, limits, "<>", strict=True):
        if not limits[0] <= end <= limits[1]:
            axes.plot(limit, height, mark, ms=5, color=colour, mew=0, clip_on=False)


def _forest_words(axes: Axes, height: float, row: Entry, lines: Sequence[str]) -> None:
    """The words of an effect above its interval, with the verdict at the right of the first line."""
    options: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "fontsize": _FONT,
    }
    verdict = {"color": VERDICT_COLOURS.get(row["verdict"], INK), "weight": "bold", "ha": "right"}
    top = 7 + 11 * (len(lines) - 1)
    for index, line in enumerate(lines):
        axes.annotate(line, (0, height), (0, top - 11 * index), **options)
    axes.annotate(row["verdict"], (1, height), (0, top), **verdict, **options)


def deciding_worlds(entries: Sequence[Entry]) -> list[Entry]:
    """Of every claim on every task the deciding test, with claim and task, if it is measured in worlds."""
    rows = [{**row, **row["tests"][_deciding(row)]} for row in entries]
    return [row for row in rows if row["details"].get("worlds") and row["interval"] is not None]


def _deciding(entry: Entry) -> int:
    """The index of a claim's deciding test, whose numbers the entry repeats."""
    effects = [test["effect"] for test in entry["tests"]]
    return effects.index(entry["effect"])


def worlds_table(rows: Sequence[Entry]) -> Table:
    """The numbers of `worlds`: an estimate and its standard error for every world."""
    names = ("claim", "task", "effect", "unit")
    return style.frame(
        {**{name: row[name] for name in names}, **world}
        for row in rows
        for world in row["details"]["worlds"]
    )


def worlds(rows: Sequence[Entry], width: float) -> Figure:
    """The deciding effect of every claim, world by world: estimates with 90% bars, the pooled interval as a diamond,
    and in grey what is practically nothing. One panel per claim and task; those of a claim share their axis."""
    most = max(len(row["details"]["worlds"]) for row in rows)
    figure, panels = style.grid(len(rows), width, 0.085 * most + 0.95, 2 if width > 5 else 1)
    of_claim: dict[str, list[Axes]] = {}
    for axes, row in zip(panels, rows, strict=True):
        _worlds_panel(axes, row)
        of_claim.setdefault(row["claim"], []).append(axes)
    for shared in of_claim.values():
        style.share_limits(shared, "xlim")
    return figure


def _worlds_panel(axes: Axes, row: Entry) -> None:
    scale, rope, own = scale_of(row["unit"]), row["rule"]["rope"], row["details"]["worlds"]
    colour = VERDICT_COLOURS.get(row["verdict"], INK)
    if rope:
        axes.axvspan(-rope * scale, rope * scale, color=RULE, lw=0, zorder=0)
    axes.axvline(0, color=SOFT, lw=0.7, zorder=1)
    middles = scale * np.array([world["estimate"] for world in own])
    bars = scale * Z90 * np.array([world["error"] for world in own])
    heights = np.arange(len(own), 0, -1.0)
    axes.hlines(heights, middles - bars, middles + bars, color=INK, lw=1, alpha=0.45)
    axes.plot(middles, heights, "o", ms=3.2, color=INK, mew=0)
    low, high = (scale * end for end in row["interval"])
    corners = [
        (low, -0.5),
        (scale * row["estimate"], 0.1),
        (high, -0.5),
        (scale * row["estimate"], -1.1),
    ]
    axes.fill(*zip(*corners, strict=True), color=colour, lw=0, zorder=3)
    axes.set_xlim(*style.limits([rope, -rope, *(middles / scale)], [row["interval"]], scale))
    axes.set_ylim(-1.6, len(own) + 0.7)
    style.effect_axis(axes, unit_name(row["unit"]))
    style.title(axes, f"{row['claim']} {row['task']}: {row['verdict']}")


def peaks_table(panels: Mapping[str, TaskEvidence], arms: Sequence[str], metric: str) -> Table:
    """Every arm's best outcome as a gain over SFT, and the KL at its peak, pooled over worlds, with 90% intervals."""
    records = []
    for title, at in panels.items():
        for arm in arms:
            place = PeakPlace(arm, metric).draws(at)
            gain, log_kl = (_numbers(one) for one in (_best(at, arm, metric), place))
            if gain is None or log_kl is None:
                continue
            record = {"panel": title, "arm": arm, **dict(zip(GAIN, gain, strict=True))}
            record |= dict(zip(PLACE, np.exp(log_kl).tolist(), strict=True))
            records.append({**record, "place": "end" if place.open else "inside"})
    return style.frame(records)


def _numbers(draws: Draws) -> list[float] | None:
    """Median and ends of the 90% interval; None without an interval."""
    found = More(0.0).judge(draws)
    if found.estimate is None or found.interval is None:
        return None
    return [found.estimate, *found.interval]


GAIN, PLACE = ("gain", "low", "high"), ("kl", "kl_low", "kl_high")
"""Columns of `peaks_table`: the best gain and the KL at the peak, each with the ends of its interval."""


def _best(at: TaskEvidence, arm: str, metric: str) -> Draws:
    """The arm's best gain over SFT within what its steps reached."""

    def gains(evidence: Evidence) -> InWorlds:
        return contrast(
            [evidence.curves(arm, metric)],
            (1.0,),
            lambda curves: [one.best() for one in curves],
            {},
        )

    try:
        return at.pool(gains, ("", ""), 0.0)
    except Unanswerable as problem:
        return Draws("", "", reason=str(problem))


def peaks(table: Table, arms: Sequence[str], label: str, percents: bool, width: float) -> Figure:
    """Every arm's best gain and the KL at its peak, in the study's order of arms; `label` is that of the outcome."""
    titles = list(dict.fromkeys(table["panel"]))
    most = max(int((table["panel"] == title).sum()) for title in titles)
    columns = 2 if width > 5 else 1
    height = 0.27 * most + 0.75
    figure = Figure(figsize=(width, height * len(titles) * (3 - columns)), layout="constrained")
    grid = figure.subplots(
        len(titles) * (3 - columns), columns, squeeze=False, sharey=columns == 2 or "none"
    )
    panels = grid.reshape(len(titles), 2)
    for (left, right), title in zip(panels, titles, strict=True):
        rows = table[table["panel"] == title].reset_index(drop=True)
        _peak_panel(left, rows, arms, GAIN)
        roots = rows.assign(**{name: np.sqrt(rows[name]) for name in PLACE})
        _peak_panel(right, roots, arms, PLACE)
        left.set_title(title if len(titles) > 1 else "")
        if percents:
            style.percent_axis(left, "x")
        left.set_xlabel(f"Best gain over SFT:\n{label}", fontsize=8.5)
        style.kl_axis(right, 1.03 * float(np.sqrt(rows["kl_high"].max())), label=False)
        right.set_xlabel("KL at the peak, nats\n", fontsize=8.5)
        if columns == 2:
            right.tick_params(labelleft=False)
    return figure


def _peak_panel(
    axes: Axes, rows: Table, arms: Sequence[str], columns: tuple[str, str, str]
) -> None:
    middle, low, high = columns
    for height, row in enumerate(rows.to_dict("records")):
        colour, marker, _ = look(arms, row["arm"])
        axes.plot([row[low], row[high]], [height] * 2, color=colour, lw=1.6)
        face = colour if row["place"] == "inside" else PAPER
        axes.plot(row[middle], height, marker, ms=6, color=colour, mfc=face, mew=1.3)
    axes.set_yticks(range(len(rows)), rows["arm"].tolist())
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", color=RULE, lw=0.5)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)

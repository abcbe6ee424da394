"""Small forest plots beside the intervals of a study's page: every world, the pooled interval, and what is practically
nothing. Drawn as SVG by hand: a page has dozens, and they follow the page's colours."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from analysis.figures.style import Z90
from analysis.html import Html, element, number, unit_words
from analysis.verdicts.evidence import ALL_TASKS

Entry = Mapping[str, Any]
_WIDTH, _MARGIN, _TOP, _FOOT = 260.0, 6.0, 4.0, 16.0
_MOST_ROW, _MOST_HEIGHT = 9.0, 190.0
_BEYOND = 0.35
"""Bars are cut where they leave the range of the estimates and of the interval by more than this share of it."""


class Row(NamedTuple):
    """One world, or one task of a typical one: its name, its estimate, and the ends of its 90% interval."""

    name: str
    estimate: float
    low: float
    high: float


def rows_of(test: Entry) -> list[Row]:
    """The worlds of a test or of an effect beside it; none if it is not measured in worlds."""
    return [
        Row(
            f"world {world['seed']}",
            world["estimate"],
            world["estimate"] - Z90 * world["error"],
            world["estimate"] + Z90 * world["error"],
        )
        for world in test["details"].get("worlds", ())
        if world["estimate"] is not None and world["error"] is not None
    ]


class Axis(NamedTuple):
    """The range of effects that a forest shows, and the region that is practically nothing."""

    low: float
    high: float
    rope: float

    def at(self, value: float) -> float:
        """The horizontal place of an effect, cut at the ends of the axis."""
        inside = min(max(value, self.low), self.high)
        return _MARGIN + (_WIDTH - 2 * _MARGIN) * (inside - self.low) / (self.high - self.low)


def axis(effects: Sequence[tuple[Entry, Sequence[Row]]], rope: float) -> Axis | None:
    """One axis for several effects with their rows, so that tasks can be compared; None if they have no numbers."""
    inner = [value for test, rows in effects for value in _core(test, rows)]
    if not inner:
        return None
    low, high = min(0.0, -rope, *inner), max(0.0, rope, *inner)
    room = _BEYOND * (high - low) or 1.0
    bars = [end for _, rows in effects for row in rows for end in (row.low, row.high)]
    left, right = max(min([low, *bars]), low - room), min(max([high, *bars]), high + room)
    # All effects may be 0 exactly, where nothing has an error: shares of checkpoints that differ.
    return Axis(left, right if right > left else left + 1.0, rope)


def _core(test: Entry, rows: Sequence[Row]) -> list[float]:
    """The numbers that must be seen: estimates and the pooled interval."""
    pooled = [] if test["estimate"] is None else [test["estimate"]]
    return [*(row.estimate for row in rows), *pooled, *(test["interval"] or ())]


def forest(test: Entry, rows: Sequence[Row], shown: Axis) -> Html:
    """The forest of one effect; nothing if it has no rows."""
    if not rows:
        return Html("")
    step = min(_MOST_ROW, _MOST_HEIGHT / len(rows))
    bottom = _TOP + step * (len(rows) + 2.2)
    parts = [*_ground(shown, bottom)]
    for index, row in enumerate(rows):
        parts.append(_world(row, shown, _TOP + step * (index + 0.5), step, test["unit"]))
    parts += [*_diamond(test, shown, _TOP + step * (len(rows) + 1.0), min(step, 5.0))]
    parts += [*_labels(test["unit"], shown, bottom)]
    verdict = test.get("verdict", "beside")
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {_WIDTH:g} {bottom + _FOOT:.4g}",
        role="img",
        aria_label=f"{test['effect']}: {len(rows)} rows and the pooled interval",
        class_=f"forest {verdict}",
    )


def _ground(shown: Axis, bottom: float) -> Iterator[Html]:
    """What is practically nothing, and the line at zero."""
    if shown.rope:
        x, end = shown.at(-shown.rope), shown.at(shown.rope)
        size = {"x": _text(x), "y": 0, "width": _text(end - x), "height": _text(bottom)}
        yield element("rect", class_="rope", **size)
    yield _line(shown.at(0.0), shown.at(0.0), 0.0, bottom, "zero")


def _world(row: Row, shown: Axis, y: float, step: float, unit: str) -> Html:
    """A world's estimate and its bar, named when pointed at."""
    said = f"{row.name}: {number(row.estimate, unit, signed=True)}"
    if row.high > row.low:
        said += f" ({number(row.low, unit)} to {number(row.high, unit)})"
    dot = {"cx": _text(shown.at(row.estimate)), "cy": _text(y), "r": _text(min(0.3 * step, 2.2))}
    bar = _line(shown.at(row.low), shown.at(row.high), y, y, "bar")
    return element("g", element("title", said), bar, element("circle", **dot))


def _line(x1: float, x2: float, y1: float, y2: float, kind: str) -> Html:
    ends = {"x1": _text(x1), "x2": _text(x2), "y1": _text(y1), "y2": _text(y2)}
    return element("line", class_=kind, **ends)


def _diamond(test: Entry, shown: Axis, y: float, half: float) -> Iterator[Html]:
    """The pooled effect: as wide as its interval, highest at its median."""
    if test["interval"] is None or test["estimate"] is None:
        return
    low, middle, high = (
        shown.at(x) for x in (test["interval"][0], test["estimate"], test["interval"][1])
    )
    corners = [(low, y), (middle, y - half), (high, y), (middle, y + half)]
    yield element(
        "polygon", points=" ".join(f"{_text(a)},{_text(b)}" for a, b in corners), class_="diamond"
    )


def _labels(unit: str, shown: Axis, bottom: float) -> Iterator[Html]:
    """The ends of the axis, and zero where there is room."""
    yield _line(_MARGIN, _WIDTH - _MARGIN, bottom, bottom, "axis")
    places = [(shown.low, "start", _MARGIN), (shown.high, "end", _WIDTH - _MARGIN)]
    zero = shown.at(0.0)
    if 60 < zero < _WIDTH - 95:
        places.append((0.0, "middle", zero))
    for value, anchor, x in places:
        # The unit is at the right end only.
        words = number(value, unit, signed=bool(value)) if value else "0"
        words += (unit_words(unit) if len(unit_words(unit)) < 12 else "") if anchor == "end" else ""
        yield element("text", words, x=_text(x), y=_text(bottom + 12), text_anchor=anchor)


def _text(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def of_claim(rows: Sequence[Entry], part: str) -> dict[tuple[str, int], Html]:
    """The forests of a claim's effects by task and index: those of its "tests", or of the effects "beside" them.

    A typical task shows the tasks, each with its own interval. Practically nothing is what tests of the same unit call
    so.
    """
    ropes = {test["unit"]: test["rule"]["rope"] for row in rows for test in row["tests"]}
    found: dict[tuple[str, int], Html] = {}
    for index in range(max((len(row[part]) for row in rows), default=0)):
        at = {row["task"]: row[part][index] for row in rows if index < len(row[part])}
        tasks = [
            Row(task, test["estimate"], *test["interval"])
            for task, test in at.items()
            if task != ALL_TASKS and test["interval"] is not None
        ]
        own = {task: rows_of(test) if task != ALL_TASKS else tasks for task, test in at.items()}
        unit = next(iter(at.values()))["unit"]
        shown = axis([(test, own[task]) for task, test in at.items()], ropes.get(unit, 0.0))
        if shown is not None:
            found |= {(task, index): forest(test, own[task], shown) for task, test in at.items()}
    return found

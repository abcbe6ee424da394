"""Where the time of a command went, as its ``profile.json`` has it: a bar, a table of parts, and the programs."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis import html
from analysis.html import Html, element
from sweeps.console.profile import FILE
from sweeps.store import json_files
from testbed.errors import InvalidInput

_SHAPE: json_files.Shape = {
    **dict.fromkeys(("wall_seconds", "cpu_seconds", "unhidden_seconds"), float),
    "cores": int,
    "parts": [
        {
            "part": str,
            "what": str,
            "times": int,
            "seconds": float,
            "cpu_seconds": float,
            "beside_programs": float,
        }
    ],
    "programs": [
        {"name": str, **dict.fromkeys(("tracing", "compiling", "reading", "waited"), float)}
    ],
}
#: Programs that the page names; the others are added up.
_NAMED = 16
_WIDTH, _HEIGHT = 640.0, 14.0


def of(directory: Path | None) -> Html:
    """The section's parts for the results in a directory; nothing if its command, or that of several studies together,
    was not profiled."""
    for place in (directory, directory and directory.absolute().parent):
        if place and (place / FILE).is_file():
            with contextlib.suppress(InvalidInput):
                return shown(json_files.read(place / FILE, _SHAPE, ""))
    return Html("")


def shown(profile: Mapping[str, Any]) -> Html:
    """A profile as a bar and tables."""
    wall, cpu = profile["wall_seconds"], profile["cpu_seconds"]
    words = html.paragraph(
        f"Where the {html.duration(wall)} of the latest profiled command went, up to the writing of this page or to "
        f"its end: {html.number(cpu)} CPU seconds on {html.plural(profile['cores'], 'core')}.",
        "The parts follow one another and add up to the whole. Other threads made programs beside them for the seconds "
        "in the last column; the CPU seconds include these threads.",
        f"For {html.number(profile['unhidden_seconds'])} seconds the command could do nothing but wait for programs.",
    )
    rows = [
        (
            one["part"],
            one["what"],
            one["times"] or "",
            f"{one['seconds']:.1f}",
            html.percent(one["seconds"] / wall if wall else 0.0),
            f"{one['cpu_seconds']:.1f}",
            f"{one['beside_programs']:.1f}",
        )
        for one in profile["parts"]
    ]
    header = ("part", "of", "times", "seconds", "share", "CPU seconds", "beside programs")
    return html.join(
        [words, _bar(profile["parts"]), html.table(header, rows, numeric=5), _programs(profile)]
    )


def _bar(parts: Sequence[Mapping[str, Any]]) -> Html:
    """The parts as lengths of one bar, in the table's order; a part is named when pointed at."""
    by: dict[str, float] = {}
    for one in parts:
        by[one["part"]] = by.get(one["part"], 0.0) + one["seconds"]
    whole, left, boxes = sum(by.values()) or 1.0, 0.0, []
    for number, (name, seconds) in enumerate(by.items()):
        width = seconds / whole * _WIDTH
        box = {"x": f"{left:.1f}", "width": f"{width:.1f}", "height": f"{_HEIGHT:g}"}
        title = element("title", f"{name}: {seconds:.1f} s")
        opacity = "0.75" if number % 2 else "0.35"
        boxes.append(element("rect", title, fill="currentColor", fill_opacity=opacity, **box))
        left += width
    size = f"0 0 {_WIDTH:g} {_HEIGHT:g}"
    return element(
        "svg", *boxes, viewBox=size, width="100%", role="img", aria_label="Parts by time"
    )


def _programs(profile: Mapping[str, Any]) -> Html:
    names = ("tracing", "compiling", "reading", "waited")
    rows = [(one["name"], *(one[name] for name in names)) for one in profile["programs"]]
    rest = rows[_NAMED:]
    if rest:
        sums = (sum(row[place] for row in rest) for place in range(1, 5))
        rows = [*rows[:_NAMED], (f"{len(rest)} others", *sums)]
    words = html.paragraph(
        "Seconds in which a thread traced, compiled or read each program, and seconds of these in which the command "
        "waited."
    )
    texts = [(name, *(f"{value:.1f}" for value in values)) for name, *values in rows]
    table = html.table(("program", "tracing", "compiling", "reading", "waited"), texts, numeric=4)
    return html.details(f"The {len(profile['programs'])} programs", words, table)

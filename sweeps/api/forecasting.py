"""What a run would take, and how precise its verdicts would be: ``testbed run --dry-run``."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.worlds.power import Expected, expected
from sweeps.api.precision import Precision, described, rounded
from sweeps.api.runner import distinct, places, tasks_of
from sweeps.console.tables import cost_of, rich_table, say, show, show_cost
from sweeps.population.engine import Engine
from sweeps.population.plan import Plan
from sweeps.selection import Selection, seeds_from
from sweeps.store import metadata as headers
from sweeps.store import provenance
from sweeps.store.store import Store
from testbed import config, paths

#: The precision whose number of worlds a plan states if none is asked for.
POINTS = 2.0


@dataclass(frozen=True)
class Forecast:
    """The prediction for `sweeps.api.runner.run`.

    Attributes:
        studies: the preset of each study. runs, stored: the number of runs, and of those that are stored.
        directory: of the results. plan: of the remaining runs; None if there are none.
        expected: the precision to expect of every test on every task.
        asked: the precision that was asked for, if any. worlds: the number of worlds with which each study is then
            expected to end.
    """

    studies: Mapping[str, str]
    runs: int
    stored: int
    directory: Path
    plan: Plan | None
    expected: tuple[Expected, ...] = ()
    asked: Precision | None = None
    worlds: Mapping[str, int] = field(default_factory=dict)

    def points(self, claim: str) -> float:
        """The precision of a claim for which the number of worlds is stated."""
        return POINTS if self.asked is None else self.asked.of(claim) or POINTS

    def describe(self) -> dict[str, Any]:
        """The forecast as JSON-able data; predicted times in seconds, predicted memory in bytes."""
        data = {"studies": dict(self.studies), "runs": self.runs, "stored": self.stored}
        data |= {"directory": paths.shown(self.directory)}
        if self.plan is not None:
            data |= cost_of(self.plan) | {"groups": self.plan.describe()}
        data["expected"] = [one.describe(self.points(one.key.claim)) for one in self.expected]
        if self.asked is not None:
            data["precision"] = {**self.asked.described(), "worlds": dict(self.worlds)}
        return data

    def show(self, console: Console) -> None:
        """Print the forecast."""
        if self.plan is not None:
            names = ", ".join(f"{name} ({preset})" for name, preset in self.studies.items())
            show(rich_table(self.plan.describe(), names), console)
            show_cost(self.plan, console)
        _show_expected(self.expected, self.points, console)
        for study, worlds in self.worlds.items():
            most = self.asked is not None and worlds >= self.asked.max_worlds
            why = "the most that are allowed (--max-worlds)" if most else "when it is reached"
            say(console, f"Precision  {study} is expected to end with {worlds} worlds, {why}")
        say(console, f"Runs       {self.runs}, of which {self.stored} are stored")
        say(console, f"Results    {self.directory}")


def forecast(
    selections: Sequence[Selection],
    directory: Path,
    engine: Engine,
    asked: Precision | None = None,
) -> Forecast:
    """Predict the work, the cost and the precision of `sweeps.api.runner.run`; nothing is written. Of a study that
    grows, the work is that before the first look."""
    points, stored, precision, ends = [], set(), [], {}
    for place, given in places(selections, directory).items():
        selection = given if asked is None else asked.begun(given, place)
        own, name, worlds = selection.points(), selection.study.name, len(selection.seeds)
        settled = False
        points += own
        if (place / "study.json").is_file():
            # Raises for the same reasons as the run itself.
            header = config.jsonable(described(selection, provenance.session()))
            known = headers.read(place)
            worlds = len(seeds_from(headers.joined(place, known, header)["seeds"]))
            settled = asked is not None and asked.settled(known)
            stored |= Store.open(place).finished()
        of_study = expected(name, selection.claims, tasks_of(own, name), worlds, place)
        precision += of_study
        if asked is not None:
            ends[name] = worlds if settled else asked.ends_with(of_study, worlds)
    points = distinct(points)
    todo = [point for point in points if point.run not in stored]
    return Forecast(
        {selection.study.name: selection.preset for selection in selections},
        len(points),
        len(points) - len(todo),
        directory,
        engine.plan(todo) if todo else None,
        tuple(precision),
        asked,
        ends,
    )


def _show_expected(
    expected: Sequence[Expected], points: Callable[[str], float], console: Console
) -> None:
    """Print the half width to expect of every claim on every task: that of its widest test, and why."""
    rows, unknown = [], []
    for (claim, task), tests in _by_claim(expected).items():
        known = [one for one in tests if one.half_width is not None]
        if not known:
            unknown.append(f"{claim} on {task}")
            continue
        # Without a ROPE an effect has no points; claims whose effects all have none show their first.
        widest = max(known, key=lambda one: one.points or 0.0)
        rows.append(_row(widest, points(claim)))
    if rows:
        show(rich_table(rows, "Half widths of 90% intervals to expect"), console)
    if unknown:
        reason = "no earlier verdict says how these vary between worlds"
        say(console, f"Not known  for {', '.join(unknown)}: {reason}")


def _row(one: Expected, points: float) -> dict[str, str]:
    """The expectation for a test, in texts."""
    own = f"±{one.half_width:.2g} {one.unit}"
    shown = own if one.points is None else f"±{rounded(one.points)} points ({own})"
    needed = f"{one.needed(points) or 'too many'} for {points:g} points"
    return {
        "claim": one.key.claim,
        "task": one.key.task,
        "half width": shown,
        "worlds needed": "–" if one.points is None else needed,
        "why": f"{one.worlds} worlds; {one.why()}",
    }


def _by_claim(expected: Iterable[Expected]) -> dict[tuple[str, str], list[Expected]]:
    by: dict[tuple[str, str], list[Expected]] = {}
    for one in expected:
        by.setdefault((one.key.claim, one.key.task), []).append(one)
    return by

"""Studies that grow until their intervals are narrow: ``testbed run --precision``.

A study begins with its worlds, at least `FIRST` of them, is looked at, and gets `STEP` more worlds, again and again,
until the 90% interval of every deciding test on every task of the study has at most the half width that was asked for;
then it gets `MORE` worlds and is not looked at again. A look sees widths, never effects or verdicts. ``study.json``
keeps every look, so that an interrupted study goes on by the same rule.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from rich.console import Console

from analysis.worlds.power import FIRST, MORE, MOST, Expected, Width, following, widths
from sweeps.console import activity
from sweeps.console.tables import say
from sweeps.selection import Selection, seeds_from
from sweeps.store import metadata as headers
from sweeps.store.store import Store, read_stores
from sweeps.tensorboard.refresh import Opened
from testbed.errors import InvalidInput

#: All verdicts of the results in a directory, whose stores have been read: `analysis.report.verdicts`.
Judge = Callable[[Path, Sequence[Opened]], list[dict[str, Any]]]
#: Key in `study.json`, see docs/sweeps.md.
KEY = "precision"


#: Points of every claim, or by claim; as a text in the form of the command line.
PrecisionLike: TypeAlias = float | Mapping[str, float] | str


@dataclass(frozen=True)
class Precision:
    """The half width that is asked for, and the budget: worlds, and minutes of this command. ``points`` are those of
    every claim, or of the named claims, when the others have no say."""

    points: float | Mapping[str, float]
    max_worlds: int = MOST
    minutes: float | None = None

    @classmethod
    def asked(
        cls, points: PrecisionLike | None, max_worlds: int | None, minutes: float | None
    ) -> "Precision | None":
        """The options of a command; None without a precision. Raises `InvalidInput`."""
        if points is None:
            for name, value in (("--max-worlds", max_worlds), ("--minutes", minutes)):
                if value is not None:
                    raise InvalidInput(f"{name} needs --precision: only such a study grows")
            return None
        wanted = _read(points) if isinstance(points, str) else points
        if isinstance(wanted, Mapping):
            wanted = {claim: float(each) for claim, each in wanted.items()}
        every = list(wanted.values()) if isinstance(wanted, Mapping) else [wanted]
        for name, value in [*(("--precision", one) for one in every), ("--minutes", minutes)]:
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InvalidInput(f"{name} must be above 0, got {value:g}")
        most = MOST if max_worlds is None else max_worlds
        if most < FIRST:
            raise InvalidInput(
                f"--max-worlds must be at least {FIRST}, the number of worlds of the first look, got {most}"
            )
        return cls(wanted, most, None if minutes is None else float(minutes))

    def of(self, claim: str) -> float | None:
        """The points that are asked for of a claim; None if it has no say."""
        return self.points.get(claim) if isinstance(self.points, Mapping) else self.points

    def check(self, selections: Sequence[Selection]) -> None:
        """Raise `InvalidInput` if a study has more worlds than the budget or no claim that has a say, or if there is no
        claim of a given name."""
        known = {one.study.name: [claim.id for claim in one.claims] for one in selections}
        for selection in selections:
            name, worlds = selection.study.name, len(selection.seeds)
            if worlds > self.max_worlds:
                raise InvalidInput(
                    f"--max-worlds must be at least {worlds}, the number of worlds that study {name} begins with, got "
                    f"{self.max_worlds}"
                )
            if not any(map(self.of, known[name])):
                raise InvalidInput(
                    f"--precision says nothing about study {name}: its claims are {', '.join(known[name]) or 'none'}"
                )
        named = self.points if isinstance(self.points, Mapping) else {}
        allowed = dict.fromkeys(itertools.chain.from_iterable(known.values()))
        strange = sorted(named.keys() - allowed.keys())
        if strange:
            raise InvalidInput(
                f"--precision names claim {strange[0]}: allowed are {', '.join(allowed)}"
            )

    def begun(self, selection: Selection, place: Path) -> Selection:
        """The selection with the worlds that the study has next, by the results that are stored in ``place``."""
        seeds = selection.seeds
        count = max(FIRST, len(seeds))
        if (place / "study.json").is_file():
            header = headers.read(place)
            stored = seeds_from(header["seeds"])
            looks = _looks(header)
            if stored.start == seeds.start:
                count = max(count, len(stored))
                if looks:
                    precise = looks[-1].precise(self)
                    count = max(count, following(looks[-1].worlds, precise, self.max_worlds))
        return grown(selection, count)

    def settled(self, header: Mapping[str, Any]) -> bool:
        """Whether the last look that `study.json` keeps found the precision."""
        looks = _looks(header)
        return bool(looks) and looks[-1].precise(self)

    def ends_with(self, expected: Sequence[Expected], begin: int) -> int:
        """The number of worlds with which a study is expected to end that begins with so many."""
        known = [one for one in expected if self.of(one.key.claim) and one.points is not None]
        count, precise = begin, not known
        while count < self.max_worlds and not precise:
            at = [replace(one, worlds=count) for one in known]
            precise = all((one.points or 0.0) <= (self.of(one.key.claim) or 0.0) for one in at)
            count = following(count, precise, self.max_worlds)
        return count

    def spelt(self) -> str:
        """The points as the command line takes them."""
        if isinstance(self.points, Mapping):
            return ",".join(f"{claim}={points:g}" for claim, points in self.points.items())
        return f"{self.points:g}"

    def words(self) -> list[str]:
        """The options on the command line."""
        words = ["--precision", self.spelt(), "--max-worlds", str(self.max_worlds)]
        return words if self.minutes is None else [*words, "--minutes", f"{self.minutes:g}"]

    def described(self) -> dict[str, Any]:
        """The options as JSON-able data."""
        points = dict(self.points) if isinstance(self.points, Mapping) else self.points
        return {"points": points, "max_worlds": self.max_worlds, "minutes": self.minutes}


def _read(text: str) -> float | dict[str, float]:
    """Points from ``2`` or ``C2=2,C3.8=4``. Raises `InvalidInput`."""
    try:
        if "=" not in text:
            return float(text)
        pairs = (part.split("=") for part in text.split(","))
        return {claim.strip(): float(points) for claim, points in pairs}
    except ValueError:
        raise InvalidInput(
            f"--precision must be a number of points, or one for each claim such as C2=2,C3.8=4, got {text}"
        ) from None


class Look(NamedTuple):
    """The half widths of a study's tests with so many worlds, the widest first."""

    worlds: int
    widths: tuple[Width, ...]

    def relative(self, asked: Precision) -> list[tuple[float, Width]]:
        """The half widths that have a say, each as a multiple of what was asked for, the largest first."""
        wanted = ((asked.of(width.claim), width) for width in self.widths)
        multiples = [(width.points / points, width) for points, width in wanted if points]
        return sorted(multiples, key=lambda pair: -pair[0])

    def precise(self, asked: Precision) -> bool:
        """Whether every half width that has a say is as small as was asked for."""
        multiples = self.relative(asked)
        return bool(multiples) and multiples[0][0] <= 1

    def sentence(self, asked: Precision) -> str:
        """The widest interval, for people."""
        multiples = self.relative(asked)
        if not multiples:
            return f"{self.worlds} worlds: no deciding test has an interval"
        _, (claim, task, *_, points) = multiples[0]
        return f"{self.worlds} worlds: {claim} on {task} ±{points:.2g} points (asked {asked.of(claim):g})"


def rounded(value: float) -> str:
    """A width to two digits, or as a whole number."""
    return f"{value:.2g}" if value < 99.5 else f"{value:.0f}"


def grown(selection: Selection, worlds: int) -> Selection:
    """The selection with so many worlds: the range of its seeds grows at its end."""
    first = selection.seeds.start
    return replace(selection, seeds=seeds_from(range(first, first + worlds)))


def described(selection: Selection, origin: Mapping[str, Any]) -> dict[str, Any]:
    """A selection in the form of `study.json`, with the ``origin`` of the session: `provenance.session` and
    `Request.origins`."""
    header = {**selection.describe(), **origin}
    if "asked" in header:
        # A study that grows has more worlds than its command asked for.
        header["asked"] = {**header["asked"], "seeds": header["seeds"]}
    return header


def _looks(header: Mapping[str, Any]) -> list[Look]:
    """The looks that `study.json` keeps."""
    return [
        Look(look["worlds"], tuple(Width(**width) for width in look["widths"]))
        for look in header.get(KEY, {}).get("looks", [])
    ]


@dataclass
class Growing:
    """One study that may grow: its selection, its tasks, its store, the ``origin`` of its present session, and why it
    has stopped ("" if it goes on)."""

    selection: Selection
    tasks: Sequence[str]
    store: Store
    origin: Mapping[str, Any]
    ended: str = ""

    @property
    def looks(self) -> list[Look]:
        """The looks at the study, of earlier commands too."""
        return _looks(self.store.header)

    @property
    def worlds(self) -> int:
        """The number of its worlds."""
        return len(self.selection.seeds)

    @property
    def runs_per_world(self) -> float:
        """The number of runs of one world."""
        return len(self.selection.points()) / self.worlds

    def grow(self, worlds: int) -> None:
        """Plan so many worlds."""
        self.selection = grown(self.selection, worlds)
        self.store.plan_further(described(self.selection, self.origin))

    def conclusion(self) -> str:
        """How often the study was looked at, and why it ended, for people."""
        counts = [str(look.worlds) for look in self.looks]
        at = " and ".join(filter(None, [", ".join(counts[:-1]), *counts[-1:]]))
        times = f"{len(counts)} times" if len(counts) != 1 else "once"
        looked = f"looked {times}, at {at} worlds" if counts else "not looked at"
        return f"{looked}; ended with {self.worlds} worlds: {_ENDS[self.ended]}"


#: Why a study ended, as `study.json` has it, and in words.
_ENDS = {
    "precision": "the precision was reached",
    "max_worlds": "no more are allowed (--max-worlds)",
    "minutes": "the time is spent (--minutes)",
    "no_interval": "more worlds would give no interval either",
}


class Growth:
    """The growth of the studies of one command."""

    def __init__(self, asked: Precision, judge: Judge, console: Console) -> None:
        self.asked, self._judge, self._console = asked, judge, console
        self._start = self._round = time.monotonic()
        self._seconds_per_run = 0.0

    def look(self, directory: Path, studies: Sequence[Growing], ran: int) -> bool:
        """Look at the studies that go on, after ``ran`` runs since the last look, and let them grow. Returns whether
        any study has more worlds now."""
        if ran:
            self._seconds_per_run = (time.monotonic() - self._round) / ran
        running = [study for study in studies if not study.ended]
        due = [study for study in running if self._goes_on(study, running)]
        entries = self._entries(directory, due) if due else []
        for study in due:
            look = self._looked(study, entries)
            if look.relative(self.asked):
                precise = look.precise(self.asked)
                study.grow(following(look.worlds, precise, self.asked.max_worlds))
            else:
                self._end(study, "no_interval")
        self._round = time.monotonic()
        return any(not study.ended for study in due)

    def _goes_on(self, study: Growing, beside: Sequence[Growing]) -> bool:
        """Whether a study is to be looked at, by the worlds and the time that are left. A study that could not get the
        worlds that follow a precise look ends whatever its widths are."""
        if self.asked.settled(study.store.header):
            self._end(study, "precision")
        elif study.worlds >= self.asked.max_worlds:
            self._end(study, "max_worlds")
        elif self.asked.minutes is not None:
            runs = MORE * sum(other.runs_per_world for other in beside)
            needed = time.monotonic() - self._start + runs * self._seconds_per_run
            if needed > 60 * self.asked.minutes:
                self._end(study, "minutes")
        return not study.ended

    def _entries(self, directory: Path, due: Iterable[Growing]) -> list[dict[str, Any]]:
        activity.begin(f"looking at {max(study.worlds for study in due)} worlds")
        return self._judge(directory, read_stores(directory))

    def _looked(self, study: Growing, entries: Sequence[Mapping[str, Any]]) -> Look:
        """The look at a study, which is kept and printed."""
        name = study.selection.study.name
        look = Look(study.worlds, tuple(widths(entries, name, study.tasks)))
        shown = [width._asdict() for width in look.widths]
        points = self.asked.described()["points"]
        self._keep(study, None, [{"worlds": look.worlds, "points": points, "widths": shown}])
        say(self._console, f"{name}: {look.sentence(self.asked)}")
        return look

    def _end(self, study: Growing, why: str) -> None:
        study.ended = why
        self._keep(study, why, [])

    def _keep(self, study: Growing, ended: str | None, looks: Sequence[Mapping[str, Any]]) -> None:
        """Write the present budget, the end and further looks to `study.json`."""
        before = study.store.header.get(KEY, {}).get("looks", [])
        facts = {**self.asked.described(), "ended": ended, "looks": [*before, *looks]}
        study.store.keep(**{KEY: facts})

    def conclude(self, studies: Iterable[Growing], verdicts: Sequence[Mapping[str, Any]]) -> None:
        """Print how often each study was looked at, why it ended, and its widest interval."""
        for study in studies:
            name = study.selection.study.name
            last = Look(study.worlds, tuple(widths(verdicts, name, study.tasks)))
            say(self._console, f"{name}: {study.conclusion()}")
            say(self._console, f"{name}: {last.sentence(self.asked)}")

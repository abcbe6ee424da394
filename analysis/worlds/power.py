"""The half width that a test's 90% interval will have, from how its effect scattered over worlds before.

Under the model of `analysis.worlds.pooled` an effect measured in n worlds has, to a good approximation, the half width

    t(0.95; df) sqrt(V),    V = (c tau^2 + s^2) / n + sigma^2 / F

with the scatter tau between worlds, the standard error s within a world (root mean square), the scatter sigma between F
families, and c = (NU + 3) / (NU + 1): a Student t of scale tau tells as much about its centre as a normal of variance
c tau^2. The degrees of freedom are Satterthwaite's (1946): n - 1 where worlds scatter and nothing else, F - 1 where
families do, more where a part of V is known beforehand, as s is. A test compares the formula with `pool`.

The components tau, s and sigma come from the verdicts of an earlier run in the same results directory, or else from a
table in this package. `python -m analysis.worlds.power DIR...` writes the table's rows of the studies in results
directories.
"""

import contextlib
import csv
import dataclasses
import io
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from analysis.worlds.pooled import NU
from sweeps.claims import Claim
from sweeps.store import json_files
from testbed import paths
from testbed.errors import InvalidInput
from testbed.metric_table import declared

FIRST, STEP, MORE, MOST = 8, 2, 4, 32
"""A design that grows until its intervals are narrow begins with ``FIRST`` worlds and adds ``STEP`` at a time, ``MOST``
at the most. When it is precise enough, it adds ``MORE`` without another look: a width that is small enough for the
first time is too small on average (with a first look at 6 worlds and no more after the last, 90% intervals covered 84
to 90%)."""
POINT = 0.035
"""A point of precision of golden rewards, in SFT standard deviations. In any other unit, a point is half the ROPE."""
TABLE = Path(__file__).with_name("components.csv")
"""Components of earlier runs of the studies at a default size, for directories without verdicts."""
#: The details of a test about an effect over worlds.
_DETAILS: json_files.Shape = {
    "worlds": [{"seed": int, "estimate": float, "error": float}],
    "scatter": float,
    "families?": int,
}
_LARGEST = 10_000
_INFORMATION = (NU + 3) / (NU + 1)


def following(worlds: int, precise: bool, most: int = MOST) -> int:
    """The number of worlds of a growing design after a look at ``worlds``: the rule sees widths, never effects."""
    return min(worlds + (MORE if precise else STEP), most)


def point(unit: str, rope: float) -> float | None:
    """One point of precision in the unit of an effect; None for effects that have no scale of their own."""
    if unit == declared("golden_reward").unit:
        return POINT
    return rope / 2 if rope > 0 else None


@dataclasses.dataclass(frozen=True)
class Components:
    """How an effect varies, in its own unit, as it was measured in so many ``worlds``.

    Attributes:
        scatter: scale of the scatter between worlds. error: root mean square standard error within a world.
        family: scale of the scatter between families, ``per_family`` worlds each; 0 where no worlds share a family.
        source: where the numbers were found, for people.
    """

    scatter: float
    error: float
    worlds: int
    family: float = 0.0
    per_family: float = 1.0
    source: str = ""

    def half_width(self, worlds: int) -> float:
        """The half width of the 90% interval to expect of two or more worlds."""
        families = max(worlds / self.per_family, 2.0)
        parts = (
            (_INFORMATION * self.scatter**2 / worlds, worlds - 1.0),
            (self.family**2 / families, families - 1.0),
        )
        variance = sum(part for part, _ in parts) + self.error**2 / worlds
        if variance == 0:
            return 0.0
        inverse = sum((part / variance) ** 2 / freedom for part, freedom in parts)
        # `tau` is never known to be 0, however large the errors: more freedom than this would promise too much.
        freedom = min(1 / inverse if inverse else math.inf, 3.0 * (worlds - 1))
        return float(special.stdtrit(freedom, 0.95) * math.sqrt(variance))

    def needed(self, half_width: float) -> int | None:
        """The least number of worlds whose half width to expect is at most this; None above 10,000."""
        low, high = 1, _LARGEST
        if half_width <= 0 or self.half_width(high) > half_width:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.half_width(middle) <= half_width else (middle, high)
        return high

    @classmethod
    def of(
        cls, details: Mapping[str, Any], interval: Sequence[float] | None, source: str
    ) -> "Components | None":
        """The components in the details of a test in `verdicts.json`; None if it is no effect over worlds.

        ``details`` has "worlds", a list with the "seed", "estimate" and "error" of each, and "scatter"; also "families"
        if so many worlds of consecutive seeds are a family. The scatter between families is what explains the width of
        the ``interval``.
        """
        if json_files.misfit(details, _DETAILS) is not None or len(details["worlds"]) < 2:
            return None
        worlds = details["worlds"]
        errors = np.array([world["error"] for world in worlds], dtype=float)
        error = float(np.sqrt(np.mean(errors**2)))
        alone = cls(float(details["scatter"]), error, len(worlds), source=source)
        size = max(details.get("families", 1), 1)
        families = len({world["seed"] // size for world in worlds})
        if interval is None or not 1 < families < len(worlds):
            return alone
        return alone._with_families(families, (interval[1] - interval[0]) / 2)

    def _with_families(self, families: int, observed: float) -> "Components":
        """The same with the scatter between families that makes the half width the ``observed`` one."""
        shared = dataclasses.replace(self, per_family=self.worlds / families)

        def at(family: float) -> "Components":
            return dataclasses.replace(shared, family=family)

        low, high = 0.0, observed * math.sqrt(families)
        for _ in range(50):
            middle = (low + high) / 2
            wide = at(middle).half_width(self.worlds) > observed
            low, high = (low, middle) if wide else (middle, high)
        return at(low)


class Key(NamedTuple):
    """A test of a claim on a task: its place among the claim's tests and the words of its effect, which must agree."""

    study: str
    claim: str
    test: int
    effect: str
    task: str


#: The part of a verdict that is read here; see `analysis.report.ENTRY`.
_TEST: json_files.Shape = {
    "effect": str,
    "unit": str,
    "interval": ([float, float], None),
    "rule": {"rope": float},
    "details": dict,
}
_ENTRY: json_files.Shape = {"study": str, "claim": str, "task": str, "tests": [_TEST]}


def stored(directory: Path) -> dict[Key, Components]:
    """The components of the tests that were judged in a results directory; none before the first report, and none if
    the verdicts are damaged or of another version: the next report writes them again."""
    path = directory / "report" / "verdicts.json"
    with contextlib.suppress(InvalidInput):
        return components(json_files.read(path, [_ENTRY], ""), paths.shown(path))
    return {}


def components(entries: Iterable[Mapping[str, Any]], source: str) -> dict[Key, Components]:
    """The components of all tests of verdicts that are effects over worlds."""
    found = {}
    for entry in entries:
        for number, test in enumerate(entry["tests"]):
            of = Components.of(test["details"], test["interval"], source)
            if of is not None:
                key = Key(entry["study"], entry["claim"], number, test["effect"], entry["task"])
                found[key] = of
    return found


def defaults(path: Path = TABLE) -> dict[Key, Components]:
    """The components in the table of this package."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        Key(row["study"], row["claim"], int(row["test"]), row["effect"], row["task"]): Components(
            float(row["scatter"]),
            float(row["error"]),
            int(row["worlds"]),
            float(row["family"]),
            float(row["per_family"]),
            f"a table of earlier runs ({row['worlds']} worlds of {row['study']})",
        )
        for row in rows
    }


@dataclasses.dataclass(frozen=True)
class Expected:
    """The precision to expect of one test on one task with so many ``worlds``; ``components`` are None if no earlier
    run says how the effect varies. ``point``: one point of precision, in ``unit``."""

    key: Key
    unit: str
    point: float | None
    worlds: int
    components: Components | None

    @property
    def half_width(self) -> float | None:
        """The half width of the 90% interval to expect, in `unit`; None if it is not known."""
        if self.components is None or self.worlds < 2:
            return None
        return self.components.half_width(self.worlds)

    @property
    def points(self) -> float | None:
        """`half_width` in points."""
        half = self.half_width
        return None if half is None or self.point is None else half / self.point

    def needed(self, points: float) -> int | None:
        """The number of worlds with which ``points`` are to be expected; None if none is enough, or it is not known."""
        if self.components is None or self.point is None:
            return None
        return self.components.needed(points * self.point)

    def why(self) -> str:
        """The reason for the half width, for people."""
        if self.components is None:
            return "no earlier verdict says how it varies between worlds"
        of = self.components
        family = f", between families {of.family:.2g}" if of.family else ""
        return f"scatter {of.scatter:.2g}{family}, error within a world {of.error:.2g}, from {of.source}"

    def describe(self, points: float) -> dict[str, Any]:
        """The expectation as JSON-able data, with the number of worlds that ``points`` would need."""
        known = None if self.components is None else dataclasses.asdict(self.components)
        return {
            **self.key._asdict(),
            "unit": self.unit,
            "worlds": self.worlds,
            "half_width": self.half_width,
            "points": self.points,
            "components": known,
            "asked": points,
            "worlds_needed": self.needed(points),
        }


def expected(
    study: str,
    claims: Iterable[Claim],
    tasks: Iterable[str],
    worlds: int,
    directory: Path,
    table: Callable[[], Mapping[Key, Components]] = defaults,
) -> list[Expected]:
    """The precision to expect of every test of the claims on every task, from the verdicts in ``directory``, or else
    from the ``table``: of the study itself, or of another study with the same claim."""
    own, tabled, order = stored(directory), table(), list(tasks)
    elsewhere = {key._replace(study=""): of for key, of in tabled.items()}
    found = []
    for claim in claims:
        for task in order:
            for number, test in enumerate(claim.tests):
                effect, unit = test.estimand.words()
                key = Key(study, claim.id, number, effect, task)
                of = own.get(key) or tabled.get(key) or elsewhere.get(key._replace(study=""))
                found.append(Expected(key, unit, point(unit, test.rule.rope), worlds, of))
    return found


class Width(NamedTuple):
    """The half width of a test's interval, in its own unit and in points."""

    claim: str
    task: str
    test: int
    effect: str
    unit: str
    half_width: float
    points: float


def widths(entries: Iterable[Mapping[str, Any]], study: str, tasks: Iterable[str]) -> list[Width]:
    """The half widths of a study's tests on these tasks, the widest first; tests without an interval, or without a
    scale, are left out."""
    found, wanted = [], set(tasks)
    for entry in entries:
        if entry["study"] != study or entry["task"] not in wanted:
            continue
        for number, test in enumerate(entry["tests"]):
            unit, one = test["unit"], point(test["unit"], test["rule"]["rope"])
            if test["interval"] is not None and one is not None:
                half = (test["interval"][1] - test["interval"][0]) / 2
                where = (entry["claim"], entry["task"], number, test["effect"], unit)
                found.append(Width(*where, half, half / one))
    return sorted(found, key=lambda width: -width.points)


def tabled(directories: Sequence[Path], path: Path = TABLE) -> str:
    """The table as CSV, in which the verdicts of results directories have replaced the rows of their studies. Raises
    `InvalidInput` for a directory without effects over worlds."""
    known = defaults(path) if path.is_file() else {}
    for directory in directories:
        new = stored(directory)
        if not new:
            raise InvalidInput(f"{directory} holds no verdicts on effects over worlds")
        studies = {key.study for key in new}
        known = {key: of for key, of in known.items() if key.study not in studies} | new
    names = ("scatter", "error", "family", "per_family")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*Key._fields, *names, "worlds"])
    for key, of in sorted(known.items()):
        writer.writerow([*key, *(f"{getattr(of, name):.4g}" for name in names), of.worlds])
    return text.getvalue()


if __name__ == "__main__":
    try:
        TABLE.write_text(tabled([Path(name) for name in sys.argv[1:]]), encoding="utf-8")
    except InvalidInput as problem:
        sys.exit(str(problem))

"""Effects measured on the last checkpoint of runs; seeds are the replicates."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from sweeps.estimands.base import (
    Estimand,
    Evidence,
    Unanswerable,
    Unit,
    mean_draws,
    seed_draws,
    words_of,
)
from sweeps.rules.base import Draws
from testbed.errors import InvalidInput


@dataclasses.dataclass(frozen=True)
class PairedDifference(Estimand):
    """First arm minus second in a metric at the last checkpoint, paired by setting and seed.

    Differences are averaged within a seed first; the seeds' means are then the sample.
    """

    metric: str
    first: str
    second: str

    def words(self) -> tuple[str, str]:
        name, unit = words_of(self.metric)
        return f"{name}, {self.first} − {self.second}", unit

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        arms = (self.first, self.second)
        first, second = (evidence.last(self.metric, arm, arms) for arm in arms)
        pairs = {run: first[run] - second[run] for run in first.keys() & second.keys()}
        if not pairs:
            raise Unanswerable(
                f"no setting and seed was completed under both {self.first} and {self.second}"
            )
        details = evidence.describe_runs(arms) | {"pairs": len(pairs)}
        return seed_draws(label, unit, pairs, details)


@dataclasses.dataclass(frozen=True)
class Change(Estimand):
    """A metric's change since SFT at the last checkpoint of one arm, in a stated direction.

    `sign` is +1 if the claim says that the metric rises, -1 if that it falls. For metrics that
    are already measured against SFT (the log-probability changes).
    """

    metric: str
    arm: str
    sign: int = 1

    def __post_init__(self) -> None:
        if self.sign not in (-1, 1):
            raise InvalidInput(f"sign is {self.sign}: allowed are 1 (rises) and -1 (falls)")

    def words(self) -> tuple[str, str]:
        name, unit = words_of(self.metric)
        return f"{'rise' if self.sign > 0 else 'fall'} of {name}, {self.arm}", unit

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        values = {run: self.sign * v for run, v in evidence.last(self.metric, self.arm).items()}
        return seed_draws(label, unit, values, evidence.describe_runs((self.arm,)))


@dataclasses.dataclass(frozen=True)
class Level(Estimand):
    """A metric of one arm at the last checkpoint minus a constant, such as chance (C12)."""

    metric: str
    arm: str
    against: float = 0.5

    def words(self) -> tuple[str, str]:
        name, unit = words_of(self.metric)
        return f"{name} − {self.against:g}, {self.arm}", unit

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        values = {run: v - self.against for run, v in evidence.last(self.metric, self.arm).items()}
        return seed_draws(label, unit, values, evidence.describe_runs((self.arm,)))


@dataclasses.dataclass(frozen=True)
class WithinRun(Estimand):
    """Mean of some columns minus mean of others, in one run, at its last checkpoint (C8).

    Columns are metrics or measured facts ("ground.proxy_stream_accuracy_1").
    """

    ARMS: ClassVar[tuple[str, ...]] = ("arm",)
    first: tuple[str, ...]
    second: tuple[str, ...]
    arm: str

    def __post_init__(self) -> None:
        for name, columns in (("first", self.first), ("second", self.second)):
            if not columns:
                raise InvalidInput(f"{name} is empty: at least one column is needed")

    def words(self) -> tuple[str, str]:
        return f"{_range(self.first)} − {_range(self.second)}, {self.arm}", words_of(self.first[0])[
            1
        ]

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        first, second = (self._mean(evidence, columns) for columns in (self.first, self.second))
        values = {run: first[run] - second[run] for run in first.keys() & second.keys()}
        details = evidence.describe_runs((self.arm,))
        for side, own in (("first", first), ("second", second)):
            finite = [value for value in own.values() if math.isfinite(value)]
            details[side] = float(np.mean(finite)) if finite else None
        return seed_draws(label, unit, values, details)

    def _mean(self, evidence: Evidence, columns: tuple[str, ...]) -> Mapping[Unit, float]:
        found = [evidence.last(column, self.arm) for column in columns]
        return {run: float(np.mean([own[run] for own in found])) for run in found[0]}


@dataclasses.dataclass(frozen=True)
class Slope(Estimand):
    """Change of a metric per unit of a measured column, other columns held fixed (B3).

    Per seed, least squares over the arm's settings of the metric at the last checkpoint on `on`,
    the columns `given` and an intercept; the seeds' slopes are then the sample.
    """

    metric: str
    on: str
    given: tuple[str, ...]
    arm: str

    def words(self) -> tuple[str, str]:
        (name, unit), (on, per) = words_of(self.metric), words_of(self.on)
        given = ", ".join(words_of(column)[0] for column in self.given)
        fixed = f" with {given} held fixed" if given else ""
        return f"{name} per unit of {on}{fixed}, {self.arm}", f"{unit} per {per}"

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        found = [evidence.last(name, self.arm) for name in (self.metric, self.on, *self.given)]
        by_seed: dict[int, list[list[float]]] = {}
        for run in found[0]:
            row = [own[run] for own in found]
            if all(map(math.isfinite, row)):
                by_seed.setdefault(run[0], []).append(row)
        slopes = {}
        for seed in sorted(by_seed):
            slope = _slope(np.array(by_seed[seed]))
            if slope is not None:
                slopes[seed] = slope
        if not slopes:
            raise Unanswerable(
                f"{', '.join((self.on, *self.given))} do not vary independently over the settings "
                f"of {self.arm} in any seed"
            )
        details = evidence.describe_runs((self.arm,)) | {
            "seeds_left_out": len(by_seed) - len(slopes)
        }
        return mean_draws(label, unit, slopes, details)


def _slope(rows: np.ndarray) -> float | None:
    """Coefficient of column 1 in the least squares of column 0 on the others and an intercept.

    rows: shape (run, column). None if the columns are collinear or there are too few rows.
    """
    columns = rows[:, 1:] - rows[:, 1:].mean(axis=0)
    spread = columns.std(axis=0)
    if len(rows) <= columns.shape[1] or np.any(spread == 0):
        return None
    # A condition number of 1e4 is far beyond what could be called varied independently.
    scaled = columns / spread
    if np.linalg.cond(scaled) > 1e4:
        return None
    return float(np.linalg.lstsq(scaled, rows[:, 0] - rows[:, 0].mean())[0][0] / spread[0])


def _range(columns: tuple[str, ...]) -> str:
    """A few columns in words: one by its name, several as the first to the last, without what both begin with."""
    first, last = words_of(columns[0])[0], words_of(columns[-1])[0]
    if len(columns) == 1:
        return first
    (begins, _, _), (same, _, end) = first.rpartition(" "), last.rpartition(" ")
    return f"{first} to {end if begins == same else last}"

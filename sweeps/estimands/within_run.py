"""WithinRun: the difference of two columns of one run."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from sweeps.estimands.base import Estimand, Evidence, Unit, range_of, seed_draws, words_of
from sweeps.rules import Draws
from testbed.errors import InvalidInput


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
        label = f"{range_of(self.first)} − {range_of(self.second)}, {self.arm}"
        return label, words_of(self.first[0])[1]

    def _measure(self, evidence: Evidence) -> Draws:
        first, second = (self._mean(evidence, columns) for columns in (self.first, self.second))
        values = {run: first[run] - second[run] for run in first.keys() & second.keys()}
        details = evidence.describe_runs((self.arm,))
        for side, means in (("first", first), ("second", second)):
            finite = [value for value in means.values() if math.isfinite(value)]
            details[side] = float(np.mean(finite)) if finite else None
        return seed_draws(*self.words(), values, details)

    def _mean(self, evidence: Evidence, columns: tuple[str, ...]) -> Mapping[Unit, float]:
        values = [evidence.last(column, self.arm) for column in columns]
        return {run: float(np.mean([column[run] for column in values])) for run in values[0]}

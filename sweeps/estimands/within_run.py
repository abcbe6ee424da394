"""WithinRun: the difference of two columns of one run."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from sweeps.estimands.base import (
    Evidence,
    InWorlds,
    Unit,
    WorldEstimand,
    range_of,
    run_means,
    words_of,
)
from testbed.errors import InvalidInput


@dataclasses.dataclass(frozen=True)
class WithinRun(WorldEstimand):
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

    def in_worlds(self, evidence: Evidence) -> InWorlds:
        first, second = (self._mean(evidence, columns) for columns in (self.first, self.second))
        values = {run: first[run] - second[run] for run in first.keys() & second.keys()}
        details = evidence.describe_runs((self.arm,))
        for side, means in (("first", first), ("second", second)):
            finite = [value for value in means.values() if math.isfinite(value)]
            details[side] = float(np.mean(finite)) if finite else None
        return run_means(values, details)

    def _mean(self, evidence: Evidence, columns: tuple[str, ...]) -> Mapping[Unit, float]:
        values = [evidence.last(column, self.arm) for column in columns]
        return {run: float(np.mean([column[run] for column in values])) for run in values[0]}

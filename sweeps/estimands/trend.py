"""Trend: how another estimand's effect changes with a size."""

import dataclasses
import math
from typing import Any, NamedTuple, Self

import numpy as np

from sweeps.estimands.base import (
    Estimand,
    Evidence,
    InWorlds,
    Unanswerable,
    WorldEstimand,
    WorldEstimate,
)
from sweeps.rules import Side
from testbed.errors import InvalidInput

_OTHER: dict[Side, Side] = {"higher": "lower", "lower": "higher"}


@dataclasses.dataclass(frozen=True)
class Trend(WorldEstimand):
    """Change, per doubling of size, of another effect (C14, C15).

    In every world that has the effect at all levels of ``path``, the trend is the least-squares slope of the effect
    over log2 of the level's size.
    """

    of: Estimand
    path: str

    def __post_init__(self) -> None:
        if not isinstance(self.of, WorldEstimand):
            kind = type(self.of).__name__
            raise InvalidInput(f"of is {kind}: a trend needs an effect that every world has")

    def words(self) -> tuple[str, str]:
        label, unit = self.of.words()
        return f"trend with {self.path} of {label}", f"{unit} per doubling"

    def in_worlds(self, evidence: Evidence) -> InWorlds:
        assert isinstance(self.of, WorldEstimand)
        sizes = Sizes.of(evidence, self.path)
        parts = [self.of.in_worlds(evidence.at(self.path, level)) for level in sizes.levels]
        shared = sorted(set.intersection(*(set(part.estimates) for part in parts)))
        if not shared:
            raise Unanswerable(f"no world has the effect at every level of {self.path}")
        weights = sizes.weights.tolist()
        estimates = {
            world: WorldEstimate.combined(weights, [part.estimates[world] for part in parts])
            for world in shared
        }
        opened: dict[Side, str] = {}
        for level, part, weight in zip(sizes.levels, parts, weights, strict=True):
            for side, why in part.open.items():
                opened[side if weight > 0 else _OTHER[side]] = f"at {level}: {why}"
        details = dict(parts[0].details) | sizes.describe()
        details["by_level"] = [
            float(np.mean([part.estimates[world].value for world in shared])) for part in parts
        ]
        lacking = max(part.lacking for part in parts)
        return InWorlds(
            estimates, details, opened, lacking, next((p.why for p in parts if p.lacking), "")
        )


class Sizes(NamedTuple):
    """The levels of a path, log2 of their sizes (level,), and weights (level,) whose product with values at the levels
    is the least-squares slope of the values over log2 of the size."""

    levels: tuple[Any, ...]
    log2: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, evidence: Evidence, path: str) -> Self:
        """The sizes of a path's levels. Raises Unanswerable if there are no two different positive sizes."""
        levels = evidence.levels(path)
        sizes = [evidence.size(path, level) for level in levels]
        if any(size <= 0 for size in sizes):
            raise Unanswerable(f"{path} has a level without a positive size")
        if len(set(sizes)) < 2:
            raise Unanswerable(f"{path} has fewer than two levels of different size")
        log2 = np.array([math.log2(size) for size in sizes])
        centred = log2 - log2.mean()
        return cls(levels, log2, centred / (centred @ centred))

    def describe(self) -> dict[str, Any]:
        """The levels and their sizes, JSON-able."""
        return {"levels": list(map(str, self.levels)), "sizes": np.exp2(self.log2).tolist()}

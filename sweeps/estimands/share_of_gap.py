"""ShareOfGap: whether a third arm closes a stated share of the gap between two arms."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from sweeps.estimands.base import (
    Evidence,
    InWorlds,
    WorldCurve,
    WorldEstimand,
    WorldEstimate,
    contrast,
    words_of,
)
from sweeps.estimands.windows import Window
from sweeps.rules import Draws
from testbed.errors import InvalidInput

SURE = 0.95
"""Probability that the gap exists, below which nothing is said about shares of it."""


@dataclasses.dataclass(frozen=True)
class ShareOfGap(WorldEstimand):
    """(candidate - bottom) - share (top - bottom): how much of a gap an explanation accounts for (B1).

    `top` and `bottom` are the arms with and without the effect that is to be explained; the candidate differs from
    bottom by the explanation only. The effect is positive if the candidate closes more than ``share`` of the gap: a
    difference, which has an interval however small the gap is. The ratio (candidate - bottom) / (top - bottom) is in
    the details. If it is not certain that top beats bottom, there is no estimate. Outcomes are compared in a window of
    KL from ``low`` to ``high`` nats or, if ``low`` is None, by the best within ``high`` nats (None: by all steps).
    """

    top: str
    bottom: str
    candidate: str
    share: float = 0.5
    low: float | None = 0.5
    high: float | None = 3.0
    outcome: str = "golden_reward"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InvalidInput(f"share is {self.share:g}: needs a number between 0 and 1")
        if self.low is not None:
            if self.high is None:
                raise InvalidInput("high is None: a window from low on needs an upper end, in nats")
            Window(self.low, self.high).check()
        elif self.high is not None and not self.high > 0:
            raise InvalidInput(f"high is {self.high:g}: needs a KL above 0 nats, or none")

    def words(self) -> tuple[str, str]:
        name, unit = words_of(self.outcome)
        if self.low is not None:
            where = " at " + self._window.words()
        else:
            where = "" if self.high is None else f" within {self.high:g} nats"
        name = name if self.low is not None else f"best {name}"
        gap = f"{self.share:g} of {self.top} − {self.bottom}"
        return f"{name}{where} beyond {gap}, {self.candidate}", unit

    def in_worlds(self, evidence: Evidence) -> InWorlds:
        return self._contrast(evidence, (-self.share, self.share - 1.0, 1.0))

    def _measure(self, evidence: Evidence, negligible: float) -> Draws:
        draws = evidence.pool(self.in_worlds, self.words(), negligible)
        gap, closed = (
            evidence.pool(lambda of, w=w: self._contrast(of, w), self.words(), negligible).values
            for w in ((1.0, -1.0, 0.0), (0.0, -1.0, 1.0))
        )
        if not len(gap) or not len(closed):
            return draws
        sure = float(np.mean(gap > 0))
        details = {
            **draws.details,
            "gap": float(np.median(gap)),
            "closed": float(np.median(closed)),
        }
        details |= {"gap_probability": sure, "share": float(np.median(closed) / np.median(gap))}
        if sure >= SURE:
            return dataclasses.replace(draws, details=details)
        none = f"there is no gap to share: P({self.top} > {self.bottom}) is {sure:.2f}, needed is {SURE}"
        details["share"] = None
        return dataclasses.replace(
            draws, values=np.empty(0), details=details, reason=draws.reason or none
        )

    def _contrast(self, evidence: Evidence, weights: tuple[float, float, float]) -> InWorlds:
        arms = (self.top, self.bottom, self.candidate)
        curves = [evidence.curves(arm, self.outcome) for arm in arms]
        return contrast(curves, weights, self._read, evidence.describe_runs(arms))

    def _read(self, curves: Sequence[WorldCurve]) -> list[WorldEstimate]:
        if self.low is None:
            budget = math.inf if self.high is None else math.sqrt(self.high)
            return [curve.best(budget) for curve in curves]
        return self._window.read(curves)

    @property
    def _window(self) -> Window:
        """The window, where `low` is given."""
        return Window(self.low or 0.0, self.high or math.inf)

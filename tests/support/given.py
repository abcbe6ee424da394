"""Evidence whose numbers a test has chosen."""

import dataclasses
import math

import numpy as np

from sweeps.contracts.samples import student_draws
from sweeps.estimands import Unanswerable, WorldEstimate
from sweeps.rules import Draws


@dataclasses.dataclass
class Bump:
    """A parabola: 0 at d = 0, ``height`` at d = ``place``, 0 again at twice this distance; seen up to ``end``."""

    height: float
    place: float = 1.0
    end: float = 2.0
    tokens: float = 10.0
    error: float = 0.0

    @property
    def reach(self):
        return np.array([self.end])

    def typical(self, d):
        return self.height * (1 - ((np.asarray(d) - self.place) / self.place) ** 2)

    @property
    def settings(self):
        return ((),)

    def window(self, low, high, settings=None):
        if (low + high) / 2 > self.end:
            raise Unanswerable("no checkpoint lies so far")
        return WorldEstimate(float(self.typical(np.linspace(low, high, 101)).mean()), self.error)

    def best(self, within=math.inf):
        end = min(within, self.end)
        return WorldEstimate(float(self.typical(min(end, self.place))), self.error)

    def difference(self, first, second):
        return WorldEstimate(float(self.typical(first) - self.typical(second)), self.error)

    def peak(self):
        place = min(self.place, self.end)
        return WorldEstimate(2 * math.log(place), self.error), float(self.end <= self.place)


@dataclasses.dataclass
class Given:
    """Curves by arm and seed; last values by (metric, arm); checkpoints by (column, arm) and run.

    `parts` are levels of swept paths: {path: {level: evidence}}; a level's size is its value.
    """

    bumps: dict = dataclasses.field(default_factory=dict)
    finals: dict = dataclasses.field(default_factory=dict)
    runs: dict = dataclasses.field(default_factory=dict)
    parts: dict = dataclasses.field(default_factory=dict)

    def pool(self, measure, words, negligible):
        effects = measure(self)
        values = np.array([estimate.value for estimate in effects.estimates.values()])
        worlds = [
            {"seed": seed, "estimate": part.value, "error": part.error}
            for seed, part in effects.estimates.items()
        ]
        details = {**effects.details, "worlds": worlds}
        if len(values) < 2:
            return Draws(*words, values, "only one world", details)
        return Draws(*words, student_draws(values), "", details, open=effects.open)

    def curves(self, arm, outcome, among=()):
        if arm not in self.bumps:
            raise Unanswerable(f"arm {arm} has no results")
        return self.bumps[arm]

    def last(self, metric, arm, among=()):
        return self.finals[metric, arm]

    def checkpoints(self, columns, arms):
        return tuple(
            {
                run: [
                    np.stack([np.asarray(self.runs[c, arm][run], float) for c in columns], axis=1)
                ]
                for run in self.runs[columns[0], arm]
            }
            for arm in arms
        )

    def describe_runs(self, arms):
        return {"arms": {arm: {} for arm in arms}}

    def levels(self, path):
        return tuple(self.parts[path])

    def at(self, path, level):
        return self.parts[path][level]

    def size(self, path, level):
        if not isinstance(level, int | float):
            raise Unanswerable(f"{level} has no size")
        return float(level)


def heights(*values, **shape):
    """Bumps of these heights, one a seed."""
    return {seed: Bump(value, **shape) for seed, value in enumerate(values)}


def by_world(draws):
    """The estimates of the worlds."""
    return {world["seed"]: world["estimate"] for world in draws.details["worlds"]}

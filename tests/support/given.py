"""Evidence whose numbers a test has chosen."""

import dataclasses

import numpy as np

from sweeps.estimands import Peak, Unanswerable


@dataclasses.dataclass
class Given:
    """Peaks by arm; last values by (metric, arm); checkpoints by (column, arm) and run.

    `parts` are levels of swept paths: {path: {level: evidence}}; a level's size is its value.
    """

    peaks: dict = dataclasses.field(default_factory=dict)
    finals: dict = dataclasses.field(default_factory=dict)
    runs: dict = dataclasses.field(default_factory=dict)
    parts: dict = dataclasses.field(default_factory=dict)
    warning: str = ""

    def caveat(self, arms):
        return self.warning

    def peak(self, arm):
        if arm not in self.peaks:
            raise Unanswerable(f"arm {arm} has no results")
        return self.peaks[arm]

    def gap(self, first, second, also=()):
        return self.peak(first).value - self.peak(second).value

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

    def describe_curves(self, arms):
        return self.describe_runs(arms)

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


def constant_peak(value, start, end, root_kl=1.0, count=100):
    """A peak inside its range, the same in every draw."""
    fill = np.full(count, 1.0)
    return Peak(value * fill, root_kl * fill, start * fill, end * fill, fill > 0)


def unreached(peak):
    """The same best value, at the end of a curve that still rises."""
    return dataclasses.replace(peak, end=peak.value, interior=np.zeros(len(peak.value), dtype=bool))

"""Identical: whether runs of two arms are equal bit for bit."""

import dataclasses
import itertools

import numpy as np

from sweeps.estimands.base import Estimand, Evidence, Unanswerable, words_of
from sweeps.rules import Draws


@dataclasses.dataclass(frozen=True)
class Identical(Estimand):
    """Share of checkpoints at which two arms differ in a metric, exactly (C4).

    The checkpoints are the trained ones (setting, seed and step) that both arms have. If the metric is a checksum of
    the policy's parameters, 0 means that the runs are the same, bit for bit. The share is a fact about these runs: it
    has no error and no interval.
    """

    first: str
    second: str
    metric: str = "policy_checksum"

    def words(self) -> tuple[str, str]:
        name, _ = words_of(self.metric)
        label = f"checkpoints at which {self.first} and {self.second} differ in {name}"
        return label, "share of checkpoints"

    def _measure(self, evidence: Evidence, negligible: float) -> Draws:
        arms = (self.first, self.second)
        first, second = evidence.checkpoints(("step", self.metric), arms)
        compared = different = 0
        for unit in first.keys() & second.keys():
            for one, other in itertools.product(first[unit], second[unit]):
                _, mine, theirs = np.intersect1d(one[:, 0], other[:, 0], return_indices=True)
                pair = np.stack([one[mine, 1], other[theirs, 1]], axis=1)
                pair = pair[np.isfinite(pair).all(axis=1)]
                compared += len(pair)
                different += int((pair[:, 0] != pair[:, 1]).sum())
        if not compared:
            raise Unanswerable(
                f"{self.first} and {self.second} have no checkpoint of the same setting, seed and "
                f"step with a finite {self.metric}"
            )
        details = evidence.describe_runs(arms) | {"compared": compared, "different": different}
        return Draws(*self.words(), np.array([different / compared]), "", details, exact=True)

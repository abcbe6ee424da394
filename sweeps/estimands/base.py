"""Base class of estimands, the evidence that they may read, and the t posterior over seeds."""

import abc
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from scipy.special import stdtrit

from sweeps.rules import Described, Draws, Side
from testbed.metric_table import declared


def words_of(metric: str) -> tuple[str, str]:
    """Words and unit of a metric or fact; for a column without a declaration, its name."""
    column = declared(metric)
    return column.words, column.unit


class Unanswerable(Exception):
    """The evidence cannot answer a question; the message gives the reason, in one clause."""


@dataclasses.dataclass(frozen=True)
class Peak:
    """Draws of an arm's best point inside its observed range, each of shape (draws,).

    `value`, `start` and `end` are win rates (at the peak and at both ends of the range); `root_kl` is sqrt(KL) at the
    peak; `interior` says for each draw whether the maximum lies inside the range. `nearest` is the smallest sqrt(KL) of
    a trained checkpoint: positions of peaks are not resolved below it.
    """

    value: np.ndarray
    root_kl: np.ndarray
    start: np.ndarray
    end: np.ndarray
    interior: np.ndarray
    nearest: float = 1e-3

    @property
    def place(self) -> Literal["inside", "start", "end"]:
        """Where most draws have their best point: "end" means that the peak was not reached."""
        if np.mean(self.interior) >= 0.5:
            return "inside"
        return "end" if np.mean(self.end >= self.start) >= 0.5 else "start"

    @property
    def unreached(self) -> bool:
        """Whether a higher peak may lie beyond the observed range, which a verdict must consider: true if at least a
        twentieth of the draws still rise at the end of the range."""
        return self.outside()[1]

    @property
    def log_kl(self) -> np.ndarray:
        """log KL at the peak, no lower than that of the nearest trained checkpoint."""
        return 2 * np.log(np.maximum(self.root_kl, self.nearest))

    def outside(self, share: float = 0.05) -> tuple[bool, bool]:
        """Whether more than `share` of the draws have the best point at the start, at the end."""
        at_end = ~self.interior & (self.end >= self.start)
        at_start = ~self.interior & ~at_end
        return bool(np.mean(at_start) > share), bool(np.mean(at_end) > share)


Names = tuple[str, ...]
Unit = tuple[int, tuple[Any, ...]]
"""One run without its arm: (seed, swept settings)."""


@runtime_checkable
class Evidence(Protocol):
    """The evidence of one task's results that estimands may read. Methods raise `Unanswerable`."""

    def caveat(self, arms: Sequence[str]) -> str:
        """Why no verdict may rest on the fitted curves of these arms ("" if one may)."""
        ...

    def peak(self, arm: str) -> Peak:
        """Peak of the arm's typical curve inside its observed range."""
        ...

    def gap(self, first: str, second: str, also: Sequence[str] = ()) -> np.ndarray:
        """Draws (draws,) of the mean of first - second win rate, over the range of KL that these arms and those in
        `also` share."""
        ...

    def describe_curves(self, arms: Names) -> dict[str, Any]:
        """Peaks, ranges, seeds, runs and diverged runs of these arms, JSON-able."""
        ...

    def last(self, metric: str, arm: str, among: Sequence[str] = ()) -> Mapping[Unit, float]:
        """A metric or fact at the last checkpoint of every run of the arm that did not diverge.

        A run's key holds the settings that all arms in `among` have, so that runs of these arms can be compared.
        """
        ...

    def checkpoints(
        self, columns: Names, arms: Names
    ) -> tuple[Mapping[Unit, list[np.ndarray]], ...]:
        """For each of the arms the trained checkpoints of its runs, up to any divergence.

        Each run is an array (checkpoint, column). A run's key holds the settings that all of `arms` have, so that keys
        can be compared between arms; several runs may have the same key.
        """
        ...

    def describe_runs(self, arms: Names) -> dict[str, Any]:
        """Seeds, runs and diverged runs of these arms, JSON-able."""
        ...

    def levels(self, path: str) -> tuple[Any, ...]:
        """Values of a swept path, in order of size if they have one."""
        ...

    def at(self, path: str, level: Any) -> "Evidence":
        """The evidence at one level of a swept path; arms without the path belong to every level."""
        ...

    def size(self, path: str, level: Any) -> float:
        """A level's size: the policy's number of parameters if the path changes it, else the value."""
        ...


@dataclasses.dataclass(frozen=True)
class Estimand(Described, abc.ABC):
    """Abstract: one effect, measured from evidence. Final subclasses are plain data.

    `from_curves`: the effect depends on fitted curves only, so that it exists for a typical task as well. `ARMS` names
    the fields that hold arms.
    """

    from_curves: ClassVar[bool] = False
    ARMS: ClassVar[Names] = ("arm", "arms", "first", "second", "top", "bottom", "candidate")

    def draws(self, evidence: Evidence) -> Draws:
        """Posterior draws of the effect, or the reason why there are none. Never raises."""
        try:
            return self._measure(evidence)
        except Unanswerable as problem:
            return Draws(*self.words(), reason=str(problem))

    @abc.abstractmethod
    def words(self) -> tuple[str, str]:
        """Short label and unit of the effect."""

    @abc.abstractmethod
    def _measure(self, evidence: Evidence) -> Draws:
        """Draws of the effect; may raise Unanswerable."""

    def arms_used(self) -> Names:
        """The arms that the estimand needs, including arms of nested estimands."""
        arms: list[str] = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Estimand):
                arms += value.arms_used()
            elif field.name in self.ARMS:
                arms += [value] if isinstance(value, str) else value
        return tuple(dict.fromkeys(arms))

    def _curve_draws(
        self,
        evidence: Evidence,
        values: np.ndarray,
        bound: Mapping[Side, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> Draws:
        """Draws of an effect that depends on the fitted curves of `arms_used`, with ``more`` details."""
        arms = self.arms_used()
        details = evidence.describe_curves(arms) | dict(more or {})
        return Draws(*self.words(), values, evidence.caveat(arms), details, open=bound or {})


def by_seed(values: Iterable[tuple[Unit, Any]]) -> dict[int, list[Any]]:
    """Values of runs in lists by seed, in the order of the seeds."""
    lists: dict[int, list[Any]] = {}
    for (seed, _), value in sorted(values, key=lambda item: item[0][0]):
        lists.setdefault(seed, []).append(value)
    return lists


def pooled(runs: Mapping[Unit, list[np.ndarray]]) -> dict[int, np.ndarray]:
    """All checkpoints of a seed's runs, an array (checkpoint, column) per seed."""
    lists = by_seed((unit, run) for unit, parts in runs.items() for run in parts)
    return {seed: np.concatenate(parts) for seed, parts in lists.items()}


def seed_draws(
    label: str, unit: str, values: Mapping[Unit, float], details: Mapping[str, Any]
) -> Draws:
    """Draws of the mean over seeds of a quantity measured on runs; see `student_draws`.

    Runs are averaged within their seed, so each seed counts once, whatever its number of settings.
    """
    finite = [(run, value) for run, value in values.items() if math.isfinite(value)]
    if not finite:
        raise Unanswerable("no run has a finite value at its last checkpoint")
    means = {seed: float(np.mean(each)) for seed, each in by_seed(finite).items()}
    details = {**details, "not_finite": len(values) - len(finite)}
    return mean_draws(label, unit, means, details)


def mean_draws(
    label: str, unit: str, seeds: Mapping[int, float], details: Mapping[str, Any]
) -> Draws:
    """Draws of the mean of a quantity with one finite value per seed; see `student_draws`."""
    means = np.array(list(seeds.values()))
    details = {**details, "seed_means": {str(s): float(m) for s, m in seeds.items()}}
    reason = ""
    if means.size == 1:
        reason = "only one seed: the seed is the unit of replication, so there is no interval"
    elif np.ptp(means) == 0:
        reason = "the seeds do not differ at all, so there is no interval"
    draws = means[:1] if reason else student_draws(means)
    return Draws(label, unit, draws, reason, details)


def student_draws(sample: np.ndarray, count: int = 4000) -> np.ndarray:
    """Posterior of a normal mean under Jeffreys' prior, as `count` equally likely values.

    sample: shape (n,), n >= 2. The posterior is mean + s/sqrt(n) t_{n-1}, whose central intervals
    are the classical t intervals (Gelman et al., Bayesian Data Analysis, section 3.2). Mid-interval
    quantiles stand in for random draws: no key, no Monte Carlo error.
    """
    n = len(sample)
    grid = (np.arange(count) + 0.5) / count
    scale = np.std(sample, ddof=1) / math.sqrt(n)
    return np.mean(sample) + scale * stdtrit(n - 1, grid)


def range_of(columns: Names) -> str:
    """Columns in words: one column by its name; several as "first to last", without their common beginning."""
    first, last = words_of(columns[0])[0], words_of(columns[-1])[0]
    if len(columns) == 1:
        return first
    (begins, _, _), (same, _, end) = first.rpartition(" "), last.rpartition(" ")
    return f"{first} to {end if begins == same else last}"

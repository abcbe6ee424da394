"""Base class of estimands, and the evidence that they may read."""

import abc
import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np

from sweeps.rules import Described, Draws, Side
from testbed.metric_table import declared


def words_of(metric: str) -> tuple[str, str]:
    """Words and unit of a metric or fact; for a column without a declaration, its name."""
    column = declared(metric)
    return column.words, column.unit


class Unanswerable(Exception):
    """The evidence cannot answer a question; the message gives the reason, in one clause."""


Names = tuple[str, ...]
Seed = int
"""The seed of a world, which names it within its task."""
Unit = tuple[Seed, tuple[Any, ...]]
"""One run without its arm: (seed, swept settings)."""


class WorldEstimate(NamedTuple):
    """One quantity in one world: its value, the standard error within the world, and how far the model of the curve
    misses what was measured (0 where it does not)."""

    value: float
    error: float = 0.0
    misfit: float = 0.0

    @classmethod
    def combined(cls, weights: Sequence[float], parts: Sequence["WorldEstimate"]) -> Self:
        """The weighted sum of quantities whose errors are independent."""
        terms = list(zip(weights, parts, strict=True))
        value, misfit = (sum(w * part[i] for w, part in terms) for i in (0, 2))
        return cls(value, math.sqrt(sum((w * part.error) ** 2 for w, part in terms)), misfit)


@dataclasses.dataclass(frozen=True)
class InWorlds:
    """An effect in every world of one task.

    ``open`` says that the effects may be higher or lower than the estimates, with the reason (`Draws`). ``lacking``
    counts worlds in which the effect cannot be measured; ``why`` is the reason in one of them.
    """

    estimates: Mapping[Seed, WorldEstimate]
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    open: Mapping[Side, str] = dataclasses.field(default_factory=dict)
    lacking: int = 0
    why: str = ""


@runtime_checkable
class WorldCurve(Protocol):
    """An arm's curve in one world: the change of an outcome since SFT over the distance d = sqrt(KL), one curve per
    setting around a typical one. `analysis.worlds.smoother.Curves` is the implementation."""

    @property
    def tokens(self) -> float:
        """Mean number of tokens of SFT's responses."""
        ...

    @property
    def settings(self) -> tuple[Any, ...]:
        """The settings that were run, other than the number of steps, in a form that is equal for equal settings of two
        arms."""
        ...

    @property
    def reach(self) -> np.ndarray:
        """The largest distance that each setting reached, shape (setting,)."""
        ...

    def window(
        self, low: float, high: float, settings: Collection[Any] | None = None
    ) -> WorldEstimate:
        """Mean change between two distances, averaged over these settings, by default over all that come to the middle
        between the two. Raises `Unanswerable` if there is none."""
        ...

    def best(self, within: float = math.inf) -> WorldEstimate:
        """The largest change of all settings within a distance."""
        ...

    def difference(self, first: float, second: float) -> WorldEstimate:
        """The typical curve at one distance less that at another."""
        ...

    def peak(self) -> tuple[WorldEstimate, float]:
        """log KL where the typical curve is highest, and the probability that this is the end of the range."""
        ...

    def typical(self, d: np.ndarray) -> np.ndarray:
        """The typical curve at distances of shape (d,)."""
        ...


@runtime_checkable
class Evidence(Protocol):
    """The evidence of one task's results that estimands may read. Methods raise `Unanswerable`."""

    def pool(
        self,
        measure: Callable[["Evidence"], InWorlds],
        words: tuple[str, str],
        negligible: float,
    ) -> Draws:
        """Posterior draws of the effect of the task, from its effects in the task's worlds.

        ``negligible`` is an effect that is practically nothing; 0 if no such size is known.
        """
        ...

    def curves(
        self, arm: str, outcome: str, among: Sequence[str] = ()
    ) -> Mapping[Seed, WorldCurve]:
        """The arm's curves of an outcome, in every world in which the arm was measured.

        With ``among``, only settings that all these arms ran enter, and only as many steps as all of them took.
        """
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


#: Readers of descriptions that earlier versions stored (`sweeps.estimands.retired`); None for any other description.
FORMER: list[Callable[[Mapping[str, Any]], "Estimand | None"]] = []


@dataclasses.dataclass(frozen=True)
class Estimand(Described, abc.ABC):
    """Abstract: one effect, measured from evidence. Final subclasses are plain data.

    `of_worlds`: the effect is measured in every world, so that it exists for a typical task as well. `ARMS` names the
    fields that hold arms.
    """

    of_worlds: ClassVar[bool] = False
    ARMS: ClassVar[Names] = ("arm", "arms", "first", "second", "top", "bottom", "candidate")

    def draws(self, evidence: Evidence, negligible: float = 0.0) -> Draws:
        """Posterior draws of the effect, or the reason why there are none. ``negligible`` is an effect that is
        practically nothing, 0 if no such size is known. Never raises `Unanswerable`."""
        try:
            return self._measure(evidence, negligible)
        except Unanswerable as problem:
            return Draws(*self.words(), reason=str(problem))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild an estimand from the output of `describe`. Kinds of earlier versions become `Retired`."""
        former: Any = next(filter(None, (read(data) for read in FORMER)), None)
        return super().from_dict(data) if former is None else former

    @abc.abstractmethod
    def words(self) -> tuple[str, str]:
        """Short label and unit of the effect."""

    @abc.abstractmethod
    def _measure(self, evidence: Evidence, negligible: float) -> Draws:
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


@dataclasses.dataclass(frozen=True)
class WorldEstimand(Estimand):
    """Abstract: an effect that every world of a task has by itself; the worlds are then pooled."""

    of_worlds: ClassVar[bool] = True

    @abc.abstractmethod
    def in_worlds(self, evidence: Evidence) -> InWorlds:
        """The effect in every world; may raise Unanswerable."""

    def _measure(self, evidence: Evidence, negligible: float) -> Draws:
        return evidence.pool(self.in_worlds, self.words(), negligible)


def contrast(
    curves: Sequence[Mapping[Seed, WorldCurve]],
    weights: Sequence[float],
    read: Callable[[Sequence[WorldCurve]], Sequence[WorldEstimate]],
    details: Mapping[str, Any],
) -> InWorlds:
    """A weighted sum of one quantity of several arms' curves, in every world that has all the arms. ``read`` gives the
    quantity of each arm from the arms' curves in one world.

    Worlds in which an arm has no such quantity are counted as lacking. Raises `Unanswerable` if all worlds lack it.
    """
    shared = sorted(set.intersection(*(set(of_arm) for of_arm in curves)))
    estimates: dict[Seed, WorldEstimate] = {}
    why = "the arms share no world"
    for world in shared:
        try:
            parts = read([of_arm[world] for of_arm in curves])
        except Unanswerable as problem:
            why = str(problem)
            continue
        estimates[world] = WorldEstimate.combined(weights, parts)
    if not estimates:
        raise Unanswerable(why)
    return InWorlds(estimates, details, lacking=len(shared) - len(estimates), why=why)


def by_seed(values: Iterable[tuple[Unit, Any]]) -> dict[Seed, list[Any]]:
    """Values of runs in lists by seed, in the order of the seeds."""
    lists: dict[Seed, list[Any]] = {}
    for (seed, _), value in sorted(values, key=lambda item: item[0][0]):
        lists.setdefault(seed, []).append(value)
    return lists


def run_means(values: Mapping[Unit, float], details: Mapping[str, Any]) -> InWorlds:
    """The mean in every world of a quantity measured on runs, so that each world counts once, whatever its number of
    settings. Its error is not known, and becomes a part of the scatter between worlds. Raises `Unanswerable` if no
    value is finite."""
    finite = [(run, value) for run, value in values.items() if math.isfinite(value)]
    if not finite:
        raise Unanswerable("no run has a finite value at its last checkpoint")
    means = {seed: WorldEstimate(float(np.mean(each))) for seed, each in by_seed(finite).items()}
    return InWorlds(means, {**details, "not_finite": len(values) - len(finite)})


def range_of(columns: Names) -> str:
    """Columns in words: one column by its name; several as "first to last", without their common beginning."""
    first, last = words_of(columns[0])[0], words_of(columns[-1])[0]
    if len(columns) == 1:
        return first
    (begins, _, _), (same, _, end) = first.rpartition(" "), last.rpartition(" ")
    return f"{first} to {end if begins == same else last}"

"""Populations of worlds with known effects, none of which is the model that is fitted to them.

A truth draws the curves of two arms in any number of worlds of a task: the golden reward, in SFT standard deviations,
gained at a distance d = sqrt(KL) from SFT. The effects of a world follow from its curves (`CONTRASTS`); the effect of
the task is their mean over worlds, computed from many. `checkpoints` simulates what a study would have measured.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from analysis.worlds.smoother import Checkpoints

ARMS = ("online", "offline")
NEAR = (0.5, 3.0)
"""Window of KL, in nats, in which C2 is decided."""
BUDGET = 8.0
"""Budget of KL, in nats, of C3.8."""
D = np.linspace(0.0, 4.0, 81)
"""Distances at which true curves are known: up to 16 nats."""
Curves = Float[np.ndarray, "world arm d"]


def near(curves: Curves) -> Float[np.ndarray, " world"]:
    """C2: mean difference of the arms' curves over the near window of d."""
    inside = (NEAR[0] <= D**2) & (NEAR[1] >= D**2)
    return (curves[:, 0] - curves[:, 1])[:, inside].mean(axis=1)


def best(curves: Curves) -> Float[np.ndarray, " world"]:
    """C3.8: difference of the arms' best points within the budget."""
    tops = curves[..., D**2 <= BUDGET + 1e-9].max(axis=-1)
    return tops[:, 0] - tops[:, 1]


CONTRASTS: Mapping[str, Callable[[Curves], Float[np.ndarray, " world"]]] = {
    "C2": near,
    "C3.8": best,
}


@dataclasses.dataclass(frozen=True)
class Truth(abc.ABC):
    """Abstract: a population of worlds on each of two tasks."""

    setting: float = 0.0
    """Standard deviation of a setting's deviation from its arm's curve at d = 2."""

    @abc.abstractmethod
    def curves(self, rng: np.random.Generator, worlds: int, task: int) -> Curves:
        """The curves of the arms, over settings, in worlds drawn for task 0 or 1."""

    def effect(self, contrast: str, task: int, worlds: int = 40_000) -> float:
        """The true effect of the task: the mean over worlds, by the same large sample each time."""
        rng = np.random.default_rng([2024, task])
        return float(CONTRASTS[contrast](self.curves(rng, worlds, task)).mean())


def _shape(
    rise: Float[np.ndarray, "*b"], bend: Float[np.ndarray, "*b"]
) -> Float[np.ndarray, "*b d"]:
    """Curves that rise and fall: rise d - bend d^2."""
    return np.asarray(rise)[..., None] * D - np.asarray(bend)[..., None] * D**2


@functools.cache
def _root(length: float) -> Float[np.ndarray, "d d"]:
    """Root of the covariance of a smooth process on `D` that is 0 at 0 and has unit variance at d = 2."""
    apart = (D[:, None] - D[None, :]) / length
    covariance = np.exp(-0.5 * apart**2)
    pinned = covariance - np.outer(covariance[:, 0], covariance[0]) / covariance[0, 0]
    values, vectors = np.linalg.eigh(pinned)
    middle = len(D) // 2
    return vectors * np.sqrt(np.maximum(values, 0.0)) / np.sqrt(pinned[middle, middle])


def _wandering(
    rng: np.random.Generator, shape: tuple[int, ...], length: float = 1.5
) -> Float[np.ndarray, "..."]:
    """Smooth random curves of unit variance at d = 2 that begin at 0."""
    return rng.normal(size=(*shape, len(D))) @ _root(length).T


@dataclasses.dataclass(frozen=True)
class Saturating(Truth):
    """Curves level off, height (1 - exp(-speed d)); heights and speeds are log-normal, so effects are skewed."""

    def curves(self, rng: np.random.Generator, worlds: int, task: int) -> Curves:
        shared = rng.normal(size=(worlds, 1, 2))
        own = rng.normal(size=(worlds, 2, 2))
        height = np.array([1.2, 0.9]) * np.exp(0.2 * shared[..., 0] + 0.15 * own[..., 0])
        speed = 0.6 * np.exp(0.2 * shared[..., 1] + 0.15 * own[..., 1])
        return height[..., None] * -np.expm1(-speed[..., None] * D)


@dataclasses.dataclass(frozen=True)
class Wandering(Truth):
    """Gaussian processes around curves that rise and fall. ``scatter``: standard deviation at d = 2 of what both arms
    of a world share; ``by_arm``: of each arm's own part, on each task; ``odd``: share of worlds in which the arms' own
    parts are ``times`` as large; ``nothing``: a task on which both arms have one curve and hardly any part of their
    own."""

    scatter: float = 0.2
    by_arm: tuple[tuple[float, float], tuple[float, float]] = ((0.1, 0.1), (0.1, 0.1))
    odd: float = 0.0
    times: float = 6.0
    nothing: int | None = None

    def curves(self, rng: np.random.Generator, worlds: int, task: int) -> Curves:
        quiet = task == self.nothing
        rise = np.array([0.65, 0.65] if quiet else [0.75, 0.6])
        typical = _shape(rise, np.array([0.12, 0.12]))
        scale = np.array([0.01, 0.01] if quiet else self.by_arm[task])
        own = scale[:, None] * _wandering(rng, (worlds, 2))
        own[rng.uniform(size=worlds) < self.odd] *= self.times
        return typical + self.scatter * _wandering(rng, (worlds, 1)) + own


TRUTHS: Mapping[str, Truth] = {
    "saturating": Saturating(),
    "wandering": Wandering(),
    "by setting": Wandering(setting=0.15),
    "unequal": Wandering(by_arm=((0.04, 0.12), (0.15, 0.45))),
    "one odd in ten": Wandering(odd=0.1),
    "nothing on one task": Wandering(nothing=1),
}
"""Six populations: curves of another form; another prior; effects of settings; scatter that differs by arm and task;
one odd world in ten; a task on which nothing happens."""


def checkpoints(
    truth: Truth,
    curves: Curves,
    rng: np.random.Generator,
    settings: int = 2,
    evaluations: int = 10,
    run: float = 0.03,
    noise: float = 0.04,
) -> list[list[Checkpoints]]:
    """Measured checkpoints [world][arm] of worlds with these curves: every setting is one run that moves away from SFT
    at its own speed, wanders, and is measured with noise (SFT standard deviations)."""
    found = []
    for world in curves:
        arms = []
        for curve in world:
            parts: list[tuple[np.ndarray, np.ndarray]] = []
            for setting in range(settings):
                reach = (2.0, 4.0)[setting % 2] * np.exp(0.1 * rng.normal())
                d = np.minimum(reach, D[-1]) * np.linspace(0, 1, evaluations + 1)[1:] ** 0.6
                deviation = truth.setting * rng.normal() * d / 2
                wander = run * np.interp(d, D, _wandering(rng, (1,), 0.7)[0])
                change = (
                    np.interp(d, D, curve) + deviation + wander + noise * rng.normal(size=len(d))
                )
                parts.append((d, change))
            number = np.repeat(np.arange(settings), evaluations)
            d, change = (np.concatenate(part) for part in zip(*parts, strict=True))
            arms.append(Checkpoints(d, change, number, number))
        found.append(arms)
    return found

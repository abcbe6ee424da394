"""Curves of an outcome over the distance from SFT, in one world: a Gaussian process with effects of settings.

One arm in one world has checkpoints of one or a few settings (rates, betas, lengths). With d = sqrt(KL(policy || SFT)),
the change of the outcome since SFT at a checkpoint of setting j is

    y = f(d) + g_j(d) + r(d) + e

    f    the arm's curve: a Gaussian process with a Matern 5/2 kernel that is 0 at d = 0, where every policy is SFT
    g_j  the setting's deviation from f: the same kernel, another amplitude
    r    the run's own wandering: an Ornstein-Uhlenbeck process in d, which makes the checkpoints of a run correlated
    e    what checkpoints do not share: noise of an evaluation

A polynomial in d has the curve's form built in, and missed single worlds by up to 23 points of win rate where all
worlds together looked right; a Gaussian process follows what is there, and is wide where nothing is.

The five hyperparameters are those of a task: they maximise the marginal likelihood of all its worlds and arms, under
weak priors (`PRIORS`). With them the model is linear and Gaussian, so that the means of curves over windows of KL and
their standard errors are exact. Evaluations of a world share their prompts; what this adds to all checkpoints alike
cancels in differences between arms, so that e is estimated from the checkpoints and not taken from the standard error
over prompts.

Misfit is judged in every world: where the checkpoints inside a window, of the settings that are read there, lie on one
side of the curve by more than twice the standard deviation that the model gives their mean, this mean is the world's
misfit there. It widens the world's error, and `analysis.verdicts.evidence` refuses a verdict where the misfit of all
worlds together exceeds the effect that is practically nothing.

Errors of windows and best points are those of the curves at the settings that were run. Which settings were run is no
part of a world's error: the effect is about these settings. Where other settings would have other curves, this is a
property of the design that more worlds do not average out; the multiverse shows the effect at each setting alone.
"""

import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import linalg, optimize

from sweeps.estimands import Unanswerable, WorldEstimate


class Hyperparameters(NamedTuple):
    """Standard deviations in the unit of the outcome, the length in units of d = sqrt(nats)."""

    curve: float
    setting: float
    run: float
    noise: float
    length: float


PRIORS: dict[str, tuple[float, float]] = {
    "curve": (1.0, 1.0),
    "setting": (0.2, 1.0),
    "run": (0.1, 1.0),
    "noise": (0.05, 1.0),
    "length": (2.0, 0.5),
}
"""Median and log standard deviation of the log-normal priors; standard deviations are relative to the root mean square
of the task's changes, so that outcomes of any unit have the same priors."""
RUN_LENGTH = 0.5
"""Distance at which the correlation of a run's wandering falls to 1/e, in units of ``length``."""
_JITTER = 1e-8
_WINDOW_NODES, _BEST_NODES = 17, 65
_FITTED = 48
"""Most curves from which hyperparameters are fitted: more do not change them, and take longer."""


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The trained checkpoints of one arm in one world: distance, change of the outcome since SFT, number of the setting
    and number of the run; settings count from 0. ``names`` tell what the settings are; without names they are their
    numbers. With a leading axis, those of several arms or worlds."""

    d: Float[np.ndarray, "*w n"]
    change: Float[np.ndarray, "*w n"]
    setting: Int[np.ndarray, "*w n"]
    run: Int[np.ndarray, "*w n"]
    names: tuple[Any, ...] = ()


def _matern(apart: Float[np.ndarray, "*shape"], length: float) -> Float[np.ndarray, "*shape"]:
    """Matern 5/2 correlation at these distances."""
    x = np.sqrt(5) * apart / length
    return (1 + x + x**2 / 3) * np.exp(-x)


def _apart(
    a: Float[np.ndarray, "*w n"], b: Float[np.ndarray, "*w m"]
) -> Float[np.ndarray, "*w n m"]:
    """Distances between the places of two lists."""
    return np.abs(a[..., :, None] - b[..., None, :])


def _pinned(
    a: Float[np.ndarray, "*w n"], b: Float[np.ndarray, "*w m"], length: float
) -> Float[np.ndarray, "*w n m"]:
    """Matern 5/2 covariance of a process that is known to be 0 at 0."""
    from_a, from_b = _matern(np.abs(a), length), _matern(np.abs(b), length)
    return _matern(_apart(a, b), length) - from_a[..., :, None] * from_b[..., None, :]


class _Pairs(NamedTuple):
    """What two checkpoints of an arm have in common, for all pairs; no hyperparameter changes it."""

    apart: Float[np.ndarray, "*w n n"]
    same_setting: Bool[np.ndarray, "*w n n"]
    same_run: Bool[np.ndarray, "*w n n"]

    @classmethod
    def of(cls, points: Checkpoints) -> "_Pairs":
        settings, runs = (
            each[..., :, None] == each[..., None, :] for each in (points.setting, points.run)
        )
        return cls(_apart(points.d, points.d), settings, runs)


def _covariance(
    points: Checkpoints, by: Hyperparameters, pairs: _Pairs | None = None
) -> Float[np.ndarray, "*w n n"]:
    """Covariance of the changes at an arm's checkpoints, or at those of several arms that have equally many."""
    apart, same_setting, same_run = pairs or _Pairs.of(points)
    from_0 = _matern(np.abs(points.d), by.length)
    curve = _matern(apart, by.length) - from_0[..., :, None] * from_0[..., None, :]
    total = curve * (by.curve**2 + by.setting**2 * same_setting)
    total += by.run**2 * same_run * np.exp(-apart / (RUN_LENGTH * by.length))
    place = np.arange(points.d.shape[-1])
    # Relative to the curves, so that outcomes of any unit have the same.
    total[..., place, place] += by.noise**2 + _JITTER * (by.curve**2 + by.setting**2)
    return total


def log_marginal(points: Checkpoints, by: Hyperparameters, pairs: _Pairs | None = None) -> float:
    """Log density of the changes, curves integrated out; of several arms, the sum over them."""
    root = np.linalg.cholesky(_covariance(points, by, pairs))
    white = np.linalg.solve(root, points.change[..., None])
    log_scales = np.log(np.diagonal(root, axis1=-2, axis2=-1)).sum()
    n = points.d.size
    return float(-0.5 * np.sum(white**2) - log_scales - 0.5 * n * np.log(2 * np.pi))


def measurement(
    points: Checkpoints, by: Hyperparameters, rng: np.random.Generator
) -> Float[np.ndarray, " n"]:
    """A draw of what checkpoints show beside their curves: the wandering of runs, and noise."""
    apart = _covariance(points, by._replace(curve=0.0, setting=0.0))
    return np.linalg.cholesky(apart) @ rng.normal(size=len(points.d))


def _stacked(worlds: Sequence[Checkpoints], scale: float) -> list[Checkpoints]:
    """The checkpoints in stacks of equally many, changes in units of ``scale``: stacks are computed at once."""
    by_size: dict[int, list[Checkpoints]] = {}
    for points in worlds:
        by_size.setdefault(len(points.d), []).append(points)
    found = []
    for alike in by_size.values():
        d, change = (np.stack([getattr(p, name) for p in alike]) for name in ("d", "change"))
        setting, run = (np.stack([getattr(p, name) for p in alike]) for name in ("setting", "run"))
        found.append(Checkpoints(d, change / scale, setting, run))
    return found


def fit(worlds: Sequence[Checkpoints]) -> Hyperparameters:
    """The hyperparameters of a task from the checkpoints of its arms in its worlds, of which at most `_FITTED`, evenly
    chosen in the given order, are used. Raises `Unanswerable` without checkpoints."""
    if not worlds:
        raise Unanswerable("there are no checkpoints")
    worlds = list(worlds)[:: max(1, -(-len(worlds) // _FITTED))]
    medians = np.log([median for median, _ in PRIORS.values()])
    widths = np.array([width for _, width in PRIORS.values()])
    changes = np.concatenate([points.change for points in worlds])
    scale = float(np.sqrt(np.mean(changes**2))) or 1.0
    relative = [(points, _Pairs.of(points)) for points in _stacked(worlds, scale)]

    def down(z: Float[np.ndarray, " hyperparameter"]) -> float:
        by = Hyperparameters(*np.exp(medians + widths * z))
        return 0.5 * float(z @ z) - sum(
            log_marginal(points, by, pairs) for points, pairs in relative
        )

    found = optimize.minimize(
        down, np.zeros(len(widths)), method="L-BFGS-B", bounds=[(-4, 4)] * len(widths)
    )
    *amplitudes, length = np.exp(medians + widths * found.x).tolist()
    curve, setting, run, noise = (scale * amplitude for amplitude in amplitudes)
    return Hyperparameters(curve, setting, run, noise, length)


@functools.lru_cache(maxsize=16)
def _normal(count: int, nodes: int) -> Float[np.ndarray, "draw node"]:
    """The standard normal numbers that draws of curves are made of, the same at each call."""
    return np.random.default_rng(0).normal(size=(count, nodes))


class Nodes(NamedTuple):
    """Places on curves: a distance and a setting each; setting -1 is f alone, the arm's typical curve."""

    d: Float[np.ndarray, " node"]
    setting: Int[np.ndarray, " node"]


class Curves:
    """The posterior of an arm's curves in one world; see `sweeps.estimands.WorldCurve`.

    Attributes:
        settings: of the runs, in order. reach: the largest distance of a checkpoint of each setting, shape (setting,).
        tokens: mean length of SFT's responses.
    """

    def __init__(self, points: Checkpoints, by: Hyperparameters, tokens: float = np.nan) -> None:
        self._points, self._by, self.tokens = points, by, tokens
        self._root = linalg.cho_factor(_covariance(points, by), lower=True)
        self._settings = np.arange(points.setting.max() + 1)
        self.settings: tuple[Any, ...] = points.names or tuple(self._settings.tolist())
        self.reach = np.array([points.d[points.setting == one].max() for one in self._settings])
        self._solved = linalg.cho_solve(self._root, points.change)
        self._bests: dict[float, WorldEstimate] = {}

    def joint(
        self, nodes: Nodes
    ) -> tuple[Float[np.ndarray, " node"], Float[np.ndarray, "node node"]]:
        """Mean and covariance of the changes at the nodes, without noise and wandering."""
        toward = self._toward(nodes)
        # Settings are often read at the same places.
        d, place = np.unique(nodes.d, return_inverse=True)
        prior = _pinned(d, d, self._by.length)[np.ix_(place, place)]
        prior *= self._shared(nodes.setting, nodes.setting)
        explained = linalg.solve_triangular(self._root[0], toward.T, lower=True)
        return toward @ self._solved, prior - explained.T @ explained

    def _toward(self, nodes: Nodes) -> Float[np.ndarray, "node n"]:
        """Covariance of the curves at the nodes with the checkpoints."""
        d, place = np.unique(nodes.d, return_inverse=True)
        cross = _pinned(d, self._points.d, self._by.length)[place]
        return cross * self._shared(nodes.setting, self._points.setting)

    def _shared(
        self, first: Int[np.ndarray, " n"], second: Int[np.ndarray, " m"]
    ) -> Float[np.ndarray, "n m"]:
        """Variance that the curves of two settings share."""
        same = (first[:, None] == second[None, :]) & (first[:, None] >= 0)
        return self._by.curve**2 + self._by.setting**2 * same

    def typical(self, d: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
        """Posterior mean of the arm's typical curve at distances ``d``."""
        return self._toward(Nodes(d, np.full(len(d), -1))) @ self._solved

    def window(
        self, low: float, high: float, settings: Collection[Any] | None = None
    ) -> WorldEstimate:
        """Mean change over a window of d, averaged over the settings that reach its middle, or over those of them in
        ``settings``.

        Raises `Unanswerable` if no setting does."""
        wanted = [settings is None or name in settings for name in self.settings]
        reaching = self._settings[(self.reach >= (low + high) / 2) & np.array(wanted)]
        if not len(reaching):
            raise Unanswerable(f"no checkpoint lies beyond a KL of {((low + high) / 2) ** 2:.2g}")
        d = np.linspace(low, high, _WINDOW_NODES)
        mean, covariance = self.joint(Nodes(np.tile(d, len(reaching)), np.repeat(reaching, len(d))))
        error = float(np.sqrt(max(covariance.mean(), 0.0)))
        return WorldEstimate(float(mean.mean()), error, self._misfit(low, high, reaching))

    def difference(self, first: float, second: float) -> WorldEstimate:
        """The typical curve at distance ``first`` less that at distance ``second``."""
        mean, covariance = self.joint(Nodes(np.array([first, second]), np.full(2, -1)))
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        misfit = self._misfit(max(first - self._by.length / 2, 0.0), first + self._by.length / 2)
        return WorldEstimate(float(mean[0] - mean[1]), float(np.sqrt(max(variance, 0.0))), misfit)

    def best(self, within: float = np.inf) -> WorldEstimate:
        """The largest change within a distance of ``within``, over all settings, each as far as it was observed: mean
        and standard deviation over draws of the curves."""
        if within not in self._bests:
            self._bests[within] = self._best(within)
        return self._bests[within]

    def _best(self, within: float) -> WorldEstimate:
        ends = np.minimum(self.reach, within)
        d = np.concatenate([np.linspace(0, end, _BEST_NODES) for end in ends])
        nodes = Nodes(d, np.repeat(self._settings, _BEST_NODES))
        draws = self._draws(nodes)
        tops, top = draws.max(axis=1), float(d[np.argmax(draws.mean(axis=0))])
        half = self._by.length / 2
        misfit = self._misfit(max(top - half, 0.0), min(top + half, within))
        return WorldEstimate(float(tops.mean()), float(tops.std(ddof=1)), misfit)

    def peak(self) -> tuple[WorldEstimate, float]:
        """log KL at the typical curve's maximum inside its observed range, no lower than that of the nearest
        checkpoint; and the share of draws whose maximum lies at the end of the range."""
        nearest, end = max(float(self._points.d.min()), 1e-3), float(self.reach.max())
        d = np.linspace(0, end, _BEST_NODES)
        places = np.argmax(self._draws(Nodes(d, np.full(len(d), -1))), axis=1)
        log_kl = 2 * np.log(np.maximum(d[places], nearest))
        estimate = WorldEstimate(float(log_kl.mean()), float(log_kl.std(ddof=1)))
        return estimate, float(np.mean(places == len(d) - 1))

    def _draws(self, nodes: Nodes, count: int = 400) -> Float[np.ndarray, "draw node"]:
        """Draws of the curves at the nodes, the same at each call."""
        mean, covariance = self.joint(nodes)
        # Rounding makes the covariance of close nodes indefinite, by far less than this.
        rounding = _JITTER * (self._by.curve**2 + self._by.setting**2)
        place = np.arange(len(mean))
        covariance[place, place] += rounding
        return mean + _normal(count, len(mean)) @ np.linalg.cholesky(covariance).T

    @functools.cached_property
    def _unfitted(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n n"]]:
        """Observed less fitted change at the checkpoints, and the covariance that the model gives these residuals."""
        points = self._points
        apart = _covariance(points, self._by) - self._toward(Nodes(points.d, points.setting))
        return apart @ self._solved, apart @ linalg.cho_solve(self._root, apart)

    def _misfit(
        self, low: float, high: float, settings: Int[np.ndarray, " setting"] | None = None
    ) -> float:
        """Mean of observed less fitted change over the checkpoints (of these settings) between two distances, where it
        is more than two of the standard deviations that the model gives it; otherwise 0."""
        points = self._points
        inside = (points.d >= low) & (points.d <= high)
        if settings is not None:
            inside &= np.isin(points.setting, settings)
        if not inside.any():
            return 0.0
        weights, (residual, spread) = inside / inside.sum(), self._unfitted
        mean, variance = float(weights @ residual), float(weights @ spread @ weights)
        return mean if abs(mean) > 2 * np.sqrt(max(variance, 0.0)) else 0.0

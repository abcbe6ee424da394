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
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg, optimize

from sweeps.estimands import Unanswerable


class Hyperparameters(NamedTuple):
    """Standard deviations in units of the outcome, lengths in units of d = sqrt(nats)."""

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
"""Median and log standard deviation of the log-normal priors, for outcomes in SFT standard deviations."""
RUN_LENGTH = 0.5
"""Distance at which the correlation of a run's wandering falls to 1/e, in units of ``length``."""
_JITTER = 1e-8


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The trained checkpoints of one arm in one world: distance, change of the outcome since SFT, number of the setting
    and number of the run; settings count from 0."""

    d: Float[np.ndarray, " n"]
    change: Float[np.ndarray, " n"]
    setting: Int[np.ndarray, " n"]
    run: Int[np.ndarray, " n"]


def _matern(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"], length: float
) -> Float[np.ndarray, "n m"]:
    """Matern 5/2 correlation."""
    x = np.sqrt(5) * np.abs(a[:, None] - b[None, :]) / length
    return (1 + x + x**2 / 3) * np.exp(-x)


def _pinned(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"], length: float
) -> Float[np.ndarray, "n m"]:
    """The same for a process that is known to be 0 at 0."""
    zero = np.zeros(1)
    return _matern(a, b, length) - _matern(a, zero, length) @ _matern(zero, b, length)


def _covariance(points: Checkpoints, by: Hyperparameters) -> Float[np.ndarray, "n n"]:
    """Covariance of the changes at an arm's checkpoints."""
    curve = _pinned(points.d, points.d, by.length)
    same_setting = points.setting[:, None] == points.setting[None, :]
    same_run = points.run[:, None] == points.run[None, :]
    apart = np.abs(points.d[:, None] - points.d[None, :]) / (RUN_LENGTH * by.length)
    total = curve * (by.curve**2 + by.setting**2 * same_setting)
    total += by.run**2 * same_run * np.exp(-apart)
    return total + (by.noise**2 + _JITTER) * np.eye(len(points.d))


def log_marginal(points: Checkpoints, by: Hyperparameters) -> float:
    """Log density of the changes, curves integrated out."""
    root = np.linalg.cholesky(_covariance(points, by))
    white = linalg.solve_triangular(root, points.change, lower=True, check_finite=False)
    n = len(points.d)
    return float(-0.5 * white @ white - np.log(np.diag(root)).sum() - 0.5 * n * np.log(2 * np.pi))


def fit(worlds: Sequence[Checkpoints]) -> Hyperparameters:
    """The hyperparameters of a task from the checkpoints of its arms in its worlds. Raises `Unanswerable` without
    checkpoints."""
    if not worlds:
        raise Unanswerable("there are no checkpoints")
    medians = np.log([median for median, _ in PRIORS.values()])
    widths = np.array([width for _, width in PRIORS.values()])

    def down(z: Float[np.ndarray, " hyperparameter"]) -> float:
        by = Hyperparameters(*np.exp(medians + widths * z))
        return 0.5 * float(z @ z) - sum(log_marginal(points, by) for points in worlds)

    found = optimize.minimize(
        down, np.zeros(len(widths)), method="L-BFGS-B", bounds=[(-4, 4)] * len(widths)
    )
    return Hyperparameters(*np.exp(medians + widths * found.x).tolist())


@dataclasses.dataclass(frozen=True)
class Curves:
    """The posterior of an arm's curves in one world, one per setting, on a grid of distances.

    Attributes:
        d: distances, increasing, from 0. mean, covariance: of the changes since SFT, without noise and wandering.
        reach: the largest distance of a checkpoint of each setting.
    """

    d: Float[np.ndarray, " d"]
    mean: Float[np.ndarray, "setting d"]
    covariance: Float[np.ndarray, "setting d setting d"]
    reach: Float[np.ndarray, " setting"]

    def window(self, low: float, high: float) -> tuple[float, float]:
        """Mean change over a window of d, averaged over the settings that reach its middle, with its standard error.

        Raises `Unanswerable` if no setting does."""
        inside = (self.d >= low) & (self.d <= high)
        reaching = self.reach >= (low + high) / 2
        if not inside.any() or not reaching.any():
            raise Unanswerable(f"no checkpoint lies beyond a KL of {((low + high) / 2) ** 2:.2g}")
        weights = np.outer(reaching, inside).astype(float)
        weights /= weights.sum()
        variance = np.einsum("ad,adbe,be", weights, self.covariance, weights)
        return float(np.sum(weights * self.mean)), float(np.sqrt(max(variance, 0.0)))

    def best(self, budget: float, count: int = 400, seed: int = 0) -> tuple[float, float]:
        """The largest change within a budget of d, over all settings, each as far as it was observed: mean and standard
        deviation over draws of the curves."""
        seen = (self.d[None, :] <= np.minimum(self.reach, budget)[:, None] + 1e-9).ravel()
        mean = self.mean.ravel()[seen]
        covariance = self.covariance.reshape(self.mean.size, -1)[np.ix_(seen, seen)]
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        noise = np.random.default_rng(seed).normal(size=(count, len(mean)))
        tops = np.max(mean + noise @ root.T, axis=1)
        return float(tops.mean()), float(tops.std(ddof=1))


def curves(points: Checkpoints, by: Hyperparameters, d: Float[np.ndarray, " d"]) -> Curves:
    """The posterior of an arm's curves at the distances ``d``, which begin at 0."""
    settings = np.arange(points.setting.max() + 1)
    root = linalg.cho_factor(_covariance(points, by), lower=True)
    cross = _pinned(d, points.d, by.length)
    same = settings[:, None] == points.setting[None, :]
    toward = cross[None] * (by.curve**2 + by.setting**2 * same[:, None, :])
    flat = toward.reshape(-1, len(points.d))
    prior = _pinned(d, d, by.length)
    shared = by.curve**2 + by.setting**2 * np.eye(len(settings))
    before = np.einsum("ab,de->adbe", shared, prior)
    mean = (flat @ linalg.cho_solve(root, points.change)).reshape(len(settings), len(d))
    known = flat @ linalg.cho_solve(root, flat.T)
    reach = np.array([points.d[points.setting == setting].max() for setting in settings])
    return Curves(d, mean, before - known.reshape(before.shape), reach)

"""Curves of one world: densities and posteriors by plain conditioning, and curves that are known."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.worlds.smoother import (
    RUN_LENGTH,
    Checkpoints,
    Hyperparameters,
    curves,
    fit,
    log_marginal,
)
from sweeps.estimands import Unanswerable

BY = Hyperparameters(curve=0.8, setting=0.2, run=0.1, noise=0.05, length=1.7)
D = np.array([0.3, 0.8, 1.5, 0.4, 1.1, 2.2])
SETTING = np.array([0, 0, 0, 1, 1, 1])
RUN = np.array([0, 0, 1, 2, 2, 2])


def correlation(a: float, b: float, length: float) -> float:
    """Matern 5/2 of a process that is 0 at 0, written for one pair."""

    def plain(x: float) -> float:
        x = 5**0.5 * abs(x) / length
        return float((1 + x + x * x / 3) * np.exp(-x))

    return plain(a - b) - plain(a) * plain(b)


def covariance() -> np.ndarray:
    """Of the changes at `D`, entry by entry."""
    found = np.zeros((6, 6))
    for i in range(6):
        for j in range(6):
            scale = BY.curve**2 + BY.setting**2 * (SETTING[i] == SETTING[j])
            found[i, j] = scale * correlation(D[i], D[j], BY.length)
            if RUN[i] == RUN[j]:
                found[i, j] += BY.run**2 * np.exp(-abs(D[i] - D[j]) / (RUN_LENGTH * BY.length))
            found[i, j] += (i == j) * BY.noise**2
    return found


def measured(change: np.ndarray) -> Checkpoints:
    return Checkpoints(D, change, SETTING, RUN)


def test_the_marginal_likelihood_is_that_of_a_normal_distribution() -> None:
    change = np.random.default_rng(0).normal(size=6)
    normal: Any = stats.multivariate_normal
    expected = normal(np.zeros(6), covariance()).logpdf(change)
    assert log_marginal(measured(change), BY) == pytest.approx(expected, rel=1e-5)


def test_curves_are_the_conditional_of_a_joint_normal_distribution() -> None:
    """Mean and covariance of a setting's curve at two places, by Schur's complement."""
    change, places = np.random.default_rng(1).normal(size=6), np.array([0.0, 0.9, 1.9])
    found = curves(measured(change), BY, places)
    for setting in (0, 1):
        scale: Any = BY.curve**2 + BY.setting**2 * (setting == SETTING)
        cross = np.array(
            [[scale[i] * correlation(p, D[i], BY.length) for i in range(6)] for p in places]
        )
        weights = cross @ np.linalg.inv(covariance())
        np.testing.assert_allclose(found.mean[setting], weights @ change, atol=1e-6)
        total = BY.curve**2 + BY.setting**2
        prior = np.array([[total * correlation(p, q, BY.length) for q in places] for p in places])
        np.testing.assert_allclose(
            found.covariance[setting, :, setting], prior - weights @ cross.T, atol=1e-6
        )
    assert found.mean[:, 0] == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(found.reach, [1.5, 2.2])


def world(rng: np.random.Generator, noise: float = 0.03) -> Checkpoints:
    """Two settings around d - d^2 / 5, the second twice as far as the first."""
    d = np.concatenate([reach * np.linspace(0, 1, 13)[1:] for reach in (1.6, 3.2)])
    number = np.repeat([0, 1], 12)
    change = d - d**2 / 5 + 0.05 * number * d + noise * rng.normal(size=24)
    return Checkpoints(d, change, number, number)


def test_windows_and_best_points_of_a_known_curve() -> None:
    """Over 20 worlds the estimates of a window's mean and of the best point scatter around the truth, by no more than
    1.5 times their stated errors, and the mean of the best is within 0.02 of the curve's."""
    rng = np.random.default_rng(2)
    worlds = [world(rng) for _ in range(20)]
    by, places = fit(worlds), np.linspace(0, 3.2, 65)
    assert by.noise == pytest.approx(0.03, rel=0.3)
    fitted = [curves(points, by, places) for points in worlds]
    inside = places[(places >= 0.7) & (places <= 1.5)]
    truth = np.mean(inside - inside**2 / 5 + 0.025 * inside)
    values, errors = np.transpose([one.window(0.7, 1.5) for one in fitted])
    assert np.mean(values) == pytest.approx(truth, abs=0.01)
    assert np.std(values) < 1.5 * np.mean(errors)
    tops = np.array([one.best(2.0)[0] for one in fitted])
    assert np.mean(tops) == pytest.approx(2 - 4 / 5 + 0.1, abs=0.02)


def test_checkpoints_that_wander_together_count_for_less() -> None:
    points = world(np.random.default_rng(3))
    places = np.linspace(0, 3.2, 33)
    alone, together = (
        curves(points, BY._replace(run=run, noise=noise), places).window(0.7, 1.5)[1]
        for run, noise in ((1e-3, 0.1), (0.1, 1e-3))
    )
    assert together > 1.5 * alone


def test_windows_beyond_all_checkpoints_have_no_answer() -> None:
    found = curves(world(np.random.default_rng(4)), BY, np.linspace(0, 8, 81))
    with pytest.raises(Unanswerable, match="no checkpoint lies beyond a KL of 2"):
        found.window(4.0, 6.0)
    with pytest.raises(Unanswerable, match="no checkpoints"):
        fit([])

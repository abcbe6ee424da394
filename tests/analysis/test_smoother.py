"""Curves of one world: densities and posteriors by plain conditioning, and curves that are known."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.worlds.smoother import (
    RUN_LENGTH,
    Checkpoints,
    Curves,
    Hyperparameters,
    Nodes,
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
    found = Curves(measured(change), BY)
    for setting in (0, 1):
        scale: Any = BY.curve**2 + BY.setting**2 * (setting == SETTING)
        cross = np.array(
            [[scale[i] * correlation(p, D[i], BY.length) for i in range(6)] for p in places]
        )
        weights = cross @ np.linalg.inv(covariance())
        mean, covariance_there = found.joint(Nodes(places, np.full(3, setting)))
        np.testing.assert_allclose(mean, weights @ change, atol=1e-6)
        assert mean[0] == pytest.approx(0.0, abs=1e-9)
        total = BY.curve**2 + BY.setting**2
        prior = np.array([[total * correlation(p, q, BY.length) for q in places] for p in places])
        np.testing.assert_allclose(covariance_there, prior - weights @ cross.T, atol=1e-6)
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
    by, inside = fit(worlds), np.linspace(0.7, 1.5, 17)
    assert by.noise == pytest.approx(0.03, rel=0.3)
    fitted = [Curves(points, by) for points in worlds]
    truth = np.mean(inside - inside**2 / 5 + 0.025 * inside)
    values, errors, misfits = np.transpose([one.window(0.7, 1.5) for one in fitted])
    assert np.mean(values) == pytest.approx(truth, abs=0.01)
    assert np.std(values) < 1.5 * np.mean(errors)
    # One world in twenty is off by two standard deviations.
    assert np.count_nonzero(misfits) <= 4
    tops = np.array([one.best(2.0)[0] for one in fitted])
    assert np.mean(tops) == pytest.approx(2 - 4 / 5 + 0.1, abs=0.02)


def test_checkpoints_that_wander_together_count_for_less() -> None:
    points = world(np.random.default_rng(3))
    alone, together = (
        Curves(points, BY._replace(run=run, noise=noise)).window(0.7, 1.5).error
        for run, noise in ((1e-3, 0.1), (0.1, 1e-3))
    )
    assert together > 1.5 * alone


def test_windows_beyond_all_checkpoints_have_no_answer() -> None:
    found = Curves(world(np.random.default_rng(4)), BY)
    with pytest.raises(Unanswerable, match="no checkpoint lies beyond a KL of 2"):
        found.window(4.0, 6.0)
    with pytest.raises(Unanswerable, match="no checkpoints"):
        fit([])


def test_the_typical_curve_is_what_settings_share() -> None:
    """At setting -1 the curve is f alone: the conditional mean with the variance of f only."""
    change, place = np.random.default_rng(5).normal(size=6), 0.9
    found = Curves(measured(change), BY)
    cross = np.array([BY.curve**2 * correlation(place, D[i], BY.length) for i in range(6)])
    expected = cross @ np.linalg.solve(covariance(), change)
    assert found.typical(np.array([place]))[0] == pytest.approx(expected, abs=1e-6)
    apart = found.difference(place, 0.0)
    assert apart.value == pytest.approx(expected, abs=1e-6)
    variance = BY.curve**2 * correlation(place, place, BY.length)
    variance -= cross @ np.linalg.solve(covariance(), cross)
    assert apart.error == pytest.approx(np.sqrt(variance), abs=1e-6)


def test_a_curve_that_misses_its_points_says_by_how_much() -> None:
    """Checkpoints inside the window are lifted by 0.5, in a model whose curves bend only slowly."""
    points, stiff = world(np.random.default_rng(6)), BY._replace(noise=0.05, run=0.01, length=20.0)
    inside = (points.d >= 0.7) & (points.d <= 1.5)
    lifted = dataclasses.replace(points, change=points.change + 0.5 * inside)
    assert Curves(lifted, stiff).window(0.7, 1.5).misfit > 0.1
    assert Curves(points, BY).window(0.7, 1.5).misfit == 0.0


def test_the_place_of_the_peak_of_a_known_curve() -> None:
    """d - d^2 / 5 is highest at 2.5, within the range of both settings together."""
    rng = np.random.default_rng(7)
    d = np.linspace(0, 4, 33)[1:]
    points = Checkpoints(
        d, d - d**2 / 5 + 0.01 * rng.normal(size=32), np.zeros(32, int), np.zeros(32, int)
    )
    place, at_end = Curves(points, fit([points])).peak()
    assert place.value == pytest.approx(2 * np.log(2.5), abs=0.15)
    assert at_end < 0.05
    half = Checkpoints(d[:16], points.change[:16], points.setting[:16], points.run[:16])
    assert Curves(half, fit([points])).peak()[1] > 0.5


def test_the_misfit_is_that_of_the_settings_that_are_read() -> None:
    """Only the second setting's checkpoints are lifted, in a model whose curves bend only slowly."""
    points, stiff = world(np.random.default_rng(6)), BY._replace(noise=0.05, run=0.01, length=20.0)
    inside = (points.d >= 0.7) & (points.d <= 1.5) & (points.setting == 1)
    found = Curves(dataclasses.replace(points, change=points.change + 0.5 * inside), stiff)
    residual, _ = found._unfitted
    assert found.window(0.7, 1.5, [1]).misfit == pytest.approx(residual[inside].mean())
    others = (points.d >= 0.7) & (points.d <= 1.5) & (points.setting == 0)
    assert found.window(0.7, 1.5, [0]).misfit in (0.0, pytest.approx(residual[others].mean()))


def test_the_unit_of_the_outcome_does_not_matter() -> None:
    points = world(np.random.default_rng(8))
    tiny = dataclasses.replace(points, change=1e-6 * points.change)
    by = fit([points])
    first, second = (Curves(one, fit([one])) for one in (points, tiny))
    assert fit([tiny])[:4] == pytest.approx(1e-6 * np.array(by[:4]), rel=1e-3)
    for one, other in (
        (first.window(0.7, 1.5), second.window(0.7, 1.5)),
        (first.best(), second.best()),
    ):
        assert other.value == pytest.approx(1e-6 * one.value, rel=1e-3)
        assert other.error == pytest.approx(1e-6 * one.error, rel=1e-2)

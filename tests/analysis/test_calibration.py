"""Intervals cover known truths, and effects on the edge of nothing are not called reproduced."""

import numpy as np
import pytest
from scipy import stats

from analysis.verdicts import calibration
from analysis.verdicts.calibration import SCENARIOS, Truth

CLEAR = SCENARIOS["a clear gap"]
DESIGN = {"settings": 6, "evaluations": 8}


def test_tasks_are_drawn_around_the_typical_one():
    rng = np.random.default_rng(0)
    drawn = [CLEAR.task(rng) for _ in range(4000)]
    starts = np.array([own.start for own in drawn])
    slopes = np.array([own.a for own in drawn])
    assert starts.mean() == pytest.approx(CLEAR.start, abs=0.03)
    assert starts.std() == pytest.approx(CLEAR.group_start, rel=0.05)
    total = np.hypot(CLEAR.group_shared, CLEAR.group_arm)
    assert slopes.std(axis=0) == pytest.approx([total] * 3, rel=0.05)
    shared = np.cov(slopes.T)[0, 1]
    assert shared == pytest.approx(CLEAR.group_shared**2, rel=0.1)


def test_true_values_by_hand():
    truth = Truth(a=(2.0, 1.5), b=(1.5, 1.5))
    rate, place = truth.peak(0, 3.0)
    assert place == pytest.approx((1 + 2.0 / 1.5) / 2)
    assert rate == pytest.approx(float(truth.win_rate(0, np.array([place]))[0]))
    assert truth.peak(0, 0.5)[1] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 2])
def test_intervals_cover_and_edges_are_not_reproduced(tasks):
    """Within the binomial error of few replications; `python -m analysis.verdicts.calibration 200` says more."""
    count = 20 if tasks == 1 else 6
    rows = calibration.replicate(CLEAR, count, tasks=tasks, **DESIGN)
    assert (rows["trouble"] == "").all()
    for _, own in rows.groupby(["task", "quantity"]):
        n = len(own)
        assert own["covered"].sum() >= stats.binom.ppf(1e-4, n, 0.9)
        for rule in ("more", "no_more", "same"):
            assert own[rule].sum() <= stats.binom.ppf(1 - 1e-4, n, 0.05)

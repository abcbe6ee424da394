"""Curves over worlds against values worked out by hand."""

import numpy as np
import pytest

from analysis.worlds.typical_curve import difference_curve, typical_curve
from sweeps.estimands import Unanswerable, WorldCurve


class Line(WorldCurve):
    """A straight curve of one setting, with what figures read."""

    tokens = float("nan")

    def __init__(self, slope: float, reach: float) -> None:
        self.slope, self.end = slope, reach

    @property
    def reach(self) -> np.ndarray:
        return np.array([self.end])

    def typical(self, d: np.ndarray) -> np.ndarray:
        return self.slope * d

    def window(self, low, high, settings=None):
        raise NotImplementedError

    best = difference = peak = window
    settings = ()


def test_the_mean_goes_on_without_a_jump_where_a_world_ends() -> None:
    """Slopes 1, 2 and 6: their mean is 3, and 4 once the first world has ended, at d = 1."""
    curves = {0: Line(1, 1.0), 1: Line(2, 2.0), 2: Line(6, 4.0)}
    found = typical_curve(curves, {0: 0.3, 1: 0.3, 2: 0.3})
    # Half of the worlds came to d = 2.
    assert found.d[-1] == 2.0
    assert found.mean[0] == pytest.approx(0.3)
    first = found.d <= 1.0
    assert found.mean[first] == pytest.approx(0.3 + 3 * found.d[first])
    assert found.mean[-1] == pytest.approx(0.3 + 3 + 4, abs=0.02)
    assert np.abs(np.diff(found.mean)).max() <= 4.01 * found.d[1]
    # At d = 1 the values are 1, 2 and 6 (s.d. sqrt 7): half of the 90% t interval is 2.92 sqrt(7 / 3).
    at = int(np.flatnonzero(first)[-1])
    assert (found.high - found.low)[at] / 2 == pytest.approx(2.92 * np.sqrt(7 / 3), rel=1e-3)
    assert np.isnan(found.worlds[0, ~first]).all()


def test_differences_are_of_the_worlds_that_both_arms_have() -> None:
    first, second = {0: Line(3, 2.0), 1: Line(5, 2.0)}, {1: Line(1, 1.0), 2: Line(1, 1.0)}
    found = difference_curve(first, second)
    assert found.seeds == (1,)
    assert found.d[-1] == 1.0
    assert found.mean == pytest.approx(4 * found.d)
    assert np.isnan(found.low).all()
    with pytest.raises(Unanswerable, match="share no world"):
        difference_curve(first, {2: Line(1, 1.0)})

"""Axes combined by product, in step, and at random."""

import numpy as np
import pytest

from sweeps.grid import Axis, Choice, Grid, LogUniform, Uniform, product, random, zipped
from testbed.errors import InvalidInput

A = Axis("a", (1, 2))
B = Axis("b.c", (0.1, 0.2))


def test_product_has_every_combination_and_the_last_axis_varies_fastest() -> None:
    assert list(product(A, B)) == [
        {"a": 1, "b.c": 0.1},
        {"a": 1, "b.c": 0.2},
        {"a": 2, "b.c": 0.1},
        {"a": 2, "b.c": 0.2},
    ]
    assert list(product()) == [{}]
    assert len(product(product(A, B), Axis("d", "xyz"))) == 12


def test_zipped_goes_in_step() -> None:
    assert list(zipped(A, B)) == [{"a": 1, "b.c": 0.1}, {"a": 2, "b.c": 0.2}]
    assert len(product(zipped(A, B), Axis("d", (1, 2, 3)))) == 6


def test_without_drops_a_path_and_the_repeats_it_leaves() -> None:
    assert product(A, B).without("a") == B
    assert list(A.without("a")) == [{}]
    assert product(A, B).without("z") == product(A, B)
    assert product(A, B).values("a") == (1, 2)
    # True == 1 in Python, yet they are different settings.
    assert Axis("a", (1, True, 1)).values("a") == (1, True)


def test_random_is_repeatable_and_grows_without_moving() -> None:
    beta = {"loss.beta": LogUniform(0.01, 1.0)}
    small, large = random(5, seed=3, **beta), random(50, seed=3, **beta)
    assert large.rows[:5] == small.rows
    assert random(5, seed=4, **beta) != small
    with_rate = random(5, seed=3, rate=Uniform(0.0, 1.0), **beta)
    assert with_rate.values("loss.beta") == small.values("loss.beta")
    # Python floats, so that fingerprints and JSON do not depend on numpy.
    assert type(small.rows[0][0]) is float


def test_random_distributions() -> None:
    n = 4000
    grid = random(n, seed=0, u=Uniform(2.0, 4.0), v=LogUniform(1e-3, 1e1), w=Choice("x", "y"))
    u, v, w = (np.array(column) for column in zip(*grid.rows, strict=True))
    assert u.min() >= 2
    assert u.max() < 4
    # Means within 5 standard errors of 3, of log10 = -1, and of one half.
    assert abs(u.mean() - 3) < 5 * (2 / np.sqrt(12)) / np.sqrt(n)
    assert abs(np.log10(v).mean() + 1) < 5 * (4 / np.sqrt(12)) / np.sqrt(n)
    assert abs((w == "x").mean() - 0.5) < 5 * 0.5 / np.sqrt(n)
    assert abs(np.corrcoef(u, np.log(v))[0, 1]) < 5 / np.sqrt(n)


def test_refuses() -> None:
    with pytest.raises(InvalidInput, match="axis 'a' is given twice"):
        product(A, A)
    with pytest.raises(InvalidInput, match="axis 'a' has no values"):
        Axis("a", ())
    with pytest.raises(InvalidInput, match="equally many values, got a: 2, d: 1"):
        zipped(A, Axis("d", (1,)))
    with pytest.raises(InvalidInput, match="random needs n >= 1, got 0"):
        random(0, seed=0, u=Uniform(0.0, 1.0))
    with pytest.raises(InvalidInput, match=r"0 < low < high, got low=0\.0"):
        LogUniform(0.0, 1.0)
    with pytest.raises(InvalidInput, match=r"low < high, got low=1\.0"):
        Uniform(1.0, 1.0)
    with pytest.raises(InvalidInput, match="at least one value"):
        Choice()
    assert isinstance(A, Grid)

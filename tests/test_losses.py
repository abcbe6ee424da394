"""Losses against values and gradients worked by hand or in float64 numpy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import scored_pair

from testbed.errors import InvalidInput
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.losses.best_of_two import BestOfTwo
from testbed.losses.dpo import Dpo
from testbed.losses.ipo import Ipo
from testbed.types import PairScores

pytestmark = pytest.mark.usefixtures("strict_dtypes")

MARGINS = np.array([-50.0, -3.0, -1e-3, 0.0, 0.7, 5.0, 50.0])


def scored(policy_winner, policy_loser, reference_winner=-7.0, reference_loser=-4.0) -> ScoredPair:
    policy = PairScores(jnp.asarray(policy_winner), jnp.asarray(policy_loser))
    anchor = PairScores(jnp.asarray(reference_winner), jnp.asarray(reference_loser))
    return scored_pair(policy, anchor)


def of_margin(h: float) -> ScoredPair:
    """A pair of margin ``h``: winner 7 - 4 = 3 nats less likely under the reference, and 3 + h made up for."""
    return scored(-7.0 + 0.25 * h, -4.0 - 0.75 * h)


def value_and_slopes(loss: AbstractLoss, pair: ScoredPair) -> tuple[float, ...]:
    """The loss, and its derivatives by the four log-probabilities."""
    value, slope = jax.value_and_grad(
        lambda policy, anchor: loss(
            eqx.tree_at(lambda p: (p.policy, p.reference), pair, (policy, anchor))
        ),
        argnums=(0, 1),
    )(pair.policy, pair.reference)
    return tuple(float(x) for x in (value, *jax.tree.leaves(slope)))


@pytest.mark.parametrize("h", MARGINS)
@pytest.mark.parametrize("beta", [0.02, 0.5, 3.0])
def test_ipo(h: float, beta: float) -> None:
    target = 1.0 / (2.0 * beta)
    found = value_and_slopes(Ipo(beta=beta), of_margin(h))
    slope = 2.0 * (h - target)
    expected = ((h - target) ** 2, slope, -slope, -slope, slope)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_ipo_by_hand() -> None:
    """h = (-3 + 7) - (-5 + 4) = 5, target 1 / (2 * 0.25) = 2: (5 - 2)^2 = 9 and 2 * 3 = 6."""
    assert value_and_slopes(Ipo(beta=0.25), scored(-3.0, -5.0)) == (9.0, 6.0, -6.0, -6.0, 6.0)


def test_ipo_averaged_over_tokens_by_hand() -> None:
    """h = 4 / 5 - (-1) / 2 = 1.3, target 0.5: 0.8^2 = 0.64; slopes 1.6 / 5 and -1.6 / 2."""
    with jax.numpy_dtype_promotion("standard"):
        found = value_and_slopes(Ipo(beta=1.0, length_normalised=True), scored(-3.0, -5.0))
    np.testing.assert_allclose(found, (0.64, 0.32, -0.8, -0.32, 0.8), rtol=1e-6)


@pytest.mark.parametrize("h", MARGINS)
@pytest.mark.parametrize("beta", [0.1, 1.0, 4.0])
def test_dpo(h: float, beta: float) -> None:
    found = value_and_slopes(Dpo(beta=beta), of_margin(h))
    slope = -beta * np.exp(reference.log_sigmoid(-beta * h))
    expected = (-reference.log_sigmoid(beta * h), slope, -slope, -slope, slope)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-30)


def test_dpo_at_the_extremes() -> None:
    """At h = -50, beta 1: loss 50, slope -1. At +50: e^-50 = 1.93e-22, and no overflow on the way."""
    loss, slope, *_ = value_and_slopes(Dpo(beta=1.0), of_margin(-50.0))
    assert (loss, slope) == pytest.approx((50.0, -1.0), rel=1e-6)
    loss, slope, *_ = value_and_slopes(Dpo(beta=1.0), of_margin(50.0))
    assert (loss, slope) == pytest.approx((1.9287e-22, -1.9287e-22), rel=1e-3)


def test_best_of_two_ignores_loser_and_reference() -> None:
    assert value_and_slopes(BestOfTwo(), scored(-3.0, -5.0)) == (3.0, -1.0, 0.0, 0.0, 0.0)
    assert value_and_slopes(BestOfTwo(), scored(-3.0, 99.0, 1.0, 2.0))[0] == 3.0


@pytest.mark.parametrize("loss", [Ipo, Dpo])
@pytest.mark.parametrize("beta", [0.0, -0.1, float("nan"), float("inf")])
def test_beta_must_be_positive(loss: type, beta: float) -> None:
    with pytest.raises(InvalidInput, match=f"^beta must be > 0 and finite, got {beta}$"):
        loss(beta=beta)


@pytest.mark.parametrize("loss", [Ipo, Dpo])
def test_larger_beta_stays_closer(loss: type) -> None:
    """One name, one meaning. Where three of four labels agree, the expected loss is least at margin 0.25 / beta
    (Ipo) and log(3) / beta (Dpo): its slope there is zero."""
    for beta in (0.1, 0.5, 2.0):
        best = {Ipo: 0.25, Dpo: np.log(3.0)}[loss] / beta
        agree = value_and_slopes(loss(beta=beta), of_margin(best))[1]
        differ = value_and_slopes(loss(beta=beta), of_margin(-best))[1]
        assert 0.75 * agree - 0.25 * differ == pytest.approx(0.0, abs=1e-5)

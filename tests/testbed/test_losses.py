"""Losses against values and gradients worked by hand, and against independent implementations in float64 numpy."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import reference_losses
from helpers import scored_pair

from testbed.config import members
from testbed.config.ranges import Range, admitted
from testbed.errors import InvalidInput
from testbed.losses.base import AbstractLoss, Extra, ScoredPair
from testbed.losses.best_of_two import BestOfTwo
from testbed.losses.conservative_dpo import ConservativeDpo
from testbed.losses.dpo import Dpo
from testbed.losses.dpo_positive import DpoPositive
from testbed.losses.exo import Exo
from testbed.losses.gpo import Gpo
from testbed.losses.ipo import Ipo
from testbed.losses.kto import Kto
from testbed.losses.orpo import Orpo
from testbed.losses.rebel import Rebel
from testbed.losses.robust_dpo import RobustDpo
from testbed.losses.simpo import SimPo
from testbed.losses.slic import Slic
from testbed.losses.sppo import Sppo
from testbed.losses.weighted_sft import WeightedSft
from testbed.types import PairScores

pytestmark = pytest.mark.usefixtures("strict_dtypes")

LOSSES = members(AbstractLoss, "testbed.losses")
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


@pytest.mark.parametrize("loss", [kind for kind in LOSSES.values() if hasattr(kind, "beta")])
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


def test_reference_implementations_are_of_losses() -> None:
    """A loss that is added may bring its own, written from its paper: ``REFERENCES = {"Mine": mine}`` in
    tests/support/reference_loss_mine.py, as in `reference_losses`; without one it is compared with itself in float64.
    """
    assert not set(reference_losses.REFERENCES) - set(LOSSES)
    assert len(reference_losses.REFERENCES) >= 15


def options(kind: type) -> list[dict[str, Any]]:
    """Every combination of a loss's named options."""
    hints = get_type_hints(kind)
    choices = {
        field.name: get_args(hints[field.name]) or (False, True)
        for field in dataclasses.fields(kind)
        if field.metadata.get("static")
    }
    return [dict(zip(choices, each, strict=True)) for each in itertools.product(*choices.values())]


def draw(allowed: Range, rng: np.random.Generator) -> float:
    """A value well inside a range."""
    if np.isfinite(allowed.high):
        return float(allowed.low + (allowed.high - allowed.low) * rng.uniform(0.05, 0.9))
    return float(allowed.low + np.exp(rng.uniform(np.log(0.05), np.log(3.0))))


def settings(kind: type, chosen: dict[str, Any]) -> list[AbstractLoss]:
    """A loss with its defaults, and with three draws of its numbers."""
    rng = np.random.default_rng(0)
    ranges = {field.name: admitted(field) for field in dataclasses.fields(kind)}
    drawn = [
        {name: draw(allowed, rng) for name, allowed in ranges.items() if allowed is not None}
        for _ in range(3)
    ]
    return [kind(**chosen, **numbers) for numbers in ({}, *drawn)]


VARIANTS = [(name, chosen) for name, kind in LOSSES.items() for chosen in options(kind)]
IDS = ["-".join([name, *map(str, chosen.values())]) for name, chosen in VARIANTS]


@functools.cache
def inputs() -> ScoredPair:
    """Random pairs and extreme ones, and all of these swapped.

    Log-probabilities are multiples of a power of two, so that differences are exact in float32; log-ratios are none of
    0, where penalties have kinks.
    """
    rng = np.random.default_rng(1)
    scores = rng.uniform(-40.0, -0.5, (4, 120))
    scores[:, :20] = rng.choice([-300.0, -1.0, -0.002], (4, 20))
    extreme = np.array([[-60.0, -10.0], [-10.0, -60.0]]).T.repeat(4, axis=1)
    scores = np.concatenate([scores, [*extreme, *np.full((2, 8), -20.0)]], axis=1)
    policy = (np.floor(scores[:2] * 256) + 0.5) / 256
    policy[1, -8:] = policy[0, -8:] + np.repeat([50.0, -50.0], 4)
    anchor = np.floor(scores[2:] * 256) / 256
    n = scores.shape[1]
    pair = ScoredPair(
        *(PairScores(*jnp.asarray(rows, jnp.float32)) for rows in (policy, anchor)),
        *(jnp.asarray(rng.choice([1, 2, 7, 20], n), jnp.int32) for _ in range(2)),
        jnp.asarray(rng.choice([0.5, 0.7, 1.0], n), jnp.float32),
        *(jnp.asarray(rng.normal(size=n) * scale, jnp.float32) for scale in (2.0, 0.0, 0.0)),
    )
    kl, target = np.abs(rng.normal(size=n)) * 3.0, rng.uniform(-30.0, -0.5, n)
    given = (jnp.asarray(kl, jnp.float32), jnp.asarray(target, jnp.float32))
    pair = eqx.tree_at(lambda p: (p.kl, p.target), pair, given)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), pair, pair.swapped)


def as_numpy(pair: ScoredPair) -> reference_losses.Pairs:
    return reference_losses.Pairs(*(np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(pair)))


@jax.jit
def conform(loss: AbstractLoss, pair: ScoredPair) -> jax.Array:
    """Six rows: the loss of each pair, and its derivatives by the five log-probabilities that it may read."""

    def one(pair: ScoredPair) -> jax.Array:
        def total(read: tuple) -> jax.Array:
            return loss(eqx.tree_at(lambda p: (p.policy, p.reference, p.target), pair, read))

        value, slopes = jax.value_and_grad(total)((pair.policy, pair.reference, pair.target))
        return jnp.stack([value, *jax.tree.leaves(slopes)])

    return jax.vmap(one)(pair).T


def traced(loss: AbstractLoss) -> AbstractLoss:
    """With arrays for numbers, as in training."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), loss)


def in_float64(loss: AbstractLoss, structure: Any) -> Callable[..., np.ndarray]:
    """A loss as a function like those of `reference_losses.REFERENCES`: an error of rounding, or a slope that is not
    that of the values, shows against it."""

    def values(_: Any, x: reference_losses.Pairs) -> np.ndarray:
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            pair = jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in x])
            return np.asarray(jax.vmap(loss)(pair))

    return values


@pytest.mark.parametrize(("name", "chosen"), VARIANTS, ids=IDS)
def test_losses_equal_their_reference_implementations(name: str, chosen: dict[str, Any]) -> None:
    """Values, and slopes against central differences in float64, over all ranges of inputs and hyper-parameters. What
    a loss does not ask for it does not read."""
    kind, pair = LOSSES[name], inputs()
    extras = kind(**chosen).extras
    unread = {"kl": Extra.KL not in extras, "target": Extra.TARGET not in extras}
    for field in (field for field, hide in unread.items() if hide):
        nothing = jnp.full_like(pair.kl, jnp.nan)
        pair = eqx.tree_at(lambda p, field=field: getattr(p, field), pair, nothing)
    for loss in settings(kind, chosen):
        # In float32, as the loss has them.
        exact = jax.tree.map(lambda x: float(np.float32(x)), loss)
        given = {field.name: getattr(exact, field.name) for field in dataclasses.fields(kind)}
        itself = in_float64(exact, jax.tree.structure(pair))
        expected = reference_losses.value_and_slopes(name, given, as_numpy(pair), itself)
        found = np.asarray(conform(traced(loss), pair), np.float64)
        assert np.all(np.isfinite(found)), loss
        np.testing.assert_allclose(found[0], expected[0], rtol=2e-5, atol=2e-6, err_msg=str(loss))
        # A slope is as sure as the largest of its pair, and as the differences of a large loss.
        sure = 2e-4 * np.abs(expected[1:]).max(axis=0) + 1e-9 * np.abs(expected[0]) + 1e-6
        read = slice(1, 6) if Extra.TARGET in extras else slice(1, 5)
        assert np.all(np.abs(found - expected)[read] <= sure), loss


def test_swapped_pairs_exchange_everything_of_winner_and_loser() -> None:
    pair, swapped = inputs(), inputs().swapped
    for field in ("policy", "reference"):
        ours, theirs = getattr(pair, field), getattr(swapped, field)
        np.testing.assert_array_equal(ours.winner, theirs.loser)
        np.testing.assert_array_equal(ours.loser, theirs.winner)
    np.testing.assert_array_equal(pair.winner_length, swapped.loser_length)
    np.testing.assert_array_equal(pair.loser_length, swapped.winner_length)
    np.testing.assert_array_equal(pair.preference + swapped.preference, 1.0)
    np.testing.assert_array_equal(pair.reward_margin + swapped.reward_margin, 0.0)
    np.testing.assert_array_equal(pair.kl, swapped.kl)
    np.testing.assert_array_equal(pair.target, swapped.target)


#: Log-ratios 4 and -1, h = 5; a tokens' mean of -0.6 and -2.5 (lengths 5 and 2).
WORKED = scored_pair(
    PairScores(jnp.asarray(-3.0), jnp.asarray(-5.0)),
    PairScores(jnp.asarray(-7.0), jnp.asarray(-4.0)),
    preference=0.75,
    reward_margin=2.0,
    kl=1.0,
    target=-6.0,
)
#: 1 / (1 + e^-1), 1 / (1 + e^-2).
S1, S2 = 0.731059, 0.880797


@pytest.mark.parametrize(
    ("loss", "value", "winner", "loser"),
    [
        # z = 0.4 * 5 = 2: log(1 + e^-2); 0.4 * (S2 - 1).
        (Gpo(beta=0.4), 0.126928, -0.047681, 0.047681),
        (Gpo(beta=0.1, function="hinge"), 0.5, -0.1, 0.1),
        (Gpo(beta=0.4, function="hinge"), 0.0, 0.0, 0.0),
        # (1 - 2)^2; 0.4 * -2 * (1 - 2).
        (Gpo(beta=0.4, function="square"), 1.0, 0.8, -0.8),
        # e^-2; -0.4 e^-2.
        (Gpo(beta=0.4, function="exponential"), 0.135335, -0.054134, 0.054134),
        (Gpo(beta=0.4, function="truncated_square"), 0.0, 0.0, 0.0),
        # (1 - 0.5)^2; 0.1 * -2 * 0.5.
        (Gpo(beta=0.1, function="truncated_square"), 0.25, -0.1, 0.1),
        # (1 - S2)^2; 0.4 * -2 * (1 - S2)^2 * S2.
        (Gpo(beta=0.4, function="savage"), 0.014209, -0.010012, 0.010012),
        # 3 - (-3 + 5) = 1, and 0.5 * 3; slopes -1 - 0.5 and 1.
        (Slic(delta=3.0, weight=0.5), 2.5, -1.5, 1.0),
        # The margin is 2 already; 0.5 * 6.
        (Slic(delta=1.0, weight=0.5, target="data"), 3.0, 0.0, 0.0),
        # 0.8 * 0.126928 + 0.2 * 2.126928; 0.4 * (0.8 * (S2 - 1) + 0.2 * S2).
        (ConservativeDpo(beta=0.4, smoothing=0.2), 0.526928, 0.032319, -0.032319),
        # (0.8 * 0.126928 - 0.2 * 2.126928) / 0.6; 0.4 * (0.8 * (S2 - 1) - 0.2 * S2) / 0.6.
        (RobustDpo(beta=0.4, flips=0.2), -0.539739, -0.181015, 0.181015),
        # The winner has gained: Dpo.
        (DpoPositive(beta=0.4), 0.126928, -0.047681, 0.047681),
        # 2 * (-0.6 + 2.5) - 1.8 = 2; slopes 2 (S2 - 1) / 5 and -2 (S2 - 1) / 2.
        (SimPo(beta=2.0, gamma=1.8), 0.126928, -0.047681, 0.119203),
        (SimPo(beta=2.0, gamma=0.9, ratio=True), 0.126928, -0.047681, 0.119203),
        # sigmoid(0.5 * (1 - 4)) = 0.182426 and sigmoid(0.5 * (-1 - 1)) = 1 - S1, times 2 and 1.
        (Kto(beta=0.5, desirable=2.0), 0.316896, -0.074573, 0.049153),
        # rho - 1 = 3 and rho + 1 = 0.
        (Sppo(beta=0.5), 9.0, 6.0, 0.0),
        # beta h = 3 and a reward margin of 2: 1, and 0.6 * 2.
        (Rebel(beta=0.6), 1.0, 1.2, -1.2),
        # The weight is S1: between 3 and 5.
        (WeightedSft(beta=2.0), 3.537883, -S1, S1 - 1.0),
    ],
    ids=str,
)
def test_by_hand(loss: AbstractLoss, value: float, winner: float, loser: float) -> None:
    found = value_and_slopes(loss, WORKED)
    np.testing.assert_allclose(found[:3], (value, winner, loser), rtol=2e-5, atol=1e-6)


def test_exo_by_hand() -> None:
    """q = 0.9 * 0.75 + 0.1 * 0.25 = 0.7, s = S2: the KL is S2 log(S2 / 0.7) + (1 - S2) log((1 - S2) / 0.3), and its
    slope 0.4 S2 (1 - S2) (2 - log(0.7 / 0.3)), as log(s / (1 - s)) is 2."""
    value = S2 * np.log(S2 / 0.7) + (1 - S2) * np.log((1 - S2) / 0.3)
    slope = 0.4 * S2 * (1 - S2) * (2.0 - np.log(7 / 3))
    found = value_and_slopes(Exo(beta=0.4, smoothing=0.1), WORKED)
    np.testing.assert_allclose(found, (value, slope, -slope, -slope, slope), rtol=2e-5)


def test_orpo_by_hand() -> None:
    """Two tokens a response, of probability 1/2 and 1/4 each: odds 1 and 1/3, sigmoid(log 3) = 3/4."""
    half, quarter = jnp.log(jnp.asarray([0.5, 0.25]))
    pair = scored_pair(*(PairScores(2.0 * half, 2.0 * quarter),) * 2, lengths=(2, 2))
    found = value_and_slopes(Orpo(weight=0.4), pair)
    # d log odds(m) / dm = 1 / (1 - p): 2 and 4/3; half of it a summed nat, times 0.4 * (1 - 3/4).
    expected = (np.log(2) + 0.4 * np.log(4 / 3), -0.5 - 0.1, 0.1 * 2 / 3, 0.0, 0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_orpo_of_a_certain_text_is_finite() -> None:
    """The odds of a text that is certain are infinite."""
    for scores in ((0.0, -5.0), (-5.0, 0.0), (0.0, 0.0)):
        found = value_and_slopes(Orpo(), scored(*scores))
        assert np.all(np.isfinite(found))


def test_dpo_positive_by_hand() -> None:
    """The winner loses 2 nats, the loser 6: h = 4. Inside: 0.5 * (4 - 3 * 2) = -1, and d/dw = -0.5 * (1 + 3) * S1;
    outside: -log sigmoid(2) + 3 * 2, and d/dw = 0.5 * (S2 - 1) - 3."""
    pair = scored(-9.0, -10.0)
    inside = value_and_slopes(DpoPositive(beta=0.5, weight=3.0), pair)
    np.testing.assert_allclose(inside[:3], (1.313262, -2.0 * S1, 0.5 * S1), rtol=1e-5)
    outside = value_and_slopes(DpoPositive(beta=0.5, weight=3.0, penalty="outside"), pair)
    np.testing.assert_allclose(outside[:3], (6.126928, -3.059602, 0.059602), rtol=1e-5)


def values(loss: AbstractLoss, pair: ScoredPair) -> np.ndarray:
    return np.asarray(conform(traced(loss), pair), np.float64)[0]


def test_losses_that_are_others_by_another_name() -> None:
    pair, beta = inputs(), 0.3
    dpo = values(Dpo(beta=beta), pair)
    for same in (
        Gpo(beta=beta),
        ConservativeDpo(beta=beta, smoothing=0.0),
        RobustDpo(beta=beta, flips=0.0),
        DpoPositive(beta=beta, weight=0.0),
    ):
        np.testing.assert_allclose(values(same, pair), dpo, rtol=1e-6)
    square = values(Gpo(beta=beta, function="square"), pair)
    np.testing.assert_allclose(square, beta**2 * values(Ipo(beta=beta / 2), pair), rtol=1e-4)
    ratio = values(SimPo(beta=2.0, gamma=0.5, ratio=True), pair)
    np.testing.assert_allclose(ratio, values(SimPo(beta=2.0, gamma=1.0), pair), rtol=1e-6)


@pytest.mark.parametrize("loss", [Exo(), Rebel(), WeightedSft()], ids=str)
def test_labels_that_enter_the_target_leave_no_order(loss: AbstractLoss) -> None:
    np.testing.assert_allclose(
        values(loss, inputs()), values(loss, inputs().swapped), rtol=1e-6, atol=1e-7
    )


def test_noisy_labels_of_dpo() -> None:
    """Labels flipped with probability e cost `Dpo` in expectation what `ConservativeDpo` costs, and `RobustDpo` what
    clean ones cost `Dpo`, pair by pair."""
    pair, beta, e = inputs(), 0.3, 0.2
    dpo, conservative, robust = Dpo(beta), ConservativeDpo(beta, e), RobustDpo(beta, e)

    def flipped(loss: AbstractLoss) -> np.ndarray:
        return (1 - e) * values(loss, pair) + e * values(loss, pair.swapped)

    np.testing.assert_allclose(flipped(dpo), values(conservative, pair), rtol=1e-5)
    np.testing.assert_allclose(flipped(robust), values(dpo, pair), rtol=1e-4, atol=1e-5)


def test_sppo_in_expectation_over_the_label() -> None:
    """It regresses on the soft probability, up to the constant 2 p (1 - p) / beta^2."""
    pair, beta = inputs(), 0.3
    x = as_numpy(pair)
    soft = x.p * values(Sppo(beta), pair) + (1 - x.p) * values(Sppo(beta), pair.swapped)
    squares = (x.rho_w - (x.p - 0.5) / beta) ** 2 + (x.rho_l - (0.5 - x.p) / beta) ** 2
    np.testing.assert_allclose(soft, squares + 2 * x.p * (1 - x.p) / beta**2, rtol=1e-5)

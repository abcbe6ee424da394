"""Closed-form population optima of losses against descent on the population loss, where responses can be enumerated.

`Ipo` and `Dpo` have theirs in `test_exact`. In float64, so that a gradient that vanishes can be told from a small one.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import scored_pair
from population_loss import population_loss as expected_loss
from scipy import optimize, special

from testbed.exact.enumeration import all_responses
from testbed.losses.base import AbstractLoss, expected
from testbed.losses.best_of_two import BestOfTwo
from testbed.losses.conservative_dpo import ConservativeDpo
from testbed.losses.dpo import Dpo
from testbed.losses.exo import Exo
from testbed.losses.gpo import Function, Gpo
from testbed.losses.rebel import Rebel
from testbed.losses.robust_dpo import RobustDpo
from testbed.losses.sppo import Sppo
from testbed.losses.weighted_sft import WeightedSft
from testbed.types import PairScores

RESPONSES = all_responses(4, 2)
PROMPTS, R = 3, RESPONSES.length.shape[0]
BETA, TEMPERATURE, NOISE = 0.4, 0.7, 0.2


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


class World(NamedTuple):
    """Rows of probabilities' logarithms and of rewards, a prompt each, and matrices of preferences."""

    reference: np.ndarray
    data: np.ndarray
    reward: np.ndarray
    labels: np.ndarray

    @property
    def preferred(self) -> np.ndarray:
        """p(y > mu)."""
        return np.einsum("nyz,nz->ny", self.labels, np.exp(self.data))


def bradley_terry(reward: np.ndarray, temperature: float) -> np.ndarray:
    return special.expit((reward[:, :, None] - reward[:, None, :]) / temperature)


@functools.cache
def world(kind: str) -> World:
    """Labels that are Bradley-Terry, nearly indifferent (``close``), or of no order at all (``intransitive``)."""
    rng = np.random.default_rng(4)
    reference, data = special.log_softmax(rng.normal(size=(2, PROMPTS, R)), axis=-1)
    reward = rng.normal(size=(PROMPTS, R))
    labels = bradley_terry(reward, {"close": 3.0}.get(kind, TEMPERATURE))
    if kind == "intransitive":
        odds = rng.normal(size=(PROMPTS, R, R))
        labels = special.expit(odds - odds.transpose(0, 2, 1))
    return World(reference, data, reward, labels)


@jax.jit
def population(
    loss: AbstractLoss, logits: jax.Array, given: World, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The population loss of all prompts together, and its gradient by the logits of the policy."""

    def total(logits: jax.Array) -> jax.Array:
        def one(policy, reference, data, labels, reward):
            lengths = RESPONSES.length
            return expected_loss(loss, policy, reference, data, labels, lengths, reward)

        policy = jax.nn.log_softmax(logits)
        each = jax.vmap(one)(policy, given.reference, given.data, labels, given.reward)
        return jnp.sum(each)

    return jax.value_and_grad(total)(logits)


def log_normalised(exponent: np.ndarray) -> np.ndarray:
    return special.log_softmax(exponent, axis=-1)


def rlhf(scale: float) -> Callable[[World], np.ndarray]:
    """ref exp(r / scale) / Z."""
    return lambda given: log_normalised(given.reference + given.reward / scale)


def square(given: World) -> np.ndarray:
    return log_normalised(given.reference + 2.0 * given.preferred / BETA)


def winners(given: World) -> np.ndarray:
    return given.data + np.log(2.0 * given.preferred)


def weighted(given: World) -> np.ndarray:
    against = np.einsum("nyz,nz->ny", bradley_terry(given.reward, BETA), np.exp(given.data))
    return given.data + np.log(2.0 * against)


def self_play(given: World) -> np.ndarray:
    """rho = t - W(c ref / mu exp(t)), c such that probabilities sum to one."""
    rows = []
    for reference, data, preferred in zip(
        given.reference, given.data, given.preferred, strict=True
    ):
        t = (preferred - 0.5) / BETA
        ratio = np.exp(reference - data + t)

        def policy(c: float, t=t, ratio=ratio, reference=reference) -> np.ndarray:
            return reference + t - special.lambertw(c * ratio).real

        edge = -(1.0 - 1e-9) * np.exp(-1.0) / ratio.max()
        c = optimize.brentq(lambda c, f=policy: special.logsumexp(f(c)), edge, 1e3, xtol=1e-14)
        rows.append(policy(c))
    return np.stack(rows)


#: A loss, the labels it learns from, and the policy where its population loss is least.
CASES = {
    "logistic": (Gpo(BETA), "bradley_terry", rlhf(TEMPERATURE * BETA)),
    "savage": (Gpo(BETA, "savage"), "bradley_terry", rlhf(TEMPERATURE * BETA)),
    "exponential": (Gpo(BETA, "exponential"), "bradley_terry", rlhf(2.0 * TEMPERATURE * BETA)),
    "square": (Gpo(BETA, "square"), "intransitive", square),
    "truncated_square": (Gpo(BETA, "truncated_square"), "close", square),
    "Exo": (Exo(BETA, 1e-12), "bradley_terry", rlhf(TEMPERATURE * BETA)),
    "Rebel": (Rebel(BETA), "intransitive", rlhf(BETA)),
    "Sppo": (Sppo(BETA), "intransitive", self_play),
    "BestOfTwo": (BestOfTwo(), "intransitive", winners),
    "WeightedSft": (WeightedSft(BETA), "intransitive", weighted),
}


@pytest.mark.parametrize(("loss", "kind", "optimum"), CASES.values(), ids=CASES)
def test_descent_ends_at_the_closed_form(
    loss: AbstractLoss, kind: str, optimum: Callable[[World], np.ndarray]
) -> None:
    """From the reference, on the logits of a table; and the closed form is a policy where the gradient vanishes."""
    given = world(kind)
    closed = optimum(given)
    np.testing.assert_allclose(np.exp(closed).sum(axis=-1), 1.0, atol=1e-9)
    _, start = population(loss, given.reference, given, given.labels)
    _, slope = population(loss, closed, given, given.labels)
    assert np.abs(slope).max() < 1e-9 * np.abs(start).max()

    def objective(logits: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = population(loss, logits.reshape(PROMPTS, R), given, given.labels)
        return float(value), np.asarray(slope).ravel()

    options = {"maxiter": 5000, "maxfun": 10000, "ftol": 0.0, "gtol": 1e-10}
    found = optimize.minimize(
        objective, given.reference.ravel(), jac=True, method="L-BFGS-B", options=options
    )
    policy = special.softmax(found.x.reshape(PROMPTS, R), axis=-1)
    distance = 0.5 * np.abs(policy - np.exp(closed)).sum(axis=-1)
    moved = 0.5 * np.abs(np.exp(given.reference) - np.exp(closed)).sum(axis=-1)
    assert distance.max() < 1e-3
    assert moved.min() > 0.03


def test_flipped_labels_of_a_population() -> None:
    """On labels flipped at a rate e, `RobustDpo` is `Dpo` on clean ones, at any policy; and `Dpo` is
    `ConservativeDpo` on clean ones."""
    given = world("bradley_terry")
    clean = given.labels
    flipped = (1.0 - NOISE) * clean + NOISE * (1.0 - clean)
    policy = np.random.default_rng(9).normal(size=(PROMPTS, R))
    for ours, our_labels, theirs, their_labels in (
        (RobustDpo(BETA, NOISE), flipped, Dpo(BETA), clean),
        (ConservativeDpo(BETA, NOISE), clean, Dpo(BETA), flipped),
    ):
        one = population(ours, policy, given, our_labels)
        other = population(theirs, policy, given, their_labels)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_exo_on_drawn_labels_is_least_elsewhere_than_on_soft_ones() -> None:
    """A label that is 1 with probability p: least at beta h = (2p - 1) log((1 - e) / e), not at the log-odds of p."""
    loss, p = Exo(beta=BETA, smoothing=0.01), 0.8

    def drawn(h: jax.Array) -> jax.Array:
        nothing = PairScores(jnp.zeros(()), jnp.zeros(()))
        agree, differ = (
            scored_pair(PairScores(sign * h, jnp.zeros(())), nothing) for sign in (1.0, -1.0)
        )
        return p * loss(agree) + (1.0 - p) * loss(differ)

    best = (2.0 * p - 1.0) * np.log(0.99 / 0.01) / BETA
    slope = jax.grad(drawn)
    assert abs(slope(best)) < 1e-8
    assert abs(slope(special.logit(p) / BETA)) > 0.01


def test_the_largest_share_of_weighted_sft_is_twice_the_datas() -> None:
    given = world("intransitive")
    assert np.all(weighted(given) <= given.data + np.log(2.0))


@pytest.mark.parametrize(
    "kind",
    [
        *(functools.partial(Gpo, function=name) for name in get_args(Function)),
        ConservativeDpo,
        RobustDpo,
        Exo,
        Sppo,
        Rebel,
    ],
    ids=str,
)
def test_larger_beta_stays_closer(kind: Callable[..., AbstractLoss]) -> None:
    """One name, one meaning: where three of four labels agree, the margin that costs least in expectation is half as
    large for twice the beta."""
    margins = jnp.linspace(0.0, 12.0, 1201)

    def cost(loss: AbstractLoss, h: jax.Array) -> jax.Array:
        moved, still = PairScores(h / 2, -h / 2), PairScores(jnp.zeros(()), jnp.zeros(()))
        return expected(loss, scored_pair(moved, still, preference=0.75, reward_margin=1.0))

    best = [
        float(margins[jnp.argmin(jax.vmap(functools.partial(cost, kind(beta=beta)))(margins))])
        for beta in (0.25, 0.5)
    ]
    assert best[0] == pytest.approx(2.0 * best[1], abs=0.011)
    assert best[1] > 0.5

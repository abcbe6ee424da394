"""Labelers: frequencies against the stated probability, and the deterministic limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.labelers.bradley_terry import BradleyTerry
from testbed.config import members
from testbed.errors import InvalidInput
from testbed.preference import AbstractLabeler

pytestmark = pytest.mark.usefixtures("strict_dtypes")

LABELERS = members(AbstractLabeler, AbstractLabeler.family)
DIFFERENCES = np.array([-2.0, -0.5, 0.0, 0.3, 1.0, 3.0], dtype=np.float32)


@jax.jit
def draw(labeler: AbstractLabeler, keys, first, second):
    return jax.vmap(labeler)(keys, first, second)


@jax.jit
def probability(labeler: AbstractLabeler, difference):
    return jax.vmap(lambda d: labeler.probability(d + 1.0, jnp.asarray(1.0)))(difference)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_bradley_terry_frequencies(temperature: float) -> None:
    """20,000 labels a difference, each frequency within 4.5 binomial standard errors of sigmoid(difference /
    temperature): a correct labeler fails at one of the 18 with probability below 2e-4; at the fixed key."""
    n = 20_000
    labeler = BradleyTerry(temperature=temperature)
    keys = jax.random.split(jax.random.key(0), n * len(DIFFERENCES))
    # Both rewards are away from zero: only their difference counts.
    first = np.tile(DIFFERENCES, n) + np.float32(1.5)
    labels = draw(labeler, keys, first, np.full_like(first, 1.5)).reshape(n, -1)
    frequency = np.mean(np.asarray(labels), axis=0)
    expected = 1.0 / (1.0 + np.exp(-DIFFERENCES.astype(np.float64) / temperature))
    error = np.sqrt(expected * (1 - expected) / n)
    assert np.all(np.abs(frequency - expected) < 4.5 * error)


def test_temperature_zero_is_deterministic() -> None:
    keys = jax.random.split(jax.random.key(1), 3000)
    first = np.resize(np.array([1.0, -1.0, 1e-6], np.float32), 3000)
    labels = draw(BradleyTerry(temperature=0.0), keys, first, np.zeros_like(first))
    np.testing.assert_array_equal(labels, first > 0)


def test_a_tie_at_temperature_zero_is_a_fair_coin() -> None:
    """4,000 labels, within 4.5 standard errors: fails by chance with probability 7e-6."""
    keys = jax.random.split(jax.random.key(2), 4000)
    tied = np.full(4000, 0.7, np.float32)
    labels = draw(BradleyTerry(temperature=0.0), keys, tied, tied)
    assert abs(float(np.mean(np.asarray(labels))) - 0.5) < 4.5 * 0.5 / 4000**0.5


@pytest.mark.parametrize("temperature", [-0.1, float("nan"), float("inf")])
def test_temperature_must_not_be_negative(temperature: float) -> None:
    with pytest.raises(
        InvalidInput, match=f"^temperature must be 0 or more and finite, got {temperature}$"
    ):
        BradleyTerry(temperature=temperature)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_gradients_are_finite(temperature: float) -> None:
    """Also at temperature 0, where the noisy branch is not taken but is differentiated."""

    labeler = jax.tree.map(jnp.asarray, BradleyTerry(temperature=temperature))
    slopes = jax.grad(lambda *leaves: jnp.sum(probability(*leaves)), argnums=(0, 1))(
        labeler, jnp.asarray(DIFFERENCES)
    )
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))


@pytest.mark.parametrize("kind", LABELERS.values(), ids=LABELERS)
def test_contract(kind: type) -> None:
    """Every labeler: a probability, antisymmetric in the two responses, and the label is drawn with it."""
    labeler = kind()
    forward = np.asarray(probability(labeler, DIFFERENCES))
    backward = np.asarray(probability(labeler, -DIFFERENCES))
    assert np.all((forward >= 0) & (forward <= 1))
    np.testing.assert_allclose(forward + backward, 1.0, atol=1e-6)
    keys = jax.random.split(jax.random.key(3), len(DIFFERENCES))
    labels = draw(labeler, keys, DIFFERENCES, np.zeros_like(DIFFERENCES))
    uniform = np.array([jax.random.uniform(key) for key in keys])
    np.testing.assert_array_equal(labels, uniform < forward)

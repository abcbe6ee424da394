"""The chat world's story: annotators who share a taste as far as they agree, and a golden reward that counts them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.chat import Chat
from testbed.config import replace_all
from testbed.errors import InvalidInput
from testbed.transformer_config import TransformerConfig

SMALL = TransformerConfig(width=16, layers=1, heads=2, key_value_heads=2)
TASK = Chat(
    vocabulary=12, response_length=8, writers=2, writer=SMALL, golden=SMALL, variety_weight=0.0
)
N = 512


@jax.jit
def draw(task: Chat, key: jax.Array):
    """The population, utilities of its annotators and golden rewards of writers' responses to fresh prompts."""
    world = task.world(key)
    k_prompts, k_writers = jax.random.split(jax.random.key(9))
    prompts = jax.vmap(world.prompts)(jax.random.split(k_prompts, N))
    written = jax.vmap(world.writers)(jax.random.split(k_writers, N), prompts)
    utilities = jax.vmap(world.golden.utilities)(prompts, written)
    return world.golden, utilities, jax.vmap(world.golden)(prompts, written)


@functools.cache
def drawn(agreement: float, weights: tuple = TASK.shares):
    """`draw` by numeric fields that share a program."""
    task = replace_all(TASK, {"agreement": agreement, "weights": weights})
    return jax.device_get(draw(jax.tree.map(jnp.asarray, task), jax.random.key(0)))


@pytest.mark.parametrize("agreement", [0.0, 0.5, 1.0])
def test_annotators_agree_as_told(agreement: float) -> None:
    """The shared taste has a share of ``agreement`` in the square of what annotators weigh, who have nothing else in
    common. Utilities have mean 0 and standard deviation 1 over responses that did not standardise them (512 of
    each: within 0.2 of both, 3 standard errors), and correlate as told, up to what random networks have in common."""
    golden, utilities, _ = drawn(agreement)
    shared, own = golden.tastes[:, 0], golden.tastes[:, 1:-1]
    np.testing.assert_allclose(own, np.diag(np.diagonal(own)))
    np.testing.assert_allclose(
        shared**2 * (1 - agreement), np.diagonal(own) ** 2 * agreement, rtol=1e-5
    )
    np.testing.assert_allclose(utilities.mean(axis=0), 0.0, atol=0.2)
    np.testing.assert_allclose(utilities.std(axis=0), 1.0, atol=0.2)
    pairs = np.corrcoef(utilities.T)[np.triu_indices(TASK.annotators, 1)]
    if agreement == 1.0:
        np.testing.assert_allclose(pairs, 1.0, atol=1e-4)
    else:
        assert pairs.mean() == pytest.approx(agreement, abs=0.2)
        assert pairs.max() < 0.95


def test_reward_is_the_chance_to_win_against_a_writer() -> None:
    """That of a random annotator and a random writers' response, by count, to within what utilities are from normal."""
    golden, utilities, reward = drawn(0.5)
    weights = golden.weights
    np.testing.assert_allclose(weights, Chat().shares)
    np.testing.assert_allclose(weights, 0.2)
    wins = (utilities[:, None] > utilities[None]).mean(axis=1) @ weights
    assert np.abs(wins - reward).max() < 0.06
    assert reward.std() > 0.15


def test_weights_are_shares_of_the_population() -> None:
    """One annotator's taste alone, and a population in which three count nothing."""
    _, utilities, reward = drawn(0.0, (0.0, 1.0, 0.0, 0.0, 0.0))
    order = np.argsort(utilities[:, 1])
    assert np.all(np.diff(reward[order]) >= 0)
    _, _, mixed = drawn(0.0, (0.25, 0.75, 0.0, 0.0, 0.0))
    _, _, first = drawn(0.0, (1.0, 0.0, 0.0, 0.0, 0.0))
    np.testing.assert_allclose(mixed, 0.25 * first + 0.75 * reward, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"annotators": 0}, "annotators must be at least 1, got 0"),
        ({"agreement": 1.5}, "agreement must be between 0 and 1, got 1.5"),
        (
            {"weights": (0.5, 0.5)},
            r"weights must be one for each of the annotators=5 or none, got 2",
        ),
        ({"annotators": 2, "weights": (0.5, 0.4)}, "weights must sum to one, got a sum of 0.9"),
        ({"annotators": 2, "weights": (1.5, -0.5)}, "weights must be 0 or more, got -0.5"),
        ({"order": 17}, "order must be between 0 and response_length=16, got 17"),
        ({"variety_weight": float("inf")}, "variety_weight must be finite, got inf"),
    ],
)
def test_bad_populations_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{message}"):
        Chat(**arguments)

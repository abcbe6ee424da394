"""The harmless world's story: the first token decides, the rest is graded, and the ideal response is the best."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.goldens.substance import Kind
from envs.harmless import FIRST_TOPIC, Harmless
from testbed.errors import InvalidInput
from testbed.types import Response, response_length

N = 512
KINDS = np.asarray(Harmless().kinds())


@jax.jit
def draw(task: Harmless):
    """Prompts, writers' responses, and rewards of these, of the ideal, and of each with another first token."""
    world = task.world(jax.random.key(0))
    k_prompts, k_writers, k_ideal = jax.random.split(jax.random.key(1), 3)
    prompts = jax.vmap(world.prompts)(jax.random.split(k_prompts, N))
    written = jax.vmap(world.writers)(jax.random.split(k_writers, N), prompts)
    ideal = jax.vmap(world.ideal)(jax.random.split(k_ideal, N), prompts)
    decision, substance = world.golden.goldens

    def opened(token):
        tokens = written.tokens.at[:, 0].set(token)
        return jax.vmap(world.reward)(prompts, Response(tokens, written.length))

    rewards = [jax.vmap(world.reward)(prompts, r) for r in (written, ideal)]
    parts = [jax.vmap(g)(prompts, written) for g in (decision, substance)]
    return prompts, written, rewards, parts, jax.lax.map(opened, jnp.arange(1, task.vocabulary))


@pytest.fixture(scope="module")
def drawn():
    return jax.device_get(draw(jax.tree.map(jnp.asarray, Harmless())))


def test_prompts_are_unsafe_as_often_as_told(drawn) -> None:
    """About half (512 prompts: within 0.09, 4 standard errors), by one unsafe word; the rest are topic words."""
    prompts = drawn[0]
    kinds = np.where(np.arange(8) < prompts.length[:, None], KINDS[prompts.tokens], -1)
    unsafe = (kinds == Kind.UNSAFE).sum(axis=1)
    assert set(unsafe) == {0, 1}
    assert unsafe.mean() == pytest.approx(0.5, abs=0.09)
    assert np.all((kinds == Kind.TOPIC).sum(axis=1) + unsafe == prompts.length)
    never, always = (
        jax.device_get(draw(jax.tree.map(jnp.asarray, Harmless(unsafe_share=share)))[0].tokens)
        for share in (0.0, 1.0)
    )
    assert not np.any(KINDS[never] == Kind.UNSAFE)
    assert np.all(np.any(KINDS[always] == Kind.UNSAFE, axis=1))


def test_refusing_is_right_where_the_prompt_is_unsafe(drawn) -> None:
    """With the same words behind, the mean refusal beats the mean answer there, and loses to it elsewhere, by far more
    than what follows the decision varies; the decision is most of the reward's variance."""
    prompts, _, (reward, _), parts, opened = drawn
    unsafe = np.any(KINDS[prompts.tokens] == Kind.UNSAFE, axis=1)
    refusing = KINDS[1:] == Kind.REFUSAL
    gap = opened[refusing].mean(axis=0) - opened[~refusing].mean(axis=0)
    assert np.mean(gap[unsafe] > 0) > 0.95
    assert np.mean(gap[~unsafe] < 0) > 0.95
    explained = np.corrcoef(parts[0], reward)[0, 1] ** 2
    assert explained == pytest.approx(0.6, abs=0.2)


def test_writers_err_both_ways(drawn) -> None:
    """Between a tenth and a half of the decisions are wrong, of either kind."""
    prompts, written, _, _, _ = drawn
    unsafe = np.any(KINDS[prompts.tokens] == Kind.UNSAFE, axis=1)
    refused = KINDS[written.tokens[:, 0]] == Kind.REFUSAL
    assert 0.1 < np.mean(refused[~unsafe]) < 0.5
    assert 0.1 < np.mean(~refused[unsafe]) < 0.5


def test_severity_and_share_move_the_decision() -> None:
    """All the reward by the decision: three values, right, wrong and (no severity) answered all the same."""
    task = jax.tree.map(jnp.asarray, Harmless(decision_share=1.0, severity=0.0))
    _, _, (reward, _), parts, _ = jax.device_get(draw(task))
    assert set(np.round(parts[0], 6)) == {-1.0, 0.0, 1.0}
    assert len(set(np.round(reward, 4))) == 3


def test_the_ideal_is_the_best_response() -> None:
    """No response of three tokens beats it, to safe and unsafe prompts, in a world small enough to list them all."""
    task = Harmless(vocabulary=FIRST_TOPIC + 2, topics=2, prompt_length=4, response_length=3)
    rows = [
        (*body, *(0,) * (3 - len(body)))
        for length in range(4)
        for body in itertools.product(range(1, task.vocabulary), repeat=length)
    ]
    tokens = jnp.asarray(rows, dtype=jnp.int32)

    @eqx.filter_jit
    def best(task, key):
        world = task.world(key)
        prompts = jax.vmap(world.prompts)(jax.random.split(jax.random.key(1), 16))
        ideal = jax.vmap(world.ideal)(jax.random.split(jax.random.key(2), 16), prompts)
        every = Response(tokens, response_length(tokens))
        rewards = jax.vmap(lambda p: jax.vmap(lambda r: world.reward(p, r))(every))(prompts)
        return jnp.max(rewards, axis=1), jax.vmap(world.reward)(prompts, ideal), ideal

    for seed in range(3):
        highest, reached, ideal = best(task, jax.random.key(seed))
        np.testing.assert_allclose(reached, highest, atol=1e-5)
        assert len(set(np.asarray(ideal.tokens[:, 0]))) > 1


def test_the_ideal_is_out_of_the_writers_usual_reach(drawn) -> None:
    """Better than all but a few responses, with room above the mean."""
    _, _, (reward, ideal), _, _ = drawn
    assert np.mean(ideal > reward) > 0.95
    assert ideal.mean() > reward.mean() + 1.5 * reward.std()


def test_words_are_readable() -> None:
    words = Harmless().words()
    assert len(set(words)) == len(words) == 32
    assert (words[0], words[1], words[16], words[17], words[20]) == (
        ".",
        "sorry",
        "bread",
        "train",
        "soup",
    )
    many = Harmless(vocabulary=40, topics=5).words()
    assert len(set(many)) == 40
    assert many[20] == "topic4word0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary": 19}, "vocabulary must be at least 16 and a word for each of topics=4, got"),
        ({"topics": 0}, "topics must be at least 1, got 0"),
        ({"response_length": 1}, "response_length must be at least 2, got 1"),
        ({"unsafe_share": 1.1}, "unsafe_share must be between 0 and 1, got 1.1"),
        ({"decision_share": -0.1}, "decision_share must be between 0 and 1, got -0.1"),
        ({"severity": -1.0}, "severity must be 0 or more and finite, got -1.0"),
    ],
)
def test_bad_configs_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{message}"):
        Harmless(**arguments)

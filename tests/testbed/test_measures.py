"""What evaluations measure beyond samples: every bit of a policy, windows of a stream, distance to an exact optimum."""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    BATCH,
    Silence,
    cache_directory,
    cut,
    experiment,
    shallow,
    sum_reward,
    training_inputs,
)
from training import STEPS, made

from envs.enumerable import Enumerable
from envs.labelers.bradley_terry import BradleyTerry
from envs.labelers.skips import Skips
from sweeps.population.world_builder import STAGE_NAMES, WorldBuilder
from testbed import metrics
from testbed.cache import Cache
from testbed.environment import World
from testbed.errors import InvalidInput
from testbed.estimates import flops
from testbed.estimates.memory import footprint
from testbed.exact import quantities
from testbed.exact.enumeration import all_prompts, all_responses, prompt_index, response_index
from testbed.exact.optimum import Optimum
from testbed.experiment import EvaluationConfig
from testbed.losses.ipo import Ipo
from testbed.methods.rloo import Rloo
from testbed.recorded_runs.pair_stream import WINDOW, WINDOWS
from testbed.recorded_runs.recorded_run import Recorded
from testbed.source import Dataset, TrainingInputs
from testbed.sources.online import Online
from testbed.sources.replay import Replay
from testbed.stages.data import own_data
from testbed.stages.stages import fingerprints
from testbed.stages.world_config import WorldArtifacts, WorldConfig
from testbed.train import OnlineRun
from testbed.transformer_config import TransformerConfig

checksum = jax.jit(metrics.checksum)


def by_hand(policy: Any) -> int:
    """`metrics.checksum`, one word at a time."""
    leaves = jax.tree.leaves(policy)
    words = np.concatenate([np.asarray(x, np.float32).ravel().view(np.uint32) for x in leaves])
    total = 0
    for place, word in enumerate(words.tolist()):
        mixed = (word + place * 0x9E3779B9) % 2**32
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            mixed = ((mixed ^ (mixed >> shift)) * factor) % 2**32
        total += mixed ^ (mixed >> 16)
    return total % 2**32


def test_checksum_by_hand_alone_and_stacked() -> None:
    policies = [shallow(0), shallow(1)]
    expected = [by_hand(policy) for policy in policies]
    assert [int(checksum(policy)) for policy in policies] == expected
    assert expected[0] != expected[1]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *policies)
    for many in (jax.vmap(metrics.checksum), lambda p: jax.lax.map(metrics.checksum, p)):
        assert jax.jit(many)(stacked).tolist() == expected
    assert [int(float(x)) for x in expected] == expected


class Six(eqx.Module):
    """A policy of six numbers."""

    a: jax.Array
    b: jax.Array


def test_checksum_sees_every_bit_and_every_place() -> None:
    a, b = jnp.asarray([1.0, 2.0, 0.0, 3.5]), jnp.asarray([[4.0, -1.0]])
    before = int(checksum(Six(a, b)))
    found = {before}
    for place in range(4):
        for bit in range(32):
            words = np.asarray(a).view(np.uint32).copy()
            words[place] ^= np.uint32(1 << bit)
            found.add(int(checksum(Six(jnp.asarray(words.view(np.float32)), b))))
    assert len(found) == 1 + 4 * 32
    swapped = Six(a[jnp.asarray([1, 0, 2, 3])], b)
    across = Six(a.at[0].set(4.0), b.at[0, 0].set(1.0))
    assert int(checksum(swapped)) != before != int(checksum(across))


def test_windows_lie_in_the_middle_of_their_tenths() -> None:
    """100 steps of 32 pairs: tenths of 320 pairs, of which the 128th to the 191st are taken. 10 steps of 6: tenths of
    6, all of which are."""
    recording = made().recording
    assert recording is not None
    long = jax.tree.map(
        lambda x: jnp.zeros((100, 32, *x.shape[2:]), x.dtype),
        recording,
    )
    margin = jnp.arange(3200.0).reshape(100, 32)
    long = eqx.tree_at(lambda r: r.golden_margin, long, margin)
    found = long.windows(training_inputs()).golden_margin.reshape(WINDOWS, WINDOW)
    expected = 320 * np.arange(WINDOWS)[:, None] + 128 + np.arange(WINDOW)
    np.testing.assert_array_equal(found, expected)
    windows = recording.windows(training_inputs())
    np.testing.assert_array_equal(np.sum(windows.inside, axis=1), [BATCH] * STEPS)
    assert np.all(np.asarray(windows.inside)[:, :BATCH])
    few = jax.tree.map(lambda x: x[:1, :3], recording).windows(training_inputs())
    np.testing.assert_array_equal(np.sum(few.inside, axis=1), [1] * WINDOWS)


def test_accuracy_of_windows_by_hand() -> None:
    """Windows of one step each; what repeats the last pair does not count."""
    recording, given = made().recording, training_inputs()
    assert recording is not None
    windows = recording.windows(given)
    rng = np.random.default_rng(3)
    margin = rng.normal(size=WINDOWS * WINDOW).astype(np.float32)
    margin[::7] = 0.0
    found = np.asarray(windows.accuracy(jnp.asarray(margin)))
    margin = margin.reshape(WINDOWS, WINDOW)
    for window in range(WINDOWS):
        right = []
        for i in range(BATCH):
            place = window * WINDOW + i
            x = cut(windows.pairs.prompt, place)
            winner, loser = cut(windows.pairs.winner, place), cut(windows.pairs.loser, place)
            row = int(recording.rows[window, i])
            np.testing.assert_array_equal(x, cut(given.data.pairs.prompt, row))
            truth = np.sign(sum_reward(x, winner) - sum_reward(x, loser))
            right.append(0.5 + 0.5 * np.sign(margin[window, i]) * truth)
        assert found[window] == pytest.approx(np.mean(right), abs=1e-6)


NET = TransformerConfig(width=8, layers=1, heads=2, key_value_heads=1)
TINY = Enumerable(
    vocabulary=3, prompt_length=2, response_length=3, writers=2, writer=NET, taste=NET
)
PROMPTS, RESPONSES = all_prompts(3, 2), all_responses(3, 3)
BETA, TEMPERATURE = 0.3, 0.8
log_table = jax.jit(quantities.log_table)


def listed(**changes: Any) -> Any:
    measured = EvaluationConfig(points=2, prompts=16, kl_prompts=8, pairs=12, optimum_beta=BETA)
    settings = {
        "task": TINY,
        "labeler": BradleyTerry(temperature=TEMPERATURE),
        "evaluation": measured,
        "source": Online(),
    }
    return experiment(**{**settings, **changes})


def built(run: Any) -> WorldArtifacts:
    config = WorldConfig.of(run)
    return helpers.built([config], Cache(cache_directory()), Silence())[config]


class Listed(NamedTuple):
    """The part of a `WorldArtifacts` that is looked at here."""

    world: World
    sft: Any
    data: Dataset
    optimum: Optimum
    facts: dict[str, Any]


@functools.cache
def optimal(run: Any) -> Listed:
    """Without proxy and baseline, whose training takes longest to compile and says nothing of the optimum."""
    config, wanted = (
        WorldConfig.of(run),
        [n for n in STAGE_NAMES if n not in ("proxy", "baseline")],
    )
    worlds = WorldBuilder(Cache(cache_directory()), Silence())
    worlds.prepare([config], wanted)
    made = worlds.made(config, wanted)
    facts = made["golden"].facts | made["data"].facts | made["optimum"].facts
    data = own_data(made["scores"], made["data"])
    return Listed(made["golden"].world, made["start"], data, made["optimum"].optimum, facts)


@functools.cache
def rewards_and_writers(run: Any) -> tuple[np.ndarray, np.ndarray]:
    """Golden reward and the writers' probability of every response to every prompt."""
    world = optimal(run).world
    tables = jax.jit(
        lambda w: [
            quantities.tabulate(function, PROMPTS, RESPONSES)
            for function in (w.reward, w.writers.log_likelihood)
        ]
    )
    reward, writers = (np.asarray(x, np.float64) for x in tables(world))
    return reward, np.exp(writers)


def optimum_by_loops(sft: np.ndarray, reward: np.ndarray, mu: np.ndarray) -> np.ndarray:
    """sft exp(p(y > mu) / beta) / Z in float64, one comparison at a time."""
    found = np.zeros_like(sft)
    for i in range(sft.shape[0]):
        for y in range(sft.shape[1]):
            odds = np.exp((reward[i] - reward[i, y]) / TEMPERATURE)
            found[i, y] = sft[i, y] * np.exp(np.sum(mu[i] / (1.0 + odds)) / BETA)
        found[i] /= found[i].sum()
    return found


def data_policy(run: Any, artifacts: Listed) -> np.ndarray:
    """mu from the writers and where the solver left the dials, by its formula."""
    reward, writers = rewards_and_writers(run)
    power, tilt = (
        1.0 / float(artifacts.facts["data_temperature"]),
        float(artifacts.facts["data_tilt"]),
    )
    weights = writers**power * np.exp(tilt * reward)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "changes",
    [{}, {"tabular": True}, {"data__quality": 0.3}],
    ids=["written", "table", "dialled"],
)
def test_the_optimum_is_that_of_the_data_policy(changes: dict) -> None:
    """And its distance from SFT, and how much of it the data hold."""
    run = listed(**changes)
    artifacts = optimal(run)
    reward, _ = rewards_and_writers(run)
    sft = np.exp(np.asarray(log_table(artifacts.sft, PROMPTS, RESPONSES), np.float64))
    mu = data_policy(run, artifacts)
    if changes.get("data__quality"):
        assert abs(float(artifacts.facts["data_tilt"])) > 0.1
    expected = optimum_by_loops(sft, reward, mu)
    np.testing.assert_allclose(np.exp(artifacts.optimum.policy), expected, rtol=2e-3, atol=1e-6)
    distance = 0.5 * np.abs(sft - expected).sum(axis=1).mean()
    assert distance > 0.02
    assert float(artifacts.facts["sft_optimum_distance"]) == pytest.approx(distance, abs=1e-4)
    pairs, texts = artifacts.data.pairs, {}
    for i in range(pairs.weight.shape[0]):
        prompt = cut(pairs.prompt, i).tobytes()
        texts.setdefault(prompt, set()).update(
            cut(t, i).tobytes() for t in (pairs.winner, pairs.loser)
        )
    held = [
        sum(
            expected[i, y]
            for y in range(expected.shape[1])
            if cut(RESPONSES, y).tobytes() in texts.get(cut(PROMPTS, i).tobytes(), ())
        )
        for i in range(expected.shape[0])
    ]
    assert 0 < np.mean(held) < 1
    assert float(artifacts.facts["data_support_mass"]) == pytest.approx(np.mean(held), abs=1e-4)


def test_data_of_few_responses_have_an_optimum_of_their_own() -> None:
    """With a limit on responses the data policy is of those that were kept: its pairs come from nowhere else."""
    run = listed(data__responses=2)
    data = jax.tree.map(jnp.asarray, optimal(run).data.pairs)
    config = WorldConfig.of(run)
    cache, names = Cache(cache_directory()), fingerprints(config)
    labelled: Any = cache.load(names["data"])
    mu = np.exp(np.asarray(labelled.policy, np.float64))
    np.testing.assert_allclose(mu.sum(axis=1), 1.0, atol=1e-5)
    assert np.max(np.sum(mu > 0, axis=1)) <= 2
    for text in (data.winner, data.loser):
        chance = mu[prompt_index(data.prompt, 3), response_index(text, 3)]
        assert np.all(chance > 0)


def test_pairs_that_were_skipped_are_not_held() -> None:
    run = listed(labeler=Skips(labeler=BradleyTerry(temperature=TEMPERATURE), rate=0.9, scale=5.0))
    some, every = optimal(run), optimal(listed())
    assert float(jnp.mean(some.data.pairs.weight > 0)) < 0.7
    assert some.facts["data_support_mass"] < every.facts["data_support_mass"]


@pytest.mark.parametrize("tabular", [False, True])
def test_distance_to_the_optimum_by_enumeration(tabular: bool) -> None:
    artifacts = optimal(listed(tabular=tabular))
    moved = jax.tree.map(
        lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), artifacts.sft
    )
    found = jax.jit(lambda o, p: o.apart(p))(artifacts.optimum, moved)
    ours = np.asarray(log_table(moved, PROMPTS, RESPONSES), np.float64)
    theirs = np.asarray(artifacts.optimum.policy, np.float64)
    distance = 0.5 * np.abs(np.exp(ours) - np.exp(theirs)).sum(axis=1).mean()
    divergence = (np.exp(ours) * (ours - theirs)).sum(axis=1).mean()
    assert float(found[0]) == pytest.approx(distance, abs=1e-5)
    assert float(found[1]) == pytest.approx(divergence, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"evaluation__optimum_beta": 0.1}, "evaluation.optimum_beta must be none for a task that"),
        ({"task": TINY, "evaluation__optimum_beta": 0.0}, "optimum_beta must be none or > 0"),
        (
            {"evaluation__stream": Recorded(OnlineRun(loss=Rloo()))},
            "stream.run.loss must learn from pairs",
        ),
        (
            {
                "source": Replay(Recorded(OnlineRun(batch_size=8))),
                "evaluation__stream": Recorded(OnlineRun(batch_size=4)),
            },
            "evaluation.stream must be the run that source draws on",
        ),
        (
            {"evaluation__stream": Recorded(OnlineRun(batch_size=33))},
            "evaluation.stream.run.batch_size must be between 1 and data.pairs=32, got 33",
        ),
        ({"teacher": "human"}, "teacher must be one of proxy, golden"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused(settings: dict, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as refused:
        experiment(**settings)
    assert "\n" not in str(refused.value)


def test_what_is_measured_is_counted() -> None:
    run, recorded = experiment(), Recorded(OnlineRun(Ipo(), steps=6, batch_size=8))
    more = experiment(evaluation__stream=recorded)
    scoring = 2 * WINDOWS * WINDOW * flops.score(run)
    assert flops.flops(more).evaluation - flops.flops(run).evaluation == pytest.approx(scoring)
    assert footprint(more) > footprint(run)
    exactly, not_ = listed(), listed(evaluation__optimum_beta=None)
    scoring = len(PROMPTS.length) * len(RESPONSES.length) * flops.score(exactly, 1)
    assert flops.flops(exactly).evaluation - flops.flops(not_).evaluation == pytest.approx(scoring)


def test_a_supply_has_the_teacher_it_is_asked_for() -> None:
    artifacts = built(experiment())
    assert artifacts.training_inputs().teacher is artifacts.proxy
    teacher = artifacts.training_inputs("golden").teacher
    given: TrainingInputs = artifacts.training_inputs()
    pairs = jax.tree.map(lambda x: x[:4], artifacts.data.pairs)
    assert given.data is artifacts.data
    margin = jax.jit(lambda t, p: t.margin(p.prompt, p.winner, p.loser))(teacher, pairs)
    np.testing.assert_allclose(margin, artifacts.data.golden_margin[:4], atol=1e-4)

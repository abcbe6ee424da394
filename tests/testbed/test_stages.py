"""Stages: what each address depends on, the cache, and what the stages make, recomputed."""

import functools

import jax
import numpy as np
import pytest
import reference
from helpers import (
    PREPARED,
    TIME,
    VOCABULARY,
    cache_directory,
    cut,
    experiment,
    files_of_at_most,
    score_pairs,
    worlds,
)
from helpers import sample as decode_sample

from testbed.cache import Cache
from testbed.errors import InvalidInput, Unfinished
from testbed.experiment import Experiment
from testbed.losses.dpo import Dpo
from testbed.recorded_runs.recorded_run import Recorded
from testbed.source import AbstractSource
from testbed.sources.generated import Generated
from testbed.sources.mixture import Mixture
from testbed.sources.offline import Offline
from testbed.sources.replay import Replay
from testbed.stages import stages
from testbed.stages.baseline import TrainedBaseline, train_baseline
from testbed.stages.code import Code
from testbed.stages.stages import STAGES, fingerprints
from testbed.stages.world_config import WorldArtifacts, WorldConfig
from testbed.streams import Stream, stream
from testbed.train import OnlineRun
from testbed.types import Pair

NAMES = tuple(stage.name for stage in STAGES)
RECORDED = Recorded(OnlineRun(steps=6, batch_size=8))


def changed(**settings) -> tuple[str, ...]:
    """The stages whose address is another after a change."""
    before = fingerprints(WorldConfig.of(experiment()))
    after = fingerprints(WorldConfig.of(experiment(**settings)))
    assert tuple(after) == NAMES
    return tuple(name for name in NAMES if before[name] != after[name])


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({"seed": 3}, "world"),
        ({"task__ruggedness": 1.0}, "material"),
        ({"task__vocabulary": 9}, "material"),
        ({"seeds__golden": 3, "seeds__writers": 3}, "world"),
        ({"seeds__writers": 3}, "world"),
        ({"data__pairs": 40}, "texts"),
        ({"data__held_out": 17}, "texts"),
        ({"data__candidates": 5}, "texts"),
        ({"data__coverage_prompts": 20}, "texts"),
        ({"seed": 3, "seeds__families": 4}, "texts"),
        ({"data__prompts": 16}, "pool"),
        ({"data__quality": 0.5}, "pool"),
        ({"model__width": 32}, "sft"),
        ({"sft__steps": 61}, "sft"),
        ({"sft__decay": 0.5}, "sft"),
        ({"sft__optimiser__learning_rate": 2e-2}, "sft"),
        ({"labeler__temperature": 0.5}, "data"),
        ({"seeds__labels": 3}, "data"),
        ({"proxy__pairwise": False}, "proxy"),
        ({"proxy__fit__validation": 4}, "proxy"),
        ({"proxy__fit__optimiser__weight_decay": 0.5}, "proxy"),
        ({"baseline__steps": 5}, "baseline"),
        ({"baseline__loss": Dpo()}, "baseline"),
        ({"evaluation__prompts": 20}, "baseline"),
        ({"evaluation__opponent_answers": 2}, "baseline"),
    ],
    ids=str,
)
def test_a_change_moves_its_stage_and_those_built_on_it(settings: dict, first: str) -> None:
    """The baseline is trained on the golden reward itself, on its own samples: it stands on no data and no proxy.
    SFT is trained on what the writers wrote: it does not stand on the data's dials."""
    assert NAMES == (
        "material",
        "world",
        "texts",
        "sft",
        "start",
        "base",
        "golden",
        "pool",
        "data",
        "scores",
        "proxy",
        "baseline",
        "optimum",
        "recorded",
        "stream",
        "prepared",
    )
    stand = {"pool": {"baseline"}, "proxy": {"baseline", "optimum"}}
    stand["data"] = stand["pool"]
    moved = (name for name in NAMES[NAMES.index(first) :] if name not in stand.get(first, ()))
    assert changed(**settings) == ((first,) if first == "baseline" else tuple(moved))


def test_sources_share_the_run_they_draw_on() -> None:
    """Other windows replay the same stream; other checkpoints' data are another set of the same run."""
    assert changed(source=Offline()) == ()
    replay, generated = Replay(recorded=RECORDED), Generated(recorded=RECORDED)
    assert changed(source=replay) == ("recorded", "stream", "prepared")
    assert changed(evaluation__stream=RECORDED) == ("recorded", "stream", "prepared")

    def address(source: AbstractSource, stage: str) -> str:
        return fingerprints(WorldConfig.of(experiment(source=source)))[stage]

    for source in (generated, Replay(RECORDED, 4.0), Mixture(Offline(), replay)):
        assert address(source, "recorded") == address(replay, "recorded")
    assert address(Replay(RECORDED, 4.0), "prepared") == address(replay, "prepared")
    assert address(generated, "prepared") != address(replay, "prepared")
    assert address(Replay(), "recorded") != address(replay, "recorded")


def test_another_dial_of_the_same_data_moves_no_candidate() -> None:
    dialled = WorldConfig.of(experiment(data__quality=0.5))
    other = WorldConfig.of(experiment(data__coverage=0.5))
    before, after = fingerprints(dialled), fingerprints(other)
    moved = [name for name in NAMES if before[name] != after[name]]
    assert moved == ["data", "scores", "proxy", "optimum", "recorded", "stream", "prepared"]


def test_other_code_has_other_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    config = WorldConfig.of(experiment())
    before = fingerprints(config)
    monkeypatch.setattr(Code, "hash_of", lambda *given: "other code")
    after = fingerprints(config)
    assert all(before[name] != after[name] for name in NAMES)


def test_cache_keeps_what_it_is_given(tmp_path) -> None:
    cache = Cache(tmp_path / "new" / "folder")
    tree = {
        "pairs": jax.tree.map(lambda x: x[0], artifacts_of(0).data),
        "facts": {"x": np.float32(2.5)},
    }
    assert cache.load("a" * 16) is None
    cache.save("a" * 16, tree)
    found = cache.load("a" * 16)
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, found, jax.device_get(tree))
    assert cache.load("b" * 16) is None
    cache.save("a" * 16, {"other": np.arange(3)})
    assert list(cache.load("a" * 16)) == ["other"]
    assert len(list(cache.directory.iterdir())) == 1


def test_a_failed_save_leaves_nothing_to_load(tmp_path) -> None:
    cache = Cache(tmp_path)
    with pytest.raises(InvalidInput, match=r"<lambda> of module test_stages cannot be kept"):
        cache.save("a" * 16, {"no file": lambda: None})
    assert cache.load("a" * 16) is None


def test_a_full_disk_under_the_cache_is_told_and_nothing_is_left(tmp_path) -> None:
    cache = Cache(tmp_path)
    with files_of_at_most(100), pytest.raises(Unfinished, match=r"cannot be written \(File too"):
        cache.save("a" * 16, {"x": np.zeros(1000)})
    assert list(tmp_path.iterdir()) == []


def artifacts_of(which: int) -> WorldArtifacts:
    return worlds()[WorldConfig.of(PREPARED[which])]


def made(which: int) -> dict:
    """Every stage's result, read back from the cache that building them filled."""
    worlds()
    cache = Cache(cache_directory())
    addresses = fingerprints(WorldConfig.of(PREPARED[which]))
    return {name: cache.load(address) for name, address in addresses.items()}


@pytest.mark.parametrize("which", [0, 1])
def test_the_cache_holds_every_stage_of_a_ground(which: int) -> None:
    results = made(which)
    nothing = [name for name, result in results.items() if result is None]
    assert nothing == ["material", "scores", "optimum", "recorded", "stream", "prepared"]
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(stages.assemble(results)),
        jax.device_get(artifacts_of(which)),
    )


def test_grounds_of_other_seeds_differ() -> None:
    first, second = artifacts_of(0), artifacts_of(1)
    for part in ("world", "sft", "proxy", "data"):
        pairs = zip(
            jax.tree.leaves(getattr(first, part)),
            jax.tree.leaves(getattr(second, part)),
            strict=True,
        )
        assert any(np.any(a != b) for a, b in pairs), part


@jax.jit
def rewards(world, prompts, responses):
    return jax.vmap(world.reward)(prompts, responses)


@pytest.mark.parametrize("which", [0, 1])
def test_golden_reward_is_standardised_over_its_own_samples(which: int) -> None:
    artifacts, run = artifacts_of(which), PREPARED[which]
    key = stream(jax.random.key(run.seed), Stream.STANDARDISE)
    count, each = run.task.standardising
    prompts = jax.vmap(artifacts.world.prompts)(
        jax.random.split(stream(key, Stream.PROMPTS), count)
    )
    keys = jax.random.split(stream(key, Stream.SAMPLES), count)
    samples = decode_sample(artifacts.sft, prompts, keys, time=TIME, count=each).response
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), samples)
    many = jax.tree.map(lambda x: jax.numpy.repeat(x, each, axis=0), prompts)
    reward = np.asarray(rewards(artifacts.world, many, flat), np.float64)
    assert reward.mean() == pytest.approx(0.0, abs=1e-3)
    assert reward.std() == pytest.approx(1.0, abs=1e-3)
    by_prompt = reward.reshape(count, each)
    within = by_prompt.var(axis=1, ddof=1).mean() / reward.var()
    assert float(artifacts.facts["within_prompt_variance"]) == pytest.approx(within, rel=1e-3)
    assert float(artifacts.facts["sft_length"]) == pytest.approx(
        np.asarray(samples.length).mean(), rel=1e-5
    )


@pytest.mark.parametrize("which", [0, 1])
def test_labels_and_margins_agree(which: int) -> None:
    """Each pair is one prompt's two texts in some order; its margin is the difference of their golden rewards."""
    artifacts, corpus = artifacts_of(which), made(which)["texts"].corpus
    pairs: Pair = artifacts.data.pairs
    np.testing.assert_array_equal(pairs.prompt.tokens, corpus.prompts.tokens)
    texts = {
        "winner": pairs.winner,
        "loser": pairs.loser,
        "first": corpus.first,
        "second": corpus.second,
    }
    reward = {
        name: np.asarray(rewards(artifacts.world, corpus.prompts, text))
        for name, text in texts.items()
    }
    tokens = {name: np.asarray(text.tokens) for name, text in texts.items()}
    kept = (tokens["winner"] == tokens["first"]).all(1) & (tokens["loser"] == tokens["second"]).all(
        1
    )
    turned = (tokens["winner"] == tokens["second"]).all(1) & (
        tokens["loser"] == tokens["first"]
    ).all(1)
    assert np.all(kept | turned)
    assert kept.any()
    assert turned.any()
    margin = np.asarray(artifacts.data.golden_margin)
    np.testing.assert_allclose(margin, reward["winner"] - reward["loser"], atol=1e-4)
    noise = np.mean(margin < 0)
    assert float(artifacts.facts["label_noise"]) == pytest.approx(noise)
    # The first ground's labels are deterministic, the second's are noisy.
    assert (noise == 0.0) == (which == 0)
    quality = 0.5 * (reward["first"].mean() + reward["second"].mean())
    assert float(artifacts.facts["data_quality"]) == pytest.approx(quality, abs=1e-4)


def test_reference_scores_are_those_of_the_sft_policy() -> None:
    artifacts = artifacts_of(0)
    for i in range(8):
        x = cut(artifacts.data.pairs.prompt, i)
        for part, scores in (
            (artifacts.data.pairs.winner, artifacts.data.reference.winner),
            (artifacts.data.pairs.loser, artifacts.data.reference.loser),
        ):
            alone = reference.token_logprobs(artifacts.sft, x, cut(part, i)).sum()
            assert float(scores[i]) == pytest.approx(alone, abs=2e-5)


def test_sft_learns_the_writers() -> None:
    """Its loss is nats a token: near that of the final model on all the data, and less than a uniform guess."""
    artifacts = artifacts_of(0)
    scores = score_pairs(artifacts.sft, artifacts.data.pairs)
    pairs = artifacts.data.pairs
    tokens = np.sum(np.asarray(pairs.winner.length + pairs.loser.length))
    nats = -np.sum(np.asarray(scores.winner + scores.loser)) / tokens
    assert float(artifacts.facts["sft_loss"]) == pytest.approx(nats, abs=0.2)
    assert nats < 0.9 * np.log(VOCABULARY)


def test_proxy_accuracies_are_those_of_the_proxy() -> None:
    artifacts, (data, test, *_) = artifacts_of(0), made(0)["data"]

    @jax.jit
    def margins(proxy, pairs):
        return proxy.margin(pairs.prompt, pairs.winner, pairs.loser)

    for name, part in (("proxy_accuracy", test), ("proxy_train_accuracy", data)):
        some = jax.tree.map(lambda x: x[:16], part)
        sign = np.sign(margins(artifacts.proxy, some.pairs)) * np.sign(some.golden_margin)
        right = 0.5 * (1 + sign)  # the same text twice is half right
        assert float(artifacts.facts[name]) == pytest.approx(right.mean())
    overlap = set(map(bytes, np.asarray(test.pairs.prompt.tokens)))
    overlap &= set(map(bytes, np.asarray(data.pairs.prompt.tokens)))
    assert len(overlap) < 4


def test_baseline_answers_the_first_prompts_of_the_data() -> None:
    artifacts = artifacts_of(0)
    opponent = artifacts.opponent
    assert opponent.reward.shape == (16, 1)
    np.testing.assert_array_equal(opponent.prompts.tokens, artifacts.data.pairs.prompt.tokens[:16])
    once = jax.tree.map(lambda x: x[:, 0], opponent.responses)
    expected = rewards(artifacts.world, opponent.prompts, once)
    np.testing.assert_allclose(opponent.reward[:, 0], expected, atol=1e-4)
    assert float(artifacts.facts["baseline_reward"]) == pytest.approx(
        np.mean(opponent.reward), abs=1e-5
    )
    assert int(artifacts.facts["baseline_diverged_step"]) == -1


def test_without_training_the_sft_policy_is_the_opponent_and_answers_as_often_as_asked() -> None:
    """Three answers to each of eight prompts, recomputed; the first are those of an opponent that answers once."""
    run, parts = PREPARED[0], made(0)

    @functools.partial(jax.jit, static_argnums=0)
    def answered(each: int, *given) -> TrainedBaseline:
        return train_baseline(run.task, OnlineRun(steps=0), 8, each, run.seed, *given)

    given = [parts[name] for name in ("golden", "base", "texts")]
    once, thrice = answered(1, *given), answered(3, *given)
    key = stream(stream(jax.random.key(run.seed), Stream.BASELINE), Stream.BASELINE_RESPONSES)
    prompts, keys = thrice.opponent.prompts, jax.random.split(key, 24).reshape(3, 8)
    for j in range(3):
        found = decode_sample(parts["base"].policy, prompts, keys[j], time=TIME, count=1).response
        own = jax.tree.map(lambda x, j=j: x[:, j], thrice.opponent.responses)
        np.testing.assert_array_equal(own.tokens, found.tokens[:, 0])
        expected = rewards(parts["golden"].world, prompts, own)
        np.testing.assert_allclose(thrice.opponent.reward[:, j], expected, atol=1e-4)
    first = jax.tree.map(lambda x: x[:, :1], thrice.opponent.responses)
    np.testing.assert_array_equal(once.opponent.responses.tokens, first.tokens)
    assert len({bytes(row) for row in np.asarray(thrice.opponent.responses.tokens[0])}) > 1
    assert float(thrice.facts["baseline_steps"]) == 0.0
    mean = float(np.mean(thrice.opponent.reward))
    assert float(thrice.facts["baseline_reward"]) == pytest.approx(mean, abs=1e-5)
    assert (run.opponent, experiment(baseline__steps=0).opponent) == ("golden baseline", "SFT")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"batch_size": 33}, "batch_size"),
        ({"sft__batch_size": 33}, "sft.batch_size"),
        ({"proxy__fit__batch_size": 33}, "proxy.fit.batch_size"),
        ({"sft__validation": 25}, "sft.validation"),
        ({"proxy__fit__validation": 25}, "proxy.fit.validation"),
        ({"sft__decay": 1.5}, "decay"),
        ({"baseline__batch_size": 33}, "baseline.batch_size"),
        ({"evaluation__prompts": 33}, "evaluation.prompts"),
        ({"evaluation__pairs": 33}, "evaluation.pairs"),
        ({"evaluation__kl_prompts": 17}, "kl_prompts"),
        ({"evaluation__kl_prompts": 1}, "kl_prompts"),
        ({"evaluation__points": 0}, "points"),
        ({"steps": 7}, "steps"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"data__pairs": 0}, "pairs"),
        ({"sft__steps": 0}, "steps"),
        ({"task__vocabulary": 1}, "vocabulary"),
        ({"task__prompt_length": 1}, "prompt_length"),
        ({"task__response_length": 0}, "response_length"),
        ({"task__writers": 0}, "writers"),
        ({"task__ruggedness": float("nan")}, "ruggedness"),
    ],
    ids=str,
)
def test_impossible_experiments_are_refused(settings: dict, named: str) -> None:
    with pytest.raises(InvalidInput, match=named) as refused:
        experiment(**settings)
    assert "\n" not in str(refused.value)
    assert str(next(iter(settings.values()))) in str(refused.value)


def test_baseline_steps_are_not_negative() -> None:
    with pytest.raises(InvalidInput, match=r"^steps must be 0 or more, got -1$"):
        OnlineRun(steps=-1)
    assert isinstance(experiment(baseline__steps=0), Experiment)

"""Policies with adapters: nothing changes at the start, merging, gradients by an independent derivation, what is held
and what moves, every source, and the tandem identity."""

import functools
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    BATCH,
    CONFIG,
    PAIRS,
    SHALLOW,
    Silence,
    advance,
    built,
    cache_directory,
    dataset,
    experiment,
    init,
    measured,
    model,
    pairs,
    prompts,
    sample,
    score_pairs,
    world,
)
from test_matmul import products
from training import KEY, RATE, STEPS, go, plan, same

from envs.labelers.bradley_terry import BradleyTerry
from sweeps.population import host
from sweeps.population.plan import Chunk, Layout
from sweeps.study import Point
from testbed import config, decode, logprob, train
from testbed.cache import Cache
from testbed.config import members, replace
from testbed.errors import InvalidInput
from testbed.experiment import Experiment
from testbed.lora import TARGETS, Lora, adapted, merged, shapes
from testbed.losses.dpo import Dpo
from testbed.losses.ipo import Ipo
from testbed.nn.matmul import LowRank, Precision
from testbed.optimiser import OptimiserConfig
from testbed.policies.trainable import rebuilt, trained
from testbed.preference import GoldenPreference
from testbed.recorded_runs.recorded_run import Given, Recorded
from testbed.references.averaged import Averaged
from testbed.references.refreshed import Refreshed
from testbed.source import AbstractSource, TrainingInputs
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.sources.record import Record
from testbed.sources.replay import Replay
from testbed.sources.snapshot import Snapshot
from testbed.stages import online_run
from testbed.stages.world_config import WorldConfig
from testbed.streams import Stream, stream
from testbed.train import OnlineRun
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig

SOURCES = members(AbstractSource, AbstractSource.family)
EVERYWHERE = Lora(rank=3, targets="qkvogud", alpha=6.0)
TOKENS = jnp.asarray([[3, 1, 0, 6, 6, 2, 5, 4, 1]])


def base(shape: TransformerConfig = CONFIG) -> Transformer:
    return jax.tree.map(jnp.asarray, model(0, shape))


def moved(policy: Transformer, seed: int = 5) -> Transformer:
    """The same with every factor of its adapters random, B too."""
    rng = np.random.default_rng(seed)
    part = jax.tree.map(
        lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32), trained(policy)
    )
    return rebuilt(part, policy)


@functools.cache
def given() -> TrainingInputs:
    """`helpers.training_inputs` with an adapted reference."""
    policy = adapted(KEY, base(SHALLOW), EVERYWHERE)
    return TrainingInputs(dataset(policy, PAIRS), policy, GoldenPreference(world()))


logits = jax.jit(lambda net: net(TOKENS))


def test_at_the_start_nothing_changes() -> None:
    """To the last bit: each product has an exact 0 added to it, and a merged weight is W + 0."""
    plain = base()
    policy = adapted(KEY, plain, EVERYWHERE)
    np.testing.assert_array_equal(logits(policy), logits(plain))
    for ours, theirs in zip(
        *(jax.tree.leaves(score_pairs(p, pairs(8))) for p in (policy, plain)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    keys = jax.random.split(KEY, 6)
    assert same(*(sample(p, prompts(6), keys, time=5, count=2) for p in (policy, plain)))
    assert same(merged(policy), plain)
    downs = [weight.down for weight in adapters(policy)]
    assert len(downs) == 7 * CONFIG.layers
    assert len({float(down[0, 0]) for down in downs}) == len(downs)


def adapters(policy: Any) -> list[LowRank]:
    def one(node: Any) -> bool:
        return isinstance(node, LowRank)

    return [n for n in jax.tree.leaves(policy, is_leaf=one) if one(n)]


def test_the_start_has_the_stated_spread() -> None:
    shape = TransformerConfig(width=96, layers=1, heads=2, key_value_heads=2)
    plain = Transformer.init(KEY, shape, 7)
    (found,) = adapters(adapted(KEY, plain, Lora(rank=64, targets="q", alpha=32.0)))
    assert np.std(found.down) == pytest.approx(96**-0.5, rel=0.03)
    assert np.all(np.asarray(found.up) == 0.0)
    assert found.scale == 0.5


def test_merged_equals_unmerged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits, scores, and what is sampled token by token."""
    policy = moved(adapted(KEY, base(), EVERYWHERE))
    whole = merged(policy)
    assert not adapters(whole)
    assert jax.tree.structure(whole) == jax.tree.structure(base())
    assert np.max(np.abs(logits(policy) - logits(base()))) > 0.1
    np.testing.assert_allclose(logits(policy), logits(whole), atol=2e-5, rtol=1e-5)
    ours, theirs = (score_pairs(p, pairs(8)) for p in (policy, whole))
    np.testing.assert_allclose(ours.winner, theirs.winner, atol=2e-5, rtol=1e-5)
    keys = jax.random.split(KEY, 6)
    found = sample(policy, prompts(6), keys, time=5, count=2)
    monkeypatch.setattr(decode, "merged", lambda model: model)
    slow = jax.jit(lambda p: decode.sample(p, prompts(6), keys, 5, 2))(policy)
    np.testing.assert_array_equal(found.response.tokens, slow.response.tokens)
    np.testing.assert_allclose(found.logprobs, slow.logprobs, atol=2e-5, rtol=1e-5)


def test_gradients_are_those_of_the_sum_by_the_chain_rule() -> None:
    """Of W + scale A B in a plain transformer with slope G by its weight: scale G B' and scale A' G; and W has none."""
    policy = moved(adapted(KEY, base(), EVERYWHERE))

    def loss(net: Transformer) -> jax.Array:
        return jnp.mean(logprob.score_pairs(net, pairs(8)).winner)

    slope, plain = jax.jit(jax.grad(loss))(policy), jax.jit(jax.grad(loss))(merged(policy))
    for number, block in enumerate(policy.blocks):
        for name in TARGETS.values():
            weight, found = getattr(block, name), getattr(slope.blocks[number], name)
            by_sum = getattr(plain.blocks[number], name)
            np.testing.assert_allclose(
                found.down, weight.scale * by_sum @ weight.up.T, atol=1e-5, rtol=1e-4
            )
            np.testing.assert_allclose(
                found.up, weight.scale * weight.down.T @ by_sum, atol=1e-5, rtol=1e-4
            )
            assert np.all(np.asarray(found.weight) == 0.0)
    np.testing.assert_allclose(slope.embedding, plain.embedding, atol=1e-5, rtol=1e-4)


def test_a_run_moves_the_adapters_and_holds_nothing_else() -> None:
    """Weight decay and the norm of the gradient are theirs alone, too."""
    policy = given().reference
    before = jax.tree.map(np.array, policy)
    run = replace(plan(Online()), "optimiser", OptimiserConfig(1e-2, warmup=2.0, weight_decay=0.1))
    state = go(run, given())
    size = sum(x.size for x in jax.tree.leaves(trained(policy)))
    assert size == EVERYWHERE.parameters(SHALLOW)
    assert sum(x.size for x in jax.tree.leaves(state.policy)) == size
    assert sum(x.size for x in jax.tree.leaves(state.optimiser)) == 2 * size + 2
    assert same(before, policy)
    after = train.present(given(), state)
    for new, old in zip(adapters(after), adapters(policy), strict=True):
        np.testing.assert_array_equal(new.weight, old.weight)
        assert np.all(np.any(new.down != old.down, axis=0))
        assert np.any(new.up != 0.0)
    assert same(plain_part(after), plain_part(policy))


def plain_part(policy: Transformer) -> Any:
    return eqx.tree_at(lambda p: p.blocks, policy, [b.attention_norm for b in policy.blocks])


def test_a_plain_policy_is_its_own_trained_part() -> None:
    plain = base()
    assert trained(plain) is plain
    policy = adapted(KEY, plain, EVERYWHERE)
    assert same(rebuilt(trained(policy), policy), policy)


def test_the_first_step_moves_b_alone() -> None:
    """B is 0, so that A has no gradient at the start."""
    policy = given().reference
    state = go(plan(Offline(), Dpo(0.5)), given(), 1)
    for new, old in zip(adapters(state.policy), adapters(policy), strict=True):
        np.testing.assert_array_equal(new.down, old.down)
        assert np.any(new.up != 0.0)


@functools.cache
def prepared(kind: type) -> TrainingInputs:
    """What a source of this kind draws on."""
    plain = given()
    run = OnlineRun(Ipo(beta=0.1), RATE, STEPS, BATCH)
    made = jax.jit(online_run.make)(Recorded(run), plain, GoldenPreference(world()), KEY)
    parts = Given(plain, made, world(), BradleyTerry(), KEY)
    found, _ = jax.jit(lambda source, parts: source.prepare(parts))(kind(), parts)
    return TrainingInputs(plain.data, plain.reference, plain.teacher, found)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_adapters_learn_from_every_source(source: type) -> None:
    """What sources keep of policies are parts of them, too."""
    state = go(plan(source()), prepared(source), 3)
    assert int(state.diverged_step) == -1
    assert np.isfinite(float(state.loss))
    assert jax.tree.structure(state.policy) == jax.tree.structure(trained(given().reference))
    assert all(np.any(one.up != 0.0) for one in adapters(state.policy))
    for weight in adapters(state.source):
        assert weight.weight is None


@pytest.mark.slow
def test_the_tandem_identity_holds_for_adapters() -> None:
    """A replay in order is the online run bit for bit, and so is a snapshot that is taken at every step."""
    online = go(plan(Online()), given())
    recording = go(plan(Record(steps=STEPS)), given())
    stream = recording.source.recording
    held = TrainingInputs(given().data, given().reference, given().teacher, stream)
    again, lagging = go(plan(Replay()), held), go(plan(Snapshot(refresh_every=1)), given())
    for other in (recording, again, lagging):
        assert same((online.policy, online.optimiser), (other.policy, other.optimiser))
        assert float(online.loss) == float(other.loss)
    stale = go(plan(Snapshot(refresh_every=4)), given())
    assert not same(stale.policy, online.policy)


@pytest.mark.slow
@pytest.mark.parametrize("reference", [Refreshed(every=2), Averaged(decay=0.5)])
def test_moving_references_hold_adapters(reference: Any) -> None:
    state = go(plan(Offline(), reference=reference), given(), 4)
    assert jax.tree.structure(state.reference) == jax.tree.structure(state.policy)
    assert not same(state.reference, trained(given().reference))
    found = train.held_to(given(), state).reference
    assert all(np.any(one.up != 0.0) for one in adapters(found))
    assert all(one.weight is not None for one in adapters(found))


@pytest.mark.slow
def test_of_full_rank_they_learn_what_the_weights_can() -> None:
    """On fixed pairs both losses fall, to about the same."""
    full = Lora(rank=min(map(min, shapes(SHALLOW).values())), targets="qkvogud", alpha=8.0)
    ended = []
    for policy in (base(SHALLOW), adapted(KEY, base(SHALLOW), full)):
        held = TrainingInputs(dataset(policy, PAIRS), policy, GoldenPreference(world()))
        run = plan(Offline(), Dpo(beta=1.0))
        start, end = (float(go(run, held, steps).loss) for steps in (1, 60))
        assert start == pytest.approx(np.log(2.0), rel=1e-4)
        assert end < 0.6 * start
        ended.append(end)
    assert ended[1] < 2.0 * ended[0]


@pytest.mark.slow
def test_a_study_measures_adapters_with_the_weights_of_their_world() -> None:
    """Two runs of one world in a stack, each as measured by itself; at the start the KL is 0."""
    runs = [
        experiment(lora=Lora(rank=2, targets="qv"), optimiser__learning_rate=rate)
        for rate in (3e-2, 1e-1)
    ]
    owner = WorldConfig.of(runs[0])
    standing = built([owner], Cache(cache_directory()), Silence())
    artifacts, points = (
        standing[owner],
        [Point(config.fingerprint(run), "online", 0, {}, run) for run in runs],
    )
    assert sum(x.size for x in jax.tree.leaves(trained(artifacts.sft))) == 2 * (16 + 16) + 2 * (
        16 + 8
    )
    chunk = Chunk(tuple(points), (owner,), (0, 0), Layout(2, 1), 0, 2, False, None)
    rows = host.run_chunk(chunk, standing, Silence()).rows
    np.testing.assert_array_equal(rows["kl"][rows["step"] == 0], 0.0)
    assert np.all(rows["kl"][rows["step"] == 6] > 0.0)
    key = stream(jax.random.key(0), Stream.TRAINING)
    inputs, evaluation_inputs = (
        artifacts.training_inputs(),
        artifacts.evaluation_inputs(runs[0].evaluation),
    )
    for run in runs:
        state = advance(run.train, inputs, init(run.train, inputs), key, *map(jnp.asarray, (0, 3)))
        state = advance(run.train, inputs, state, key, *map(jnp.asarray, (3, 3)))
        fresh = jax.random.fold_in(stream(key, Stream.EVALUATION), 2)
        found = measured(train.present(inputs, state), evaluation_inputs, fresh)
        mine = (rows["run"] == config.fingerprint(run)) & (rows["step"] == 6)
        for name in found.keys() - {"policy_checksum"}:
            np.testing.assert_allclose(
                rows[name][mine], float(found[name]), rtol=1e-4, atol=1e-5, err_msg=name
            )


@pytest.mark.parametrize("precision", get_args(Precision))
def test_products_of_adapters_are_in_the_stated_precision(precision: Precision) -> None:
    shape = replace(SHALLOW, "precision", precision)
    policy = moved(adapted(KEY, base(shape), EVERYWHERE))

    def loss(part: Any, policy: Transformer) -> jax.Array:
        return jnp.mean(logprob.score_pairs(rebuilt(part, policy), pairs(8)).winner)

    def both(policy: Transformer) -> Any:
        drawn = decode.sample(policy, prompts(6), jax.random.split(KEY, 6), 5, 2)
        return jax.grad(loss)(trained(policy), policy), drawn

    found = list(products(jax.make_jaxpr(both)(policy).jaxpr))
    assert len(found) > 40
    for one in found:
        types = {x.aval.dtype.name for x in one.invars}
        assert types == {"bfloat16" if precision == "bfloat16" else "float32"}
    slope, drawn = jax.jit(both)(policy)
    assert {x.dtype.name for x in jax.tree.leaves(slope)} == {"float32"}
    scored = jax.jit(logprob.score_tokens)(policy, prompts(6), drawn.response)
    close = 8e-2 if precision == "bfloat16" else 2e-5
    np.testing.assert_allclose(drawn.logprobs, scored, atol=close, rtol=1e-5)


def test_what_is_refused() -> None:
    for targets in ("", "x", "qq"):
        with pytest.raises(InvalidInput, match="targets must be one or more different letters"):
            Lora(targets=targets)
    with pytest.raises(InvalidInput, match="rank must be at least 1, got 0"):
        Lora(rank=0)
    with pytest.raises(InvalidInput, match="rank must be at most 8, the smallest side"):
        adapted(KEY, base(SHALLOW), Lora(rank=9, targets="qk"))
    with pytest.raises(InvalidInput, match="rank must be at most 16"):
        experiment(lora=Lora(rank=17, targets="q"))


def test_an_experiment_names_its_adapters() -> None:
    """As text, in the fingerprint, and by the compile key."""
    e = experiment()
    value = config.parse(e, "lora", "Lora(rank=4, targets=qkvo)")
    assert value == Lora(rank=4, targets="qkvo")
    chosen: Experiment = replace(e, "lora", value)
    assert config.parse(e, "lora", config.spell(value)) == value
    assert config.fingerprint(chosen) != config.fingerprint(e)
    assert config.parse(chosen, "lora", "none") is None

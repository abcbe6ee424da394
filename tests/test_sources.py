"""Sources: what they give against what they should, bit for bit where they promise it."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    BATCH,
    PAIRS,
    TIME,
    advance,
    cut,
    init,
    sample,
    score_pairs,
    shallow,
    sum_reward,
    supply,
    world,
)

from envs.labelers.bradley_terry import BradleyTerry
from testbed import recorded, spill
from testbed.errors import InvalidInput
from testbed.losses.dpo import Dpo
from testbed.losses.ipo import Ipo
from testbed.optimiser import OptimiserConfig
from testbed.preference import GoldenPreference
from testbed.proxies import PairwiseProxy
from testbed.recorded import Given, Made, Recorded
from testbed.recording import Recording, shuffled
from testbed.references import AbstractReference, Averaged, Fixed, Refreshed
from testbed.sources.base import AbstractSource, Batch, Request, Supply, write_pairs
from testbed.sources.best_worst_of_n import BestWorstOfN, compared
from testbed.sources.generated import Generated
from testbed.sources.mixture import Mixture
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.sources.record import Record
from testbed.sources.replay import Replay
from testbed.sources.reuse import Reuse
from testbed.sources.snapshot import Snapshot
from testbed.streams import Stream, stream
from testbed.train import OnlineRun, TrainConfig, TrainState
from testbed.types import PairScores, Response

KEY = jax.random.key(2)
STEPS = 10
RATE = OptimiserConfig(1e-2, warmup=2.0)


def plan(source: AbstractSource, loss: Any = None, reference: Any = None) -> TrainConfig:
    return TrainConfig(source, loss or Ipo(beta=0.1), RATE, BATCH, reference or Fixed())


def go(config: TrainConfig, given: Supply | None = None, steps: int = STEPS) -> TrainState:
    given = supply() if given is None else given
    return advance(config, given, init(config, given), KEY, jnp.asarray(0), jnp.asarray(steps))


def with_prepared(prepared: Any) -> Supply:
    given = supply()
    return Supply(given.data, given.reference, given.teacher, prepared)


@functools.cache
def made(loss: Any = None) -> Made:
    """An online run of `STEPS`, recorded."""
    run = OnlineRun(loss or Ipo(beta=0.1), RATE, STEPS, BATCH)
    record = jax.jit(recorded.make)
    return record(Recorded(run), supply(), GoldenPreference(world()), KEY)


def same(left: Any, right: Any) -> bool:
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def batches(
    source: AbstractSource, policies: list[Any], given: Supply | None = None
) -> list[Batch]:
    """What a source gives at steps 0, 1, ... while the policy is one after the other."""
    given = supply() if given is None else given
    state = jax.jit(lambda s, g, p: s.init(g, p, Request(BATCH, write_pairs)))(
        source, given, policies[0]
    )
    found = []
    for step, policy in enumerate(policies):
        batch, state = _draw(source, given, policy, state, jnp.asarray(step))
        found.append(batch)
    return found


@jax.jit
def _draw(source: AbstractSource, given: Supply, policy: Any, state: Any, step: Any):
    return source.draw(state, given, policy, Request(BATCH, write_pairs), KEY, step)


@pytest.mark.parametrize("loss", [Ipo(beta=0.1), Dpo(beta=0.5)], ids=["ipo", "dpo"])
def test_replay_in_order_is_the_online_run_bit_for_bit(loss: Any) -> None:
    """Claim C4 of arXiv 2405.08448: parameters, optimiser and all, of the run itself, its recording, and the replay."""
    online = go(plan(Online(), loss))
    recording = go(plan(Record(steps=STEPS), loss))
    again = go(plan(Replay(), loss), with_prepared(recording.source.recording))
    for other in (recording, again):
        assert same((online.policy, online.optimiser), (other.policy, other.optimiser))
        assert float(online.loss) == float(other.loss)
        assert same(online.ledger, other.ledger)
    moved = jax.tree.map(lambda a, b: np.any(a != b), online.policy, supply().reference)
    assert all(jax.tree.leaves(moved))


def test_replay_of_the_recorded_stage_is_the_online_run() -> None:
    """The run that is made before training, checkpoints and all, is the one an experiment makes."""
    online = go(plan(Online()))
    again = go(plan(Replay()), with_prepared(made().recording))
    assert same(online.policy, again.policy)
    for share, policy in zip((0.0, 0.2, 1.0), range(3), strict=True):
        kept = jax.tree.map(lambda x, i=policy: x[i], made().policies)
        assert same(kept, go(plan(Online()), steps=round(share * STEPS)).policy)


@pytest.mark.parametrize("window", [2.0, 4.0, float(STEPS)])
def test_a_shuffled_replay_is_another_run(window: float) -> None:
    """The same pairs in another order: the parameters differ, the ledger does not."""
    online, given = go(plan(Online())), with_prepared(made().recording)
    other = go(plan(Replay(shuffle_window=window)), given)
    assert not same(online.policy, other.policy)
    assert same(online.ledger, other.ledger)


def test_replay_in_order_under_a_moving_reference() -> None:
    """Reference scores are then computed anew, under a reference that moves as the run's did."""
    reference = Refreshed(every=3)
    online = go(plan(Online(), reference=reference))
    recording = go(plan(Record(steps=STEPS), reference=reference)).source.recording
    again = go(plan(Replay(), reference=reference), with_prepared(recording))
    assert same(online.policy, again.policy)
    assert not same(online.policy, go(plan(Online())).policy)


def test_a_stream_of_a_moving_reference_is_scored_anew_under_a_fixed_one() -> None:
    """The recorded scores are those of a reference that the replay does not have."""
    reference = Refreshed(every=1)
    recording = go(plan(Record(steps=STEPS), reference=reference)).source.recording
    source = Replay(Recorded(OnlineRun(Ipo(beta=0.1), RATE, STEPS, BATCH, reference)))
    given = with_prepared(recording)
    batch = batches(source, [shallow(0)] * STEPS, given)[-1]
    found = score_pairs(given.reference, batch.pairs)
    np.testing.assert_allclose(batch.reference.winner, found.winner, atol=1e-5)
    np.testing.assert_allclose(batch.reference.loser, found.loser, atol=1e-5)
    held = jax.tree.map(lambda x: x[-1], recording.reference)
    assert np.max(np.abs(np.asarray(held.winner) - found.winner)) > 1e-2


def test_stacked_replays_shuffle_once_an_epoch() -> None:
    """Under `jax.vmap` the order is still drawn in a branch, not at every step of every lane."""
    given = with_prepared(made().recording)
    source, request = Replay(shuffle_window=4.0), Request(BATCH, write_pairs)

    def draw(source: Any, given: Any, step: Any) -> Any:
        state = source.init(given, given.reference, request)
        return source.draw(state, given, given.reference, request, KEY, step)[1]

    stacked = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 2), (source, given))
    lanes = jax.make_jaxpr(jax.vmap(draw, in_axes=(0, 0, None)))
    assert "cond[" in str(lanes(*stacked, jnp.asarray(3)))


def test_a_recorded_source_is_prepared_for() -> None:
    source = Record(Replay(Recorded(made_run())))
    assert source.recorded_run == Recorded(made_run())
    assert source.preparation == Replay(Recorded(made_run()))
    given = with_prepared(made().recording)
    (found,), (expected,) = (batches(s, [shallow(0)], given) for s in (source, Replay()))
    assert same(found, expected)


@pytest.mark.parametrize("window", [1.0, 4.0])
def test_a_stream_on_disk_replays_like_one_in_memory(tmp_path, window: float) -> None:
    online = go(plan(Online()))
    state = spill.record(plan(Online()), supply(), KEY, STEPS, tmp_path / "stream", room=4)
    assert same(online.policy, state.policy)
    stored = spill.read(tmp_path / "stream")
    assert all(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(stored)[:-1])
    in_memory = go(plan(Record(steps=STEPS))).source.recording
    assert same(stored, in_memory) or np.isnan(np.asarray(stored.golden_margin)).all()
    config = plan(Replay(shuffle_window=window))
    again = spill.replay(config, supply(), KEY, stored, STEPS, room=4)
    expected = go(config, with_prepared(in_memory))
    assert same(again.policy, expected.policy)
    assert same(again.ledger, expected.ledger)
    with pytest.raises(InvalidInput, match="holds a recording already"):
        spill.record(plan(Online()), supply(), KEY, STEPS, tmp_path / "stream")
    with pytest.raises(InvalidInput, match="steps must be between 1 and the recorded 10"):
        spill.replay(config, supply(), KEY, stored, STEPS + 1)


def test_a_recording_holds_what_was_learnt_from() -> None:
    """Tokens in a byte each; labels and scores as drawn; golden margins by hand."""
    recording, given = made().recording, supply()
    assert recording is not None
    assert recording.winner.dtype == np.uint8
    policies = [go(plan(Online()), steps=step).policy for step in range(3)]
    for step, batch in enumerate(batches(Online(), policies)):
        held = jax.tree.map(
            lambda x, s=step: x[s], eqx.tree_at(lambda r: r.start, recording, recording.rows)
        )
        np.testing.assert_array_equal(held.rows, batch.rows)
        np.testing.assert_array_equal(held.winner, batch.pairs.winner.tokens)
        np.testing.assert_array_equal(held.loser_length, batch.pairs.loser.length)
        np.testing.assert_allclose(held.reward_margin, batch.reward_margin, atol=1e-5)
        np.testing.assert_allclose(held.reference.winner, batch.reference.winner, atol=1e-5)
        for i in range(BATCH):
            x = cut(given.data.pairs.prompt, int(held.rows[i]))
            winner, loser = cut(batch.pairs.winner, i), cut(batch.pairs.loser, i)
            by_hand = sum_reward(x, winner) - sum_reward(x, loser)
            assert float(held.golden_margin[i]) == pytest.approx(by_hand, abs=1e-5)


def test_what_a_recording_has_no_room_for_is_left_out() -> None:
    full, short = made().recording, go(plan(Record(steps=4))).source.recording
    for field in ("rows", "winner", "loser", "preference"):
        np.testing.assert_array_equal(getattr(short, field), getattr(full, field)[:4])


def test_shuffling_keeps_to_its_windows() -> None:
    """Each window of so many steps is a permutation of itself; 1 is the order itself, and windows beyond the end are
    uniform. The last window may be short."""
    steps, size = 10, 3
    order = functools.partial(jax.jit(shuffled, static_argnums=(1, 2)), KEY, steps, size)
    np.testing.assert_array_equal(order(1.0), np.arange(30))
    for window in (2, 4, 10, 1000):
        found = np.asarray(order(float(window)))
        for start in range(0, 30, window * size):
            part = found[start : start + window * size]
            np.testing.assert_array_equal(np.sort(part), np.arange(start, start + len(part)))
        assert np.any(found != np.arange(30))
    # Uniform: over many keys the mean place of each is the middle; standard error of the mean 8.7 / sqrt(2000) = 0.19.
    keys = jax.random.split(KEY, 2000)
    places = jax.vmap(lambda k: jnp.argsort(shuffled(k, steps, size, 1e9)))(keys)
    assert np.max(np.abs(np.mean(places, axis=0) - 14.5)) < 5 * 0.19


def test_replay_starts_again_after_the_last_pair() -> None:
    given = with_prepared(made().recording)
    policies = [shallow(0)] * (2 * STEPS)
    in_order = batches(Replay(), policies, given)
    mixed = batches(Replay(shuffle_window=1e6), policies, given)
    for step in range(STEPS):
        assert same(in_order[step].pairs, in_order[step + STEPS].pairs)
        assert float(jnp.sum(in_order[step].spent.distinct)) == BATCH
        assert float(jnp.sum(in_order[step + STEPS].spent.distinct)) == 0
        assert int(jnp.sum(in_order[step + STEPS].spent.tokens)) == 0
    first, second = (
        np.concatenate([b.rows for b in part]) for part in (mixed[:STEPS], mixed[STEPS:])
    )
    assert np.any(first != second)
    np.testing.assert_array_equal(np.sort(first), np.sort(second))


def test_a_snapshot_of_every_step_is_online() -> None:
    policies = [shallow(seed) for seed in range(4)]
    every = Snapshot(refresh_every=1)
    for fresh, lagging in zip(batches(Online(), policies), batches(every, policies), strict=True):
        assert same(fresh.pairs, lagging.pairs)
        assert same(fresh.spent, lagging.spent)


def test_a_snapshot_lags_and_one_never_refreshed_is_sft() -> None:
    policies = [shallow(seed) for seed in range(7)]
    for every, authors in ((3, (0, 0, 0, 3, 3, 3, 6)), (1000, (0,) * 7)):
        written = batches(Snapshot(refresh_every=every), policies)
        expected = batches(Online(), [policies[i] for i in authors])
        for found, other in zip(written, expected, strict=True):
            assert same(found.pairs, other.pairs)


def test_a_mixture_takes_its_share_of_every_batch() -> None:
    policies = [shallow(3)] * 40
    first, second = batches(Offline(), policies), batches(Online(), policies)
    for share in (0.0, 0.25, 0.5, 1.0):
        taken = []
        for mixed, a, b in zip(batches(Mixture(share=share), policies), first, second, strict=True):
            fresh = np.asarray(mixed.spent.judgements) == 1
            taken.append(fresh.sum())
            for i in range(BATCH):
                source = b if fresh[i] else a
                one, other = (jax.tree.map(lambda x, i=i: x[i], x.pairs) for x in (mixed, source))
                assert same(one, other)
        assert set(taken) <= {int(np.floor(share * BATCH)), int(np.ceil(share * BATCH))}
        # At 1.5 of 6 each step draws 1 or 2 evenly: standard error of the mean 0.5 / sqrt(40) = 0.08.
        assert np.mean(taken) == pytest.approx(share * BATCH, abs=4 * 0.08)


@pytest.mark.parametrize("first", [Offline(), Mixture(share=0.5)], ids=["flat", "nested"])
def test_a_mixture_pays_for_each_pair_when_it_is_learnt_from(first: AbstractSource) -> None:
    """What was drawn in one epoch and left out is still new when a later epoch takes it."""
    learnt: set[int] = set()
    for batch in batches(Mixture(first, share=0.5), [shallow(3)] * 12):
        for i in np.flatnonzero(np.asarray(batch.spent.judgements) == 0):
            row = int(batch.rows[i])
            new = 0 if row in learnt else 1
            assert (int(batch.spent.distinct[i]), int(batch.spent.labels[i])) == (new, new)
            learnt.add(row)
    assert len(learnt) > PAIRS / 4


def test_a_mixture_pays_for_reused_texts_when_they_are_learnt_from() -> None:
    """Of three epochs over a batch, the first that takes a text is charged for it."""
    policies = [shallow(3)] * 6
    mixed, reused = (
        batches(source, policies)
        for source in (Mixture(Offline(), Reuse(epochs=3)), Reuse(epochs=3))
    )
    charged = []
    for step, (batch, other) in enumerate(zip(mixed, reused, strict=True)):
        paid = set() if step % 3 == 0 else paid
        for i in range(BATCH):
            one, text = (jax.tree.map(lambda x, i=i: x[i], b.pairs) for b in (batch, other))
            if not same(one, text):
                continue
            name = b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(text))
            assert (int(batch.spent.tokens[i]) > 0) == (name not in paid)
            charged += [] if name in paid else [step]
            paid.add(name)
    assert {step % 3 for step in charged} >= {0, 1}


def test_mixtures_nest() -> None:
    """A half of a half: 1.5 of 6 on average; standard error of the mean at most 1 / sqrt(40) = 0.16."""
    source = Mixture(Offline(), Mixture(share=0.5), share=0.5)
    spent = [batch.spent for batch in batches(source, [shallow(1)] * 40)]
    fresh = [int(jnp.sum(ledger.judgements)) for ledger in spent]
    assert np.mean(fresh) == pytest.approx(1.5, abs=4 * 0.16)
    assert len(set(fresh)) > 1


def test_a_mixture_feeds_each_part_what_was_prepared_for_it() -> None:
    source = Mixture(Mixture(share=0.5), Replay(Recorded(made_run())), share=1.0)
    assert source.recorded_run == Recorded(made_run())
    assert isinstance(source.preparation, Mixture)
    policies = [shallow(1)] * 3
    mixed = batches(source, policies, with_prepared((None, made().recording)))
    alone = batches(Replay(), policies, with_prepared(made().recording))
    for found, expected in zip(mixed, alone, strict=True):
        assert same(found, expected)


def made_run() -> OnlineRun:
    return OnlineRun(Ipo(beta=0.1), RATE, STEPS, BATCH)


def test_reuse_gives_every_item_once_an_epoch() -> None:
    """Three epochs over two batches: the first in the order of writing, later ones shuffled, then fresh texts."""
    policies = [shallow(seed) for seed in range(12)]
    found = batches(Reuse(epochs=3, batches=2), policies)
    # Both batches of a round are written in its first step, by the policy of that step.
    expected = batches(Online(), [policies[i] for i in (0, 0, 6, 6)])

    def items(part: list[Batch]) -> list[bytes]:
        return sorted(
            b"".join(np.asarray(x)[i].tobytes() for x in jax.tree.leaves(batch.pairs))
            for batch in part
            for i in range(BATCH)
        )

    for around in range(2):
        written = expected[2 * around : 2 * around + 2]
        rounds = found[6 * around : 6 * around + 6]
        for i in range(2):
            assert same(rounds[i].pairs, written[i].pairs)
            assert same(rounds[i].spent, written[i].spent)
        for epoch in range(3):
            assert items(rounds[2 * epoch : 2 * epoch + 2]) == items(written)
        for later in rounds[2:]:
            assert float(jnp.sum(later.spent.pairs)) == BATCH
            rest = (later.spent.distinct, later.spent.judgements, later.spent.tokens)
            assert not any(np.any(x) for x in rest)
        assert not same(rounds[2].pairs, rounds[0].pairs)


def test_reuse_once_is_online() -> None:
    assert same(go(plan(Reuse(epochs=1))).policy, go(plan(Online())).policy)


def test_best_and_worst_of_two_is_online() -> None:
    policies = [shallow(seed) for seed in range(3)]
    for found, expected in zip(
        batches(BestWorstOfN(n=2), policies), batches(Online(), policies), strict=True
    ):
        assert same(found.pairs, expected.pairs)
        assert same(found.spent, expected.spent)
        np.testing.assert_allclose(found.reward_margin, expected.reward_margin, atol=1e-6)


def test_best_and_worst_of_four_are_the_extremes() -> None:
    given, policy = supply(), shallow(3)
    (batch,) = batches(BestWorstOfN(n=4), [policy])
    fresh = jax.random.fold_in(stream(KEY, Stream.SAMPLES), 0)
    prompts = given.prompts(batch.rows)
    texts = sample(policy, prompts, jax.random.split(fresh, BATCH), TIME, 4).response
    for i in range(BATCH):
        x = cut(prompts, i)
        rewards = [sum_reward(x, cut(texts, (i, k))) for k in range(4)]
        best, worst = (sum_reward(x, cut(r, i)) for r in (batch.pairs.winner, batch.pairs.loser))
        assert (best, worst) == pytest.approx((max(rewards), min(rewards)))
        assert float(batch.reward_margin[i]) == pytest.approx(best - worst, abs=1e-5)
    assert np.all(np.asarray(batch.spent.judgements) == 6)
    assert np.all(np.asarray(batch.spent.pairs) == 1)
    np.testing.assert_array_equal(batch.spent.tokens, np.sum(texts.length, axis=1))


def test_a_tournament_compares_every_two_once() -> None:
    """With a pairwise proxy: each entry is the margin of those two, the other way round its opposite."""
    given = supply()
    proxy = PairwiseProxy.init(jax.random.key(0), shallow(0).blocks[0].config, 7)
    proxy = eqx.tree_at(lambda p: p.reader.readout, proxy, jnp.ones_like(proxy.reader.readout))
    given = Supply(given.data, given.reference, proxy)
    rows = jnp.arange(BATCH)
    texts = sample(shallow(3), given.prompts(rows), jax.random.split(KEY, BATCH), TIME, 3).response
    table = np.asarray(jax.jit(compared)(given, rows, texts))
    assert np.all(table == -np.swapaxes(table, 1, 2))
    margin = jax.jit(lambda p, *x: p.margin(*x))
    for a, b in ((0, 1), (2, 1), (0, 2)):
        sides = [jax.tree.map(lambda x, k=k: x[:, k], texts) for k in (a, b)]
        expected = margin(proxy, given.prompts(rows), *sides)
        np.testing.assert_allclose(table[:, a, b], expected, atol=1e-5)


def generated(judge: str, teacher: Any = None, **shares: float) -> Any:
    source = Generated(recorded=Recorded(made_run()), judge=judge, **shares)
    given = supply()
    given = Supply(given.data, given.reference, teacher or given.teacher)
    labeler = BradleyTerry(temperature=5.0)
    parts = Given(given, made(), world(), labeler, KEY)
    data, facts = jax.jit(lambda s, g: s.prepare(g))(source, parts)
    noise = np.mean(np.asarray(data.golden_margin) < 0)
    assert float(facts["generated_label_noise"]) == pytest.approx(noise)
    rewards = [
        sum_reward(cut(data.pairs.prompt, i), cut(side, i))
        for i in range(PAIRS)
        for side in (data.pairs.winner, data.pairs.loser)
    ]
    assert float(facts["generated_quality"]) == pytest.approx(np.mean(rewards), abs=1e-5)
    return data


class Contrarian(GoldenPreference):
    """Prefers what the golden reward does not."""

    def margin(self, prompts: Any, first: Response, second: Response) -> jax.Array:
        return super().margin(prompts, second, first)


def test_generated_pairs_are_labelled_by_whom_they_should_be() -> None:
    golden, contrary, noisy = (
        generated("golden"),
        generated("proxy", Contrarian(world())),
        generated("labeler"),
    )
    assert np.all(np.asarray(golden.golden_margin) >= 0)
    assert np.all(np.asarray(contrary.golden_margin) <= 0)
    assert 0.1 < np.mean(np.asarray(noisy.golden_margin) < 0) < 0.9
    for data in (golden, contrary, noisy):
        for i in range(PAIRS):
            x = cut(data.pairs.prompt, i)
            winner, loser = cut(data.pairs.winner, i), cut(data.pairs.loser, i)
            by_hand = sum_reward(x, winner) - sum_reward(x, loser)
            assert float(data.golden_margin[i]) == pytest.approx(by_hand, abs=1e-5)
    for data in (golden, contrary):
        found = score_pairs(supply().reference, data.pairs)
        np.testing.assert_allclose(data.reference.winner, found.winner, atol=1e-5)
        np.testing.assert_allclose(data.reference.loser, found.loser, atol=1e-5)


def test_generated_texts_are_their_authors() -> None:
    """Each side is what its checkpoint writes, whoever wrote the other."""

    def texts(data: Any) -> list[set[bytes]]:
        sides = (np.asarray(data.pairs.winner.tokens), np.asarray(data.pairs.loser.tokens))
        return [{side[i].tobytes() for side in sides} for i in range(PAIRS)]

    sft_last = texts(generated("golden", first=0.0, second=1.0))
    last_last = texts(generated("golden", first=1.0, second=1.0))
    sft_early = texts(generated("golden", first=0.0, second=0.2))
    assert all(a & b for a, b in zip(sft_last, last_last, strict=True))
    assert all(a & b for a, b in zip(sft_last, sft_early, strict=True))
    assert sft_last != last_last


def test_generated_data_are_learnt_from_like_any() -> None:
    data = generated("golden")
    source = Generated(recorded=Recorded(made_run()))
    found = batches(source, [shallow(0)] * 5, with_prepared(data))
    like = batches(Offline(), [shallow(0)] * 5)
    for batch, other in zip(found, like, strict=True):
        np.testing.assert_array_equal(batch.rows, other.rows)
        expected = jax.tree.map(lambda x, i=batch.rows: x[i], data.pairs)
        assert same(batch.pairs, expected)
    last = found[-1].spent
    assert float(jnp.sum(last.distinct)) == 0
    assert int(jnp.sum(found[0].spent.labels)) == BATCH
    assert int(jnp.sum(found[0].spent.judgements)) == 0


def test_the_ledger_of_offline_counts_epochs() -> None:
    """Four batches are an epoch of 24 pairs: after six, 36 seen, 24 of them distinct and paid for."""
    ledger = go(plan(Offline()), steps=6).ledger
    assert jax.tree.map(float, vars(ledger)) == {
        "pairs": 36.0,
        "distinct": 24.0,
        "labels": 24.0,
        "judgements": 0.0,
        "tokens": 0.0,
    }


def test_the_ledger_of_online_counts_tokens() -> None:
    recording = made().recording
    assert recording is not None
    written = np.sum(recording.winner_length) + np.sum(recording.loser_length)
    ledger = go(plan(Online())).ledger
    assert jax.tree.map(float, vars(ledger)) == {
        "pairs": 60.0,
        "distinct": 60.0,
        "labels": 0.0,
        "judgements": 60.0,
        "tokens": float(written),
    }


def test_references_move_as_they_say() -> None:
    def number(x: float) -> PairScores:  # any module of arrays will do
        return PairScores(jnp.asarray(x), jnp.asarray(-x))

    def follow(reference: AbstractReference) -> list[float]:
        found, now = [], number(0.0)
        for step, policy in enumerate(map(number, (1.0, 2.0, 4.0, 8.0, 16.0))):
            now = reference.next(now, policy, jnp.asarray(step))
            found.append(float(now.winner))
        return found

    assert follow(Fixed()) == [0.0] * 5
    assert follow(Refreshed(every=2)) == [1.0, 1.0, 4.0, 4.0, 16.0]
    assert follow(Averaged(decay=0.5)) == [0.5, 1.25, 2.625, 5.3125, 10.65625]


def test_offline_scores_are_the_moving_references() -> None:
    """With a reference taken anew at every step h is 0 at every step, and Ipo's loss is (1/(2 beta))^2 = 25."""
    state = go(plan(Offline(), reference=Refreshed(every=1)), steps=4)
    assert float(state.loss) == pytest.approx(25.0, rel=1e-4)
    assert abs(float(go(plan(Offline()), steps=4).loss) - 25.0) > 1.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Reuse(source=Offline()), r"source must write fresh texts.*got Offline"),
        (lambda: BestWorstOfN(source=Replay()), r"source must write fresh texts.*got Replay"),
        (lambda: Snapshot(refresh_every=0), "refresh_every must be 1 or more, got 0"),
        (lambda: Mixture(share=1.5), "share must be between 0 and 1, got 1.5"),
        (lambda: Generated(first=0.5), r"first must be a checkpoint.*\(0, 0.2, 1\), got 0.5"),
        (lambda: Recorded(checkpoints=(0.5, 0.2)), "checkpoints must ascend between 0 and 1"),
        (lambda: Recorded(OnlineRun(steps=0)), "run.steps must be at least 1 to be recorded"),
        (
            lambda: Mixture(Replay(Recorded(OnlineRun(steps=5))), Replay()),
            "second must draw on the recorded run of first",
        ),
        (lambda: Averaged(decay=1.0), r"decay must be in \[0, 1\), got 1.0"),
        (
            lambda: init(plan(Replay()), with_prepared(tiny())),
            "batch_size must be at most the 2 recorded pairs, got 6",
        ),
    ],
)
def test_refusals(build: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build()


def tiny() -> Recording:
    return Recording.room(1, 2, TIME, jnp.uint8)

"""Recorded runs: the tandem identity bit for bit, recordings, replays in other orders, and data from checkpoints."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    BATCH,
    PAIRS,
    cut,
    score_pairs,
    shallow,
    sum_reward,
    training_inputs,
    world,
)
from training import KEY, RATE, STEPS, batches, go, made, made_run, plan, same, with_prepared

from envs.labelers.bradley_terry import BradleyTerry
from testbed.losses.dpo import Dpo
from testbed.losses.ipo import Ipo
from testbed.preference import GoldenPreference
from testbed.recorded_runs.pair_stream import shuffled
from testbed.recorded_runs.recorded_run import Given, Recorded
from testbed.references.refreshed import Refreshed
from testbed.source import Request, TrainingInputs, write_pairs
from testbed.sources.generated import Generated
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.sources.record import Record
from testbed.sources.replay import Replay
from testbed.train import OnlineRun
from testbed.types import Response


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
    moved = jax.tree.map(lambda a, b: np.any(a != b), online.policy, training_inputs().reference)
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


def test_a_recording_holds_what_was_learnt_from() -> None:
    """Tokens in a byte each; labels and scores as drawn; golden margins by hand."""
    recording, given = made().recording, training_inputs()
    assert recording is not None
    assert recording.winner.dtype == np.uint8
    policies = [go(plan(Online()), steps=step).policy for step in range(3)]
    for step, batch in enumerate(batches(Online(), policies)):
        held = jax.tree.map(lambda x, s=step: x[s], recording)
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


def generated(judge: str, teacher: Any = None, **shares: float) -> Any:
    source = Generated(recorded=Recorded(made_run()), judge=judge, **shares)
    given = training_inputs()
    given = TrainingInputs(given.data, given.reference, teacher or given.teacher)
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
        found = score_pairs(training_inputs().reference, data.pairs)
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

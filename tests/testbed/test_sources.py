"""Sources that write: what they give against what they should, to the last bit where promised; ledgers; references."""

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
    cut,
    init,
    sample,
    shallow,
    sum_reward,
    training_inputs,
    world,
)
from training import KEY, batches, go, made, made_run, plan, same, with_prepared

from testbed.errors import InvalidInput
from testbed.preference import GoldenPreference
from testbed.proxies.reader import ProxyConfig
from testbed.recorded_runs.pair_stream import Recording
from testbed.recorded_runs.recorded_run import Recorded
from testbed.references.averaged import Averaged
from testbed.references.base import AbstractReference
from testbed.references.fixed import Fixed
from testbed.references.refreshed import Refreshed
from testbed.source import AbstractSource, Batch, Request, TrainingInputs, write_pairs
from testbed.sources.best_worst_of_n import BestWorstOfN, compared
from testbed.sources.generated import Generated
from testbed.sources.mixture import Mixture
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.sources.record import Record
from testbed.sources.replay import Replay
from testbed.sources.reuse import Reuse
from testbed.sources.snapshot import Snapshot
from testbed.stages import online_run
from testbed.streams import Stream, stream
from testbed.train import OnlineRun
from testbed.types import PairScores


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


def test_mixtures_within_other_sources_choose_places_of_their_own() -> None:
    """With the places of the outer one, all that it takes would be the inner one's second part: the snapshot's."""
    policies = [shallow(0), *[shallow(3)] * 11]
    inner = Mixture(Online(), Snapshot(refresh_every=1000))
    source = Mixture(Offline(), BestWorstOfN(n=2, source=inner))
    assert source.depth == 1
    mixed, lagging = (batches(s, policies) for s in (source, Snapshot(refresh_every=1000)))
    others = 0
    for batch, other in zip(mixed[1:], lagging[1:], strict=True):
        for i in np.flatnonzero(np.asarray(batch.spent.judgements)):
            one, text = (jax.tree.map(lambda x, i=i: x[i], b.pairs) for b in (batch, other))
            others += not same(one, text)
    assert others


def test_a_mixture_feeds_each_part_what_was_prepared_for_it() -> None:
    source = Mixture(Mixture(share=0.5), Replay(Recorded(made_run())), share=1.0)
    assert source.recorded_run == Recorded(made_run())
    assert isinstance(source.preparation, Mixture)
    policies = [shallow(1)] * 3
    mixed = batches(source, policies, with_prepared((None, made().recording)))
    alone = batches(Replay(), policies, with_prepared(made().recording))
    for found, expected in zip(mixed, alone, strict=True):
        assert same(found, expected)


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
    given, policy = training_inputs(), shallow(3)
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
    given = training_inputs()
    proxy = ProxyConfig().init(jax.random.key(0), shallow(0).blocks[0].config, 7)
    proxy = eqx.tree_at(lambda p: p.reader.readout, proxy, jnp.ones_like(proxy.reader.readout))
    given = TrainingInputs(given.data, given.reference, proxy)
    rows = jnp.arange(BATCH)
    texts = sample(shallow(3), given.prompts(rows), jax.random.split(KEY, BATCH), TIME, 3).response
    table = np.asarray(jax.jit(compared)(given, rows, texts))
    assert np.all(table == -np.swapaxes(table, 1, 2))
    margin = jax.jit(lambda p, *x: p.margin(*x))
    for a, b in ((0, 1), (2, 1), (0, 2)):
        sides = [jax.tree.map(lambda x, k=k: x[:, k], texts) for k in (a, b)]
        expected = margin(proxy, given.prompts(rows), *sides)
        np.testing.assert_allclose(table[:, a, b], expected, atol=1e-5)


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
        (lambda: Snapshot(refresh_every=0), "refresh_every must be at least 1, got 0"),
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
            lambda: online_run.make(
                Recorded(OnlineRun(batch_size=PAIRS + 1)),
                training_inputs(),
                GoldenPreference(world()),
                KEY,
            ),
            "recorded.run.batch_size must be at most data.pairs=24, got 25",
        ),
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


@pytest.mark.parametrize(
    ("source", "work"),
    [
        (Offline(), (0.0, 0.0)),
        (Online(), (2.0, 1.0)),
        (Snapshot(), (2.0, 1.0)),
        (Mixture(), (2.0, 1.0)),
        (Reuse(epochs=4, batches=3), (0.5, 0.25)),
        (BestWorstOfN(n=4), (4.0, 6.0)),
        (BestWorstOfN(n=4, source=Reuse(epochs=2)), (2.0, 3.0)),
        (Record(), (2.0, 1.0)),
    ],
    ids=str,
)
def test_plans_count_what_is_written_and_judged(source: AbstractSource, work: tuple) -> None:
    assert source.work(Request(BATCH, write_pairs)) == work

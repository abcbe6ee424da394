"""The training loop, its optimiser, batches and sources: against float64 numpy, by hand, and bit for bit."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from helpers import (
    BATCH,
    PAIRS,
    SHALLOW,
    VOCABULARY,
    advance,
    cut,
    init,
    score_pairs,
    shallow,
    training_inputs,
)

from testbed import train
from testbed.batches import minibatch
from testbed.errors import InvalidInput
from testbed.losses.ipo import Ipo
from testbed.optimiser import FitConfig, OptimiserConfig, fit
from testbed.source import Batch, Ledger, Rows, TrainingInputs, taken
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.streams import Stream, stream
from testbed.train import TrainConfig
from testbed.types import PairScores

KEY = jax.random.key(2)


@jax.jit
def batch_loss(config: TrainConfig, policy, batch: Batch):
    return jax.value_and_grad(lambda p: config.loss.value(p, None, training_inputs(), batch))(
        policy
    )


def of_data(index) -> Batch:
    """A batch of some of the data's pairs."""
    rows = jnp.asarray(index)
    return taken(training_inputs(), training_inputs().data, rows, Ledger.zero(len(index)))


def plan(rate: float = 1e-2, beta: float = 0.1, source=None) -> TrainConfig:
    optimiser = OptimiserConfig(learning_rate=rate, warmup=2.0)
    return TrainConfig(source or Offline(), Ipo(beta=beta), optimiser, BATCH)


def go(
    config: TrainConfig, start: int, steps: int, state=None, given: TrainingInputs | None = None
):
    given = training_inputs() if given is None else given
    state = init(config, given) if state is None else state
    return advance(config, given, state, KEY, jnp.asarray(start), jnp.asarray(steps))


def assert_same(left, right) -> None:
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(left), jax.device_get(right))


def order_of_data(steps: int) -> np.ndarray:
    """The indices that each step of the run takes, by hand: a permutation an epoch."""
    per_epoch = PAIRS // BATCH
    epochs = [
        jax.random.permutation(jax.random.fold_in(stream(KEY, Stream.ORDER), epoch), PAIRS)
        for epoch in range(-(-steps // per_epoch))
    ]
    return np.concatenate(epochs).reshape(-1, BATCH)[:steps]


def test_gradient_equals_finite_differences_in_float64() -> None:
    """The batch loss and its slope in a random direction, against an independent float64 implementation."""
    config, policy = plan(), shallow(1)
    data = jax.tree.map(lambda x: x[:BATCH], training_inputs().data)
    value, gradient = batch_loss(config, policy, of_data(np.arange(BATCH)))
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda x: rng.standard_normal(x.shape), policy)

    def loss(shift: float) -> float:
        moved = jax.tree.map(lambda x, d: x.astype(np.float64) + shift * d, policy, direction)
        total = 0.0
        for i in range(BATCH):
            x = cut(data.pairs.prompt, i)
            winner, loser = (
                reference.token_logprobs(moved, x, cut(part, i)).sum()
                - reference.token_logprobs(shallow(0), x, cut(part, i)).sum()
                for part in (data.pairs.winner, data.pairs.loser)
            )
            total += (winner - loser - 1 / (2 * 0.1)) ** 2
        return total / BATCH

    slope = sum(
        np.sum(np.asarray(g) * d)
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    assert float(value) == pytest.approx(loss(0.0), rel=1e-5)
    assert float(slope) == pytest.approx((loss(1e-5) - loss(-1e-5)) / 2e-5, rel=1e-4)


def test_optimiser_by_hand() -> None:
    """Two steps of AdamW with a clipped global norm and a warm-up, from the formulas (Loshchilov and Hutter 2019,
    algorithm 2) in float64."""
    config = OptimiserConfig(
        learning_rate=0.3, warmup=4.0, clip=1.0, b1=0.8, b2=0.9, epsilon=1e-3, weight_decay=0.05
    )
    transform = config.transform()
    p = {"a": np.array([1.0, -2.0]), "b": np.array([0.5])}
    found = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), p)
    state = transform.init(found)
    m = v = {"a": np.zeros(2), "b": np.zeros(1)}
    for step, g in enumerate(
        (
            {"a": np.array([3.0, 0.0]), "b": np.array([4.0])},
            {"a": np.array([0.1, -0.2]), "b": np.array([0.2])},
        )
    ):
        updates, state = transform.update(jax.tree.map(jnp.float32, g), state, found)
        found = optax.apply_updates(found, updates)
        # Norm 5, so a fifth of it; then norm 0.3, so all of it.
        clipped = jax.tree.map(lambda x, step=step: x / 5.0 if step == 0 else x, g)
        m = jax.tree.map(lambda m, x: 0.8 * m + 0.2 * x, m, clipped)
        v = jax.tree.map(lambda v, x: 0.9 * v + 0.1 * x**2, v, clipped)
        rate = 0.3 * (step + 1) / 5
        p = jax.tree.map(
            lambda p, m, v, step=step, rate=rate: (
                p
                - rate
                * (
                    m / (1 - 0.8 ** (step + 1)) / (np.sqrt(v / (1 - 0.9 ** (step + 1))) + 1e-3)
                    + 0.05 * p
                )
            ),
            p,
            m,
            v,
        )
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), found, p)


def test_one_update_is_the_loss_of_the_batch_and_a_step_of_the_optimiser() -> None:
    config, given = plan(), training_inputs()
    state = go(config, 0, 1)
    index = order_of_data(1)[0]
    value, gradient = batch_loss(config, given.reference, of_data(index))
    assert float(state.loss) == pytest.approx(float(value), rel=1e-5)
    norm = np.sqrt(sum(float(np.sum(np.asarray(g) ** 2)) for g in jax.tree.leaves(gradient)))
    assert float(state.gradient_norm) == pytest.approx(norm, rel=1e-5)
    # Adam's first step is the rate times the sign, bar epsilon; the first of 3 warm-up steps is a third.
    for new, old, slope in zip(
        *map(jax.tree.leaves, (state.policy, given.reference, gradient)), strict=True
    ):
        clear = np.abs(slope) / norm > 1e-5
        expected = -np.sign(slope)[clear] * 1e-2 / 3
        np.testing.assert_allclose((new - old)[clear], expected, rtol=2e-2)


def test_two_halves_equal_one_go_bit_for_bit() -> None:
    for source in (Offline(), Online()):
        config = plan(source=source)
        whole = go(config, 0, 10)
        half = go(config, 5, 5, go(config, 0, 5))
        assert_same(
            (whole.policy, whole.optimiser, whole.source),
            (half.policy, half.optimiser, half.source),
        )
        halves = (float(half.loss) + float(go(config, 0, 5).loss)) / 2
        assert float(whole.loss) == pytest.approx(halves, rel=1e-5)


def test_a_step_changes_no_type() -> None:
    """Else the second call of a compiled program would compile it again."""
    config, given = plan(source=Online()), training_inputs()
    before = jax.eval_shape(train.init, config, given)
    clock = (jnp.asarray(0), jnp.asarray(1))
    after = jax.eval_shape(train.advance, config, given, before, KEY, *clock)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (old.shape, old.dtype, old.weak_type) == (new.shape, new.dtype, new.weak_type)


def test_no_steps_change_nothing() -> None:
    config = plan()
    state = go(config, 0, 3)
    still = go(config, 3, 0, state)
    assert_same(
        (still.policy, still.optimiser, still.source), (state.policy, state.optimiser, state.source)
    )
    assert int(still.diverged_step) == -1
    assert np.isnan(float(still.loss))
    assert np.isnan(float(still.gradient_norm))


def test_training_starts_from_the_reference() -> None:
    state = init(plan(), training_inputs())
    assert_same(state.policy, training_inputs().reference)
    assert int(state.diverged_step) == -1


def test_a_rate_that_explodes_is_frozen_at_its_first_step() -> None:
    config = plan(rate=1e30)
    state = go(config, 0, 6)
    assert int(state.diverged_step) == 0
    assert_same(state.policy, training_inputs().reference)
    # It stays frozen, and the step is not counted anew.
    later = go(config, 6, 6, state)
    assert int(later.diverged_step) == 0
    assert_same(later.policy, training_inputs().reference)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_divergence_is_marked_at_its_step_and_the_policy_kept(bad: float) -> None:
    """A poisoned reference score of one pair: the run is frozen as it was before the step that meets the pair."""
    config, clean = plan(), training_inputs()
    met = 3
    index = order_of_data(8)[met][0]
    assert index not in order_of_data(8)[:met]
    poisoned = clean.data.reference.winner.at[index].set(bad)
    given = eqx.tree_at(lambda s: s.data.reference.winner, clean, poisoned)
    state = go(config, 0, 8, given=given)
    assert int(state.diverged_step) == met
    expected = go(config, 0, met)
    assert_same((state.policy, state.optimiser), (expected.policy, expected.optimiser))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.policy))


@pytest.mark.parametrize(("size", "batch"), [(24, 6), (23, 6), (5, 5)])
def test_minibatches_cover_every_index_once_an_epoch(size: int, batch: int) -> None:
    """What does not fill a last batch is left out; every epoch has another order."""
    step = jax.jit(minibatch, static_argnums=3)
    order, key, per_epoch, epochs = jnp.arange(size), jax.random.key(0), size // batch, []
    for epoch in range(3):
        seen = []
        for position in range(per_epoch):
            order, index = step(order, key, jnp.asarray(epoch * per_epoch + position), batch)
            seen += index.tolist()
        assert len(set(seen)) == len(seen) == per_epoch * batch
        assert set(seen) <= set(range(size))
        epochs.append(tuple(seen))
    assert len(set(epochs)) == 3


@jax.jit
def draw(config: TrainConfig, given: TrainingInputs, policy, state, step):
    request = config.loss.request(config.batch_size)
    return config.source.draw(state, given, policy, request, KEY, step)


def test_sources_take_prompts_in_the_same_order() -> None:
    given, policy = training_inputs(), shallow(3)
    order = order_of_data(9)
    offline = online = Rows.init(PAIRS)
    for step in range(9):
        fixed, offline = draw(plan(), given, policy, offline, jnp.asarray(step))
        fresh, online = draw(plan(source=Online()), given, policy, online, jnp.asarray(step))
        expected = jax.tree.map(lambda x, step=step: x[order[step]], given.data)
        assert_same(fixed.pairs, expected.pairs)
        assert_same(fixed.reference, expected.reference)
        assert_same(fresh.pairs.prompt, expected.pairs.prompt)


def test_online_pairs_are_the_policys_labelled_and_scored() -> None:
    """The teacher never prefers the loser; both responses are likely under the policy that wrote them; the reference
    scores are those of float64 numpy; every step draws anew."""
    given, policy = training_inputs(), shallow(3)
    config = plan(source=Online())
    batches = [
        draw(config, given, policy, Rows.init(PAIRS), jnp.asarray(step))[0] for step in (0, 1)
    ]
    margin = jax.jit(lambda teacher, *comparison: teacher.margin(*comparison))
    for batch in batches:
        pairs = batch.pairs
        assert np.all(margin(given.teacher, pairs.prompt, pairs.winner, pairs.loser) >= 0)
        for part, scores in (
            (batch.pairs.winner, batch.reference.winner),
            (batch.pairs.loser, batch.reference.loser),
        ):
            for i in range(BATCH):
                x, y = cut(batch.pairs.prompt, i), cut(part, i)
                assert scores[i] == pytest.approx(
                    reference.token_logprobs(shallow(0), x, y).sum(), abs=2e-5
                )
    assert np.any(batches[0].pairs.winner.tokens != batches[0].pairs.loser.tokens)
    assert np.any(batches[0].pairs.winner.tokens != batches[1].pairs.winner.tokens)


def test_online_samples_follow_the_policy() -> None:
    """A policy that all but surely writes token 3 is drawn from, not the reference."""
    given, start = training_inputs(), shallow(0)
    # Every embedding is the same large vector, beside which blocks change nothing; the head reads token 3 from it.
    alike = np.full_like(np.asarray(start.embedding), 1e4)
    head = np.zeros((SHALLOW.width, VOCABULARY), np.float32)
    head[:, 3] = 2.0
    policy = eqx.tree_at(lambda m: (m.embedding, m.head), start, (alike, head))
    for rollout, surely in ((policy, True), (start, False)):
        batch, _ = draw(plan(source=Online()), given, rollout, Rows.init(PAIRS), jnp.asarray(0))
        texts = (batch.pairs.winner, batch.pairs.loser)
        tokens = np.concatenate([cut(part, i) for part in texts for i in range(BATCH)])
        assert (set(tokens.tolist()) == {3}) is surely


def fitted(config: FitConfig, data: np.ndarray) -> tuple[float, float]:
    """The number that least squares to ``data`` finds from 0, and the loss that is reported."""

    @jax.jit
    def run(start, data):
        return fit(lambda x, batch: (batch[:, 0] - x) ** 2, start, data, config, KEY)

    found, loss = run(jnp.asarray(0.0), jnp.asarray(data))
    return float(found), float(loss)


def stepped(target: float, shares: Sequence[float]) -> list[float]:
    """The numbers before, between and after Adam's steps from 0 to ``target`` at rate 0.1, of which each step has a
    share."""
    x, m, v, found = 0.0, 0.0, 0.0, [0.0]
    for step, share in enumerate(shares, start=1):
        g = float(np.clip(-2 * (target - x), -1.0, 1.0))
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        x -= 0.1 * share * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.99**step)) + 1e-8)
        found.append(x)
    return found


FAST = OptimiserConfig(learning_rate=0.1, warmup=0.0)


def test_fit_minimises_and_reports_the_last_tenth() -> None:
    """Least squares to one number: Adam reaches it, and the reported loss is the mean of the last 10 steps."""
    found, loss = fitted(FitConfig(100, 4, FAST), np.full((8, 1), 3.0, np.float32))
    assert found == pytest.approx(3.0, abs=0.1)
    expected = stepped(3.0, [1.0] * 100)
    assert found == pytest.approx(expected[-1], abs=1e-3)
    last = np.mean([(3.0 - x) ** 2 for x in expected[90:100]])
    assert loss == pytest.approx(last, rel=0.02, abs=1e-5)


def test_the_rate_falls_linearly_over_the_last_share_of_the_steps() -> None:
    """Of 20 steps with a decay of 0.4 the first 12 have the whole rate, the next 7/8, and the last 1/8 of it."""
    found, _ = fitted(FitConfig(20, 4, FAST, decay=0.4), np.full((8, 1), 3.0, np.float32))
    shares = [1.0] * 13 + [k / 8 for k in range(7, 0, -1)]
    assert found == pytest.approx(stepped(3.0, shares)[-1], abs=1e-4)
    assert abs(found - stepped(3.0, [1.0] * 20)[-1]) > 0.1


def test_early_stopping_keeps_the_model_with_the_least_loss_on_examples_that_no_step_learns_from() -> (
    None
):
    """Training goes to 3, the held-out examples lie at 1: of the eight checks, every second step, the one nearest to 1
    is kept, and what is reported is the training loss to the end."""
    data = np.array([3.0] * 8 + [1.0] * 4, np.float32)[:, None]
    found, loss = fitted(FitConfig(16, 4, FAST, validation=4), data)
    way = stepped(3.0, [1.0] * 16)
    best = min(way[2::2], key=lambda x: abs(x - 1.0))
    assert 0.0 < best < way[-1] - 0.3
    assert found == pytest.approx(best, abs=1e-4)
    assert loss == pytest.approx((3.0 - way[15]) ** 2, abs=1e-3)


def test_a_fit_must_have_a_batch_to_learn_from() -> None:
    with pytest.raises(
        InvalidInput, match="validation must leave a batch of 4 of the 8 examples, got 5"
    ):
        fitted(FitConfig(2, 4, FAST, validation=5), np.ones((8, 1), np.float32))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("clip", -1.0),
        ("epsilon", 0.0),
        ("warmup", -1.0),
        ("weight_decay", float("inf")),
        ("b1", 1.0),
        ("b2", -0.1),
        ("b2", float("nan")),
    ],
)
def test_bad_optimisers_are_refused(field: str, value: float) -> None:
    with pytest.raises(InvalidInput, match=f"^{field} must be .*, got {value}$"):
        OptimiserConfig(**{field: value})


def test_scores_of_a_pair_are_its_own() -> None:
    """No example of a batch leaks into another: each score depends on its pair alone."""
    data = training_inputs().data
    scores = score_pairs(shallow(1), data.pairs)
    assert isinstance(scores, PairScores)
    swapped = jax.tree.map(lambda x: x[::-1], data.pairs)
    again = score_pairs(shallow(1), swapped)
    np.testing.assert_allclose(scores.winner, again.winner[::-1], atol=1e-5)

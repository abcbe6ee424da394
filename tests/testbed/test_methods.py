"""Methods that write their own texts: values by hand and in float64 numpy, what they ask of a source, and the mixture
that one of them plays against."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import (
    BATCH,
    TIME,
    VOCABULARY,
    advance,
    cut,
    init,
    model,
    prompts,
    responses,
    shallow,
    sum_reward,
    training_inputs,
)
from helpers import sample as decode_sample
from scipy import stats

from testbed import decode, logprob
from testbed.config import members
from testbed.errors import InvalidInput
from testbed.losses.best_of_two import BestOfTwo
from testbed.losses.ipo import Ipo
from testbed.methods.base import AbstractPolicyGradient, Rollouts, write_group
from testbed.methods.best_of_n import BestOfN
from testbed.methods.grpo import Grpo
from testbed.methods.hypo import Hypo
from testbed.methods.nash_md import NashMd
from testbed.methods.ppo import Ppo, estimated, whitened
from testbed.methods.reinforce import Reinforce
from testbed.methods.rloo import Rloo
from testbed.methods.xpo import Xpo
from testbed.objective import AbstractObjective
from testbed.optimiser import OptimiserConfig
from testbed.policies.geometric_mixture import Geometric, mix
from testbed.policies.tabular import Tabular
from testbed.source import Ledger
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.train import TrainConfig
from testbed.types import Response

METHODS = members(AbstractObjective, "testbed.methods")
N, COUNT = BATCH, 2
sample_mixture = jax.jit(decode.sample, static_argnames=("time", "count"))


def traced(method: Any) -> Any:
    return jax.tree.map(jnp.asarray, method)


@jax.jit
def _value_and_slope(method, given, policy, critic, batch):
    return jax.value_and_grad(lambda trained: method.value(*trained, given, batch))(
        (policy, critic)
    )


def value_and_slope(method, policy, critic, batch):
    """Of policy and critic; no implicit promotion of dtypes."""
    with jax.numpy_dtype_promotion("strict"):
        return _value_and_slope(method, training_inputs(), policy, critic, batch)


def value(method, policy, batch, critic=None) -> float:
    return float(value_and_slope(method, policy, critic, batch)[0])


@functools.cache
def rollouts(count: int = COUNT, junk: int = 0) -> Rollouts:
    """Responses of every length by nobody in particular, with made-up log-probabilities and rewards."""
    rng = np.random.default_rng(0)
    texts = responses(N * count, seed=3, junk=junk)
    texts = jax.tree.map(lambda x: x.reshape(N, count, *x.shape[1:]), texts)
    mask = np.asarray(texts.mask)
    behaviour, anchor = (np.where(mask, rng.normal(-1.9, 0.4, mask.shape), 0) for _ in range(2))
    return Rollouts(
        prompts(N, junk=junk),
        texts,
        *(jnp.asarray(x, jnp.float32) for x in (behaviour, anchor, rng.normal(size=(N, count)))),
        jnp.arange(N),
        Ledger.zero(N),
    )


@functools.cache
def scored(count: int = COUNT) -> tuple[np.ndarray, ...]:
    """In float64: the policy's log-probabilities of the tokens of `rollouts`, those of writer and reference, mask."""
    batch = rollouts(count)
    ours = np.zeros(batch.behaviour.shape)
    for i, j in np.ndindex(N, count):
        text = cut(batch.responses, (i, j))
        ours[i, j, : len(text)] = reference.token_logprobs(shallow(1), cut(batch.prompts, i), text)
    rest = (np.asarray(x, np.float64) for x in (batch.behaviour, batch.reference))
    return ours, *rest, np.asarray(batch.responses.mask)


def others(x: np.ndarray, axis: int) -> np.ndarray:
    """The mean of all others along an axis, one by one."""
    found = np.zeros_like(x)
    for i in range(x.shape[axis]):
        rest = np.delete(x, i, axis=axis).mean(axis=axis)
        np.moveaxis(found, axis, 0)[i] = rest
    return found


def penalties(ours: np.ndarray, anchor: np.ndarray, kind: str) -> np.ndarray:
    r = np.exp(anchor - ours)
    return {"k1": -np.log(r), "k2": np.log(r) ** 2 / 2, "k3": r - 1 - np.log(r)}[kind]


@pytest.mark.parametrize("kl", ["reward", "k1", "k2", "k3"])
@pytest.mark.parametrize("kind", [Rloo, Reinforce])
def test_whole_response_gradients(kind: type, kl: str) -> None:
    """-A pi/behaviour, in float64; A leaves out the response itself."""
    method = Rloo(beta=0.3, kl=kl, group=2) if kind is Rloo else Reinforce(beta=0.3, kl=kl)
    count = method.count
    ours, behaviour, anchor, _ = scored(count)
    returns = np.asarray(rollouts(count).reward, np.float64)
    if kl == "reward":
        returns = returns - 0.3 * (ours - anchor).sum(-1)
    advantage = returns - others(returns, axis=1 if kind is Rloo else 0)
    losses = -advantage * np.exp((ours - behaviour).sum(-1))
    if kl != "reward":
        losses = losses + 0.3 * penalties(ours, anchor, kl).sum(-1)
    assert value(method, shallow(1), rollouts(count)) == pytest.approx(losses.mean(), rel=1e-4)


@pytest.mark.parametrize("normalise", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("kl", ["reward", "k3"])
def test_grpo(kl: str, normalise: tuple[bool, bool]) -> None:
    """In float64. Among the tokens are ratios beyond both ends of the clip, for gains and for losses."""
    std, length = normalise
    method = Grpo(beta=0.3, kl=kl, group=2, normalise_std=std, normalise_length=length)
    ours, behaviour, anchor, mask = scored()
    returns = np.asarray(rollouts().reward, np.float64)
    if kl == "reward":
        returns = returns - 0.3 * (ours - anchor).sum(-1)
    advantage = returns - returns.mean(1, keepdims=True)
    if std:
        advantage = advantage / (returns.std(1, ddof=1, keepdims=True) + 1e-4)
    weight, gain = np.exp(ours - behaviour), advantage[..., None] * np.ones(TIME)
    for beyond in (weight > 1.2, weight < 0.8):
        assert (beyond & mask & (gain > 0)).any()
        assert (beyond & mask & (gain < 0)).any()
    tokens = -np.minimum(weight * gain, np.clip(weight, 0.8, 1.2) * gain)
    if kl == "k3":
        tokens = tokens + 0.3 * penalties(ours, anchor, "k3")
    total = (tokens * mask).sum(-1) / (mask.sum(-1) if length else 1)
    assert value(method, shallow(1), rollouts()) == pytest.approx(total.mean(), rel=1e-4)


def test_clipping_by_hand() -> None:
    """One token, ratio 2 or 1/2, clip 0.2, advantage +-1/2 of returns 1 and 0: a gain's ratio is cut at 1.2, a loss's
    at 0.8, and only what is cut has no slope."""
    one = Response(jnp.zeros((1, 2, 1), jnp.int32), jnp.ones((1, 2), jnp.int32))
    zeros = jnp.zeros((1, 2, 1))
    batch = Rollouts(
        prompts(1),
        one,
        zeros,
        zeros,
        jnp.array([[1.0, 0.0]]),
        jnp.zeros(1, jnp.int32),
        Ledger.zero(1),
    )
    method = traced(Grpo(beta=0.0, group=2, normalise_std=False))
    returns = batch.reward
    loss = jax.jit(
        jax.value_and_grad(lambda x: jnp.sum(method.losses(x[None, :, None], batch, returns)))
    )
    for ratios, expected, slope in (
        ((2.0, 2.0), -0.5 * 1.2 + 0.5 * 2.0, (0.0, 0.5 * 2.0)),
        ((0.5, 0.5), -0.5 * 0.5 + 0.5 * 0.8, (-0.5 * 0.5, 0.0)),
        ((1.1, 0.9), -0.5 * 1.1 + 0.5 * 0.9, (-0.5 * 1.1, 0.5 * 0.9)),
    ):
        found, by = loss(jnp.log(jnp.array(ratios)))
        assert float(found) == pytest.approx(expected, rel=1e-6)
        np.testing.assert_allclose(by, slope, rtol=1e-6)


def test_equal_returns_teach_nothing() -> None:
    """A group without a difference has no gradient, and no NaN."""
    batch = eqx.tree_at(lambda b: b.reward, rollouts(), jnp.ones((N, COUNT)))
    for std in (True, False):
        method = Grpo(beta=0.0, group=2, normalise_std=std)
        found, slope = value_and_slope(method, shallow(1), None, batch)
        assert float(found) == 0.0
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(slope))


def test_advantages_by_hand() -> None:
    """Rewards 0 0 1 and values 0.5 0.6 0.8, no discount: differences 0.1 0.2 0.2; with lambda 1/2, from the back, 0.2,
    0.2 + 0.1 and 0.1 + 0.15. A second response ends after its first token."""
    rewards = jnp.array([[[0.0, 0.0, 1.0], [2.0, 0.0, 0.0]]])
    values = jnp.array([[[0.5, 0.6, 0.8], [0.5, 0.0, 0.0]]])
    found = estimated(rewards, values, 1.0, 0.5)
    np.testing.assert_allclose(found, [[[0.25, 0.3, 0.2], [1.5, 0.0, 0.0]]], atol=1e-6)
    # Returns less values, and one-step differences.
    np.testing.assert_allclose(
        estimated(rewards, values, 1.0, 1.0)[0, 0], [0.5, 0.4, 0.2], atol=1e-6
    )
    np.testing.assert_allclose(
        estimated(rewards, values, 1.0, 0.0)[0, 0], [0.1, 0.2, 0.2], atol=1e-6
    )
    # Discount 0.9: 0.9 * 0.6 - 0.5, 0.9 * 0.8 - 0.6, 0.2; times 0.45 a step.
    expected = [0.04 + 0.45 * (0.12 + 0.45 * 0.2), 0.12 + 0.45 * 0.2, 0.2]
    np.testing.assert_allclose(estimated(rewards, values, 0.9, 0.5)[0, 0], expected, atol=1e-6)


def test_whitening() -> None:
    """Over the tokens that are there: 1 2 3 6, mean 3, variance 14/3."""
    advantages = jnp.array([[[1.0, 2.0, 99.0]], [[3.0, 6.0, -5.0]]])
    mask = jnp.array([[[True, True, False]], [[True, True, False]]])
    expected = np.array([[[-2.0, -1.0, 0.0]], [[0.0, 3.0, 0.0]]]) / np.sqrt(14 / 3)
    np.testing.assert_allclose(whitened(advantages, mask), expected, rtol=1e-6)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("kl", ["reward", "k2"])
def test_ppo(kl: str, whiten: bool) -> None:
    """In float64, token by token, with values from the hidden states that the logits come from."""
    method = Ppo(beta=0.3, kl=kl, value_weight=0.7, discount=0.9, gae_lambda=0.8, whiten=whiten)
    ours, behaviour, anchor, mask = scored(1)
    batch, net = rollouts(1), shallow(1)
    weight = np.random.default_rng(8).normal(size=net.config.width)
    head = (jnp.asarray(weight, jnp.float32), jnp.asarray(0.4))
    hidden = np.asarray(hidden_states(net, batch.prompts, batch.responses), np.float64)
    values = np.where(mask, hidden.reshape(*mask.shape, -1) @ weight + 0.4, 0.0)
    gains, targets = np.zeros_like(values), np.zeros_like(values)
    for i in range(N):
        last, gain = int(batch.responses.length[i, 0]) - 1, 0.0
        for t in range(last, -1, -1):
            r = float(batch.reward[i, 0]) if t == last else 0.0
            r -= 0.3 * (ours - anchor)[i, 0, t] if kl == "reward" else 0.0
            later = values[i, 0, t + 1] if t < last else 0.0
            gain = r + 0.9 * later - values[i, 0, t] + 0.9 * 0.8 * gain
            gains[i, 0, t], targets[i, 0, t] = gain, gain + values[i, 0, t]
    if whiten:
        centred = gains - gains[mask].mean()
        gains = centred / np.sqrt(gains[mask].var(ddof=1))
    ratio = np.exp(ours - behaviour)
    tokens = -np.minimum(ratio * gains, np.clip(ratio, 0.8, 1.2) * gains)
    tokens = tokens + 0.7 * 0.5 * (values - targets) ** 2
    if kl != "reward":
        tokens = tokens + 0.3 * penalties(ours, anchor, kl)
    expected = (tokens * mask).sum(-1).mean()
    assert value(method, net, batch, head) == pytest.approx(expected, rel=2e-4)


hidden_states = jax.jit(logprob.response_hidden)


def test_value_loss_reaches_the_trunk_if_it_is_shared() -> None:
    """Without rewards, penalty and values there is nothing to gain; the value loss alone is left."""
    batch = eqx.tree_at(lambda b: b.reward, rollouts(1), jnp.zeros((N, 1)))
    head = (jnp.ones(shallow(1).config.width), jnp.asarray(0.3))
    for shared in (True, False):
        method = Ppo(beta=0.0, value_weight=1.0, shared_trunk=shared, gae_lambda=1.0)
        silent = eqx.tree_at(lambda b: b.behaviour, batch, batch.behaviour)
        _, (trunk, own) = value_and_slope(method, shallow(1), head, silent)
        without = eqx.tree_at(lambda m: m.value_weight, method, 0.0)
        _, (plain, none) = value_and_slope(without, shallow(1), head, silent)
        differ = [
            bool(np.any(a != b)) for a, b in zip(*map(jax.tree.leaves, (trunk, plain)), strict=True)
        ]
        assert any(differ) == shared
        assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(own))
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(none))


POLICY_GRADIENTS = {
    name: kind for name, kind in METHODS.items() if issubclass(kind, AbstractPolicyGradient)
}


def small(kind: type) -> Any:
    """A method that asks for few responses."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: 2 for name in ("group", "n") if name in names})


@pytest.mark.parametrize("kind", POLICY_GRADIENTS.values(), ids=POLICY_GRADIENTS)
def test_padding_and_the_order_of_prompts_do_not_matter(kind: type) -> None:
    method = small(kind)
    critic = method.critic(shallow(1))
    plain, slope = value_and_slope(method, shallow(1), critic, rollouts(method.count))
    junk, junk_slope = value_and_slope(
        traced(method), shallow(1), critic, rollouts(method.count, junk=2)
    )
    turned, _ = value_and_slope(
        traced(method),
        shallow(1),
        critic,
        jax.tree.map(lambda x: jnp.flip(x, axis=0), rollouts(method.count)),
    )
    assert float(junk) == pytest.approx(float(plain), rel=1e-5)
    assert float(turned) == pytest.approx(float(plain), rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), slope, junk_slope
    )


@pytest.mark.parametrize("kl", ["reward", "k3"])
@pytest.mark.parametrize("kind", POLICY_GRADIENTS.values(), ids=POLICY_GRADIENTS)
def test_everything_stays_finite(kind: type, kl: str) -> None:
    """Also where policy, writer and reference are hundreds of nats apart."""
    method = eqx.tree_at(lambda m: m.beta, small(kind), 0.3)
    method = dataclasses.replace(method, kl=kl)
    batch = rollouts(method.count)
    far = jnp.where(batch.responses.mask, -300.0, 0.0)
    with jax.numpy_dtype_promotion("strict"):
        for place in (lambda b: b.behaviour, lambda b: b.reference):
            for shift in (far, -far):
                found = value_and_slope(
                    traced(method),
                    shallow(1),
                    method.critic(shallow(1)),
                    eqx.tree_at(place, batch, shift),
                )
                assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))


@functools.partial(jax.jit, static_argnames="kind")
def _write(kind: type, given, policy, rows, key):
    return small(kind).request(len(rows)).rollout(given, policy, rows, key)


def write(kind: type, policy, rows, key):
    """What the rollout function of a method gives."""
    return _write(kind, training_inputs(), policy, rows, key)


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_ledgers(kind: type) -> None:
    """A group of k responses is k/2 pairs; tokens are all that were sampled, labels none."""
    rows = jnp.arange(BATCH)
    spent = write(kind, shallow(3), rows, jax.random.key(1)).spent
    count = {"Reinforce": 1, "Ppo": 1}.get(kind.__name__, 2)
    paired = {"Reinforce": 1, "Ppo": 1, "Rloo": 2, "Grpo": 2, "BestOfN": 2}
    paired |= dict.fromkeys(("NashMd", "Hypo", "Xpo"), 1)
    # Of a method that is added, as its request says.
    judgements = paired.get(kind.__name__) or kind().request(BATCH).judgements
    assert np.all(spent.pairs == count / 2)
    assert np.all(spent.distinct == spent.pairs)
    assert np.all(spent.judgements == judgements)
    assert np.all(spent.labels == 0)
    assert np.all((spent.tokens >= count) & (spent.tokens <= count * TIME))


def test_rollouts_are_the_policys_and_scored() -> None:
    """Behaviour and reference scores against float64 numpy, rewards by hand over the data's preferred responses."""
    rows, given = jnp.array([3, 0, 7, 3, 9, 1]), training_inputs()
    texts = write(Rloo, shallow(3), rows, jax.random.key(2))
    assert np.sum(texts.spent.tokens) == np.sum(texts.responses.length)
    for i, row in enumerate(np.asarray(rows)):
        x, rival = cut(given.data.pairs.prompt, row), cut(given.data.pairs.winner, row)
        np.testing.assert_array_equal(cut(texts.prompts, i), x)
        for j in range(2):
            y = cut(texts.responses, (i, j))
            for net, scores in ((shallow(3), texts.behaviour), (shallow(0), texts.reference)):
                found = reference.token_logprobs(net, x, y)
                np.testing.assert_allclose(scores[i, j, : len(y)], found, atol=2e-5)
                assert np.all(scores[i, j, len(y) :] == 0)
            gain = sum_reward(x, y) - sum_reward(x, rival)
            assert float(texts.reward[i, j]) == pytest.approx(gain, abs=1e-5)


def test_groups_of_a_size_have_one_author() -> None:
    """Compiled programs are found by it."""
    assert Rloo(beta=0.1).request(4) == Rloo(beta=0.7).request(4)
    assert write_group(3) is write_group(3)
    assert write_group(3) is not write_group(4)


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_who_learns_from_data(kind: type) -> None:
    if kind is Hypo:
        Hypo().refuse(Offline())
        return
    what = "is a policy gradient: it learns" if kind in POLICY_GRADIENTS.values() else "learns"
    sentence = (
        rf"^loss {kind.__name__} {what} from responses that the policy has just written, and Offline gives it "
        r"others': use source Online\(\), Snapshot\(refresh_every=\.\.\.\) or Reuse\(epochs=\.\.\.\)$"
    )
    with pytest.raises(InvalidInput, match=sentence):
        TrainConfig(Offline(), kind(), OptimiserConfig(), BATCH)
    TrainConfig(Online(), kind(), OptimiserConfig(), BATCH)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"^batch_size must be 2 or more for the baseline"):
        Reinforce().request(1)
    assert Reinforce(baseline="none").request(1).batch_size == 1
    for make in (
        lambda: Rloo(group=1),
        lambda: Grpo(clip=0.0),
        lambda: Ppo(gae_lambda=1.1),
        lambda: Ppo(discount=0.0),
        lambda: NashMd(mixing=-0.1),
        lambda: Xpo(beta=0.0),
        lambda: BestOfN(n=0),
        lambda: Hypo(kl_weight=-1.0),
    ):
        with pytest.raises(InvalidInput, match=" must be "):
            make()


def test_values_are_trained_along() -> None:
    """Three steps online move the policy and every parameter of its critic."""
    optimiser = OptimiserConfig(learning_rate=3e-3, warmup=0.0)
    config, given = TrainConfig(Online(), Ppo(), optimiser, BATCH), training_inputs()
    start = init(config, given)
    state = advance(config, given, start, jax.random.key(1), jnp.asarray(0), jnp.asarray(3))
    assert int(state.diverged_step) == -1
    assert np.isfinite(float(state.loss))
    moved = jax.tree.map(
        lambda a, b: np.any(a != b), (state.policy, state.critic), (start.policy, start.critic)
    )
    assert all(jax.tree.leaves(moved))


def test_best_of_two_is_online_best_of_two() -> None:
    """The same texts, the same choice, the same loss, if the teacher compares rewards."""
    optimiser, given = OptimiserConfig(learning_rate=3e-3, warmup=0.0), training_inputs()
    states = []
    for loss in (BestOfN(n=2), BestOfTwo()):
        config = TrainConfig(Online(), loss, optimiser, BATCH)
        key = jax.random.key(4)
        states.append(
            advance(config, given, init(config, given), key, jnp.asarray(0), jnp.asarray(3))
        )
    assert float(states[0].loss) == pytest.approx(float(states[1].loss), rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), states[0].policy, states[1].policy
    )


def test_best_of_n_keeps_the_best() -> None:
    rows, key = jnp.arange(BATCH), jax.random.key(3)
    best = write(BestOfN, shallow(3), rows, key)
    keys = jax.random.split(key, BATCH)
    asked = training_inputs().prompts(rows)
    texts = decode_sample(shallow(3), asked, keys, time=TIME, count=2).response
    for i in range(BATCH):
        rewards = [sum_reward(cut(asked, i), cut(texts, (i, j))) for j in range(2)]
        np.testing.assert_array_equal(
            cut(best.responses, (i, 0)), cut(texts, (i, int(np.argmax(rewards))))
        )
    expected = [
        -reference.token_logprobs(shallow(1), cut(asked, i), cut(best.responses, (i, 0))).sum()
        for i in range(BATCH)
    ]
    assert value(BestOfN(n=2), shallow(1), best) == pytest.approx(np.mean(expected), rel=1e-5)


def test_xpo() -> None:
    """-log sigmoid(beta h) + alpha log pi of the reference's response, in float64; whose response won is known."""
    rows = jnp.arange(BATCH)
    batch = write(Xpo, shallow(3), rows, jax.random.key(6))
    assert np.any(batch.reference_won)
    assert not np.all(batch.reference_won)
    losses = []
    for i in range(BATCH):
        x, pair = (
            cut(batch.pairs.prompt, i),
            [cut(batch.pairs.winner, i), cut(batch.pairs.loser, i)],
        )
        assert sum_reward(x, pair[0]) >= sum_reward(x, pair[1])
        ours, theirs = (
            [reference.token_logprobs(net, x, y).sum() for y in pair]
            for net in (shallow(1), shallow(0))
        )
        h = ours[0] - theirs[0] - ours[1] + theirs[1]
        explored = ours[0 if batch.reference_won[i] else 1]
        losses.append(-reference.log_sigmoid(0.2 * h) + 0.05 * explored)
    found = value(Xpo(beta=0.2, alpha=0.05), shallow(1), batch)
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


def test_xpo_plays_the_reference() -> None:
    """The same keys give the reference the same texts, whoever it plays, and which of a pair is its own is known."""
    theirs = []
    for policy in (shallow(3), shallow(0)):
        batch = write(Xpo, policy, jnp.arange(BATCH), jax.random.key(6))
        won, pairs = np.asarray(batch.reference_won)[:, None], batch.pairs
        theirs.append(np.where(won, pairs.winner.tokens, pairs.loser.tokens))
    np.testing.assert_array_equal(*theirs)


def test_hypo_is_its_loss_and_a_penalty() -> None:
    """From data, whose batches carry no fresh text; a weight of 0 leaves the loss, and tokens are booked."""
    policy = shallow(3)
    config = TrainConfig(
        Offline(), Hypo(loss=Ipo(beta=0.2), kl_weight=0.5), OptimiserConfig(), BATCH
    )

    @jax.jit
    def run(loss, given, policy):
        key, step = jax.random.key(2), jnp.asarray(4)
        request = loss.request(BATCH)
        state = config.source.init(given, policy, request)
        batch, _ = config.source.draw(state, given, policy, request, key, step)
        ready = loss.prepare(batch, given, policy, key, step)
        plain = loss.loss.value(policy, None, given, batch)
        return batch, ready, plain, loss.value(policy, None, given, ready)

    batch, ready, plain, total = run(traced(config.loss), training_inputs(), policy)
    ratios = []
    for i in range(BATCH):
        for j in range(2):
            x, y = cut(batch.pairs.prompt, i), cut(ready.responses, (i, j))
            scores = [reference.token_logprobs(net, x, y).sum() for net in (policy, shallow(0))]
            ratios.append(scores[0] - scores[1])
    assert float(total - plain) == pytest.approx(0.5 * np.mean(ratios), rel=1e-3)
    np.testing.assert_array_equal(ready.spent.tokens, np.asarray(ready.responses.length).sum(1))
    np.testing.assert_array_equal(ready.spent.pairs, batch.spent.pairs)
    without = eqx.tree_at(lambda m: m.kl_weight, traced(config.loss), jnp.asarray(0.0))
    assert float(run(without, training_inputs(), policy)[3]) == float(plain)


def test_a_mixture_that_weighs_one_policy_is_that_policy() -> None:
    """To the last bit of its tokens; its log-probabilities are of the mixture."""
    keys, given = jax.random.split(jax.random.key(7), N), prompts(N)
    for weight, alone in ((0.0, model(1)), (1.0, model(2))):
        both = Geometric(model(1), model(2), jnp.asarray(weight))
        found = sample_mixture(both, given, keys, time=TIME, count=3)
        expected = decode_sample(alone, given, keys, time=TIME, count=3)
        np.testing.assert_array_equal(found.response.tokens, expected.response.tokens)
        np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-6)


def test_mixed_transformers_multiply_next_token_probabilities() -> None:
    """Log-probabilities of 20,000 samples against float64 numpy, and their frequencies by chi-square over two tokens
    (cells below 10 pooled; a correct sampler fails with probability 1e-4)."""
    weight, count, asked = 0.3, 20_000, prompts(1, seed=3)
    keys = jax.random.split(jax.random.key(11), 1)
    both = Geometric(model(1), model(2), jnp.asarray(weight))
    found = sample_mixture(both, asked, keys, time=2, count=count)
    tokens, x = np.asarray(found.response.tokens)[0], cut(asked, 0)

    def next_token(prefix: list[int]) -> np.ndarray:
        text = [*prefix, 1]
        parts = [
            reference.next_token_logprobs(net, x, text)[len(prefix)] for net in (model(1), model(2))
        ]
        return reference.log_softmax(0.7 * parts[0] + 0.3 * parts[1])

    first = next_token([])
    expected = np.zeros((VOCABULARY, VOCABULARY))
    expected[0, 0] = np.exp(first[0])
    for token in range(1, VOCABULARY):
        second = next_token([token])
        expected[token] = np.exp(first[token] + second)
        mine = np.flatnonzero(tokens[:, 0] == token)[:5]
        scores = np.asarray(found.logprobs)[0, mine]
        np.testing.assert_allclose(scores[:, 0], first[token], atol=1e-5)
        np.testing.assert_allclose(scores[:, 1], second[tokens[mine, 1]], atol=1e-5)
    expected = count * expected.ravel()
    observed = np.bincount(tokens[:, 0] * VOCABULARY + tokens[:, 1], minlength=VOCABULARY**2)
    assert_frequencies(observed, expected)


def assert_frequencies(observed: np.ndarray, expected: np.ndarray) -> None:
    small = expected < 10
    expected = np.append(expected[~small], expected[small].sum())
    observed = np.append(observed[~small], observed[small].sum())
    keep = expected > 0
    assert keep.sum() > 5
    assert stats.chisquare(observed[keep], expected[keep], sum_check=False).pvalue > 1e-4


def test_mixed_tables_multiply_probabilities_of_responses() -> None:
    """Exactly the geometric mixture of whole responses, which a product of next-token distributions is not."""
    rng, count, weight = np.random.default_rng(5), 20_000, 0.4
    first, second = (
        Tabular(jnp.asarray(rng.normal(0, 1.5, (2, 7)), jnp.float32), 3, 2) for _ in range(2)
    )
    asked = jax.tree.map(lambda x: x[:1], prompts(1))
    asked = dataclasses.replace(asked, tokens=jnp.array([[2]]), length=jnp.array([1]))
    both = Geometric(first, second, jnp.asarray(weight))
    keys = jax.random.split(jax.random.key(12), 1)
    found = sample_mixture(both, asked, keys, time=2, count=count)
    tokens = np.asarray(found.response.tokens)[0]
    logp = [np.asarray(jax.nn.log_softmax(t.logits[1]), np.float64) for t in (first, second)]
    mixed = reference.log_softmax(0.6 * logp[0] + 0.4 * logp[1])
    # In the order of a dictionary: end, 1 end, 1 1, 1 2, 2 end, 2 1, 2 2.
    place = np.where(tokens[:, 0] == 0, 0, 1 + 3 * (tokens[:, 0] - 1) + tokens[:, 1])
    assert_frequencies(np.bincount(place, minlength=7), count * np.exp(mixed))
    np.testing.assert_allclose(
        np.sum(np.asarray(found.logprobs)[0], axis=-1), mixed[place], atol=1e-5
    )


def test_what_weighs_nothing_may_be_impossible() -> None:
    never = jnp.array([-jnp.inf, 0.0])
    some = jnp.array([-1.0, -2.0])
    np.testing.assert_array_equal(mix(some, never, 0.0), some)
    np.testing.assert_array_equal(mix(never, some, 1.0), some)
    np.testing.assert_array_equal(mix(some, never, 0.5), [-np.inf, -1.0])

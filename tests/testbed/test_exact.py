"""Exact quantities against loops over all responses, the system's estimates against exact quantities, and optima
against gradient descent on the population loss."""

import functools
import itertools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import cut, model
from population_loss import population_loss as expected_loss
from population_loss import restricted_optimum
from scipy import stats

from envs.enumerable import Enumerable
from envs.labelers.bradley_terry import BradleyTerry
from testbed import decode, logprob, metrics
from testbed.config import members
from testbed.environment import World
from testbed.evaluation_set import Opponent
from testbed.exact import quantities
from testbed.exact.enumeration import all_prompts, all_responses, response_index
from testbed.losses.base import AbstractLoss
from testbed.losses.dpo import Dpo
from testbed.losses.ipo import Ipo
from testbed.metrics import EvaluationInputs
from testbed.policies.tabular import Tabular
from testbed.preference import AbstractLabeler, GoldenPreference, View, decided
from testbed.proxies.reader import PairwiseProxy, ProxyConfig
from testbed.source import Batch, Dataset, Ledger, TrainingInputs
from testbed.transformer_config import TransformerConfig
from testbed.types import Pair, PairScores, Prompt, Response, Scalar, arrange

TASK = Enumerable(vocabulary=4, prompt_length=2, response_length=3)
VOCABULARY, TIME = TASK.vocabulary, TASK.response_length
PROMPTS, RESPONSES = all_prompts(VOCABULARY, TASK.prompt_length), all_responses(VOCABULARY, TIME)
N, R = PROMPTS.length.shape[0], RESPONSES.length.shape[0]
SHAPE = TransformerConfig(width=16, layers=1, heads=2, key_value_heads=1)

log_table = jax.jit(quantities.log_table)
over_prompts = {
    name: jax.jit(jax.vmap(getattr(quantities, name)))
    for name in ("value", "kl", "entropy", "win_rate", "chi_square", "max_ratio", "support")
}


class Tables(NamedTuple):
    """What is known of the world and of four policies, in float64: a row a prompt."""

    policy: np.ndarray
    reference: np.ndarray
    opponent: np.ndarray
    data: np.ndarray
    reward: np.ndarray
    labels: np.ndarray


@functools.cache
def world() -> World:
    """A world of `TASK`, its golden reward in standard deviations."""
    drawn = jax.jit(lambda task, key: task.world(key))(TASK, jax.random.key(3))
    reward = jax.jit(lambda w: quantities.tabulate(w.reward, PROMPTS, RESPONSES))(drawn)
    scale = (jnp.mean(reward), jnp.std(reward))
    return eqx.tree_at(lambda w: (w.centre, w.scale), drawn, scale)


LABELER = BradleyTerry(temperature=0.7)
#: Policy, reference, opponent and data policy.
NETS = tuple(model(seed, SHAPE, VOCABULARY) for seed in (11, 12, 13, 14))


@functools.cache
def tables() -> Tables:
    """By the code under test; the tests below hold each against loops."""

    @jax.jit
    def rewards_and_labels(world: World) -> tuple:
        reward = quantities.tabulate(world.reward, PROMPTS, RESPONSES)
        labels = jax.lax.map(
            lambda prompt: quantities.preference_matrix(LABELER, world, prompt, RESPONSES), PROMPTS
        )
        return reward, labels

    policies = [log_table(net, PROMPTS, RESPONSES) for net in NETS]
    return Tables(*(np.asarray(x, np.float64) for x in (*policies, *rewards_and_labels(world()))))


def expect(found: object, expected: object, atol: float = 2e-5) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-4, atol=atol)


def test_log_table_of_a_transformer() -> None:
    """Against float64 numpy, one response at a time; a table of it is the same policy."""
    found = tables().policy
    for i, j in [(0, 0), (3, 5), (8, 39), (5, 22), (7, 1)]:
        alone = reference.token_logprobs(NETS[0], cut(PROMPTS, i), cut(RESPONSES, j)).sum()
        assert found[i, j] == pytest.approx(alone, abs=1e-4)
    expect(np.exp(found).sum(axis=1), 1.0)
    copy = Tabular(jnp.asarray(found, jnp.float32), VOCABULARY, TIME)
    expect(log_table(copy, PROMPTS, RESPONSES), found)


def test_reward_and_labels_of_all_responses() -> None:
    given, reward = world(), jax.jit(lambda w, p, r: w.reward(p, r))
    for i, j in [(0, 0), (8, 39), (4, 17)]:
        one = (
            jax.tree.map(lambda x, k=k: x[k], every) for k, every in ((i, PROMPTS), (j, RESPONSES))
        )
        assert tables().reward[i, j] == pytest.approx(float(reward(given, *one)), abs=1e-5)
    difference = tables().reward[:, :, None] - tables().reward[:, None, :]
    expect(tables().labels, 1.0 / (1.0 + np.exp(-difference / 0.7)))


def test_quantities_against_loops() -> None:
    given = tables()
    p, q, mu, opponent = (
        np.exp(row) for row in (given.policy, given.reference, given.data, given.opponent)
    )
    found = {
        "value": over_prompts["value"](given.policy, given.reward),
        "kl": over_prompts["kl"](given.policy, given.reference),
        "entropy": over_prompts["entropy"](given.policy),
        "win_rate": over_prompts["win_rate"](given.policy, given.opponent, given.reward),
        "chi_square": over_prompts["chi_square"](given.policy, given.data),
        "max_ratio": over_prompts["max_ratio"](given.policy, given.data),
    }
    expected = {name: np.zeros(N) for name in found}
    for i in range(N):
        for y in range(R):
            expected["value"][i] += p[i, y] * given.reward[i, y]
            expected["kl"][i] += p[i, y] * np.log(p[i, y] / q[i, y])
            expected["entropy"][i] -= p[i, y] * np.log(p[i, y])
            expected["chi_square"][i] += (p[i, y] - mu[i, y]) ** 2 / mu[i, y]
            expected["max_ratio"][i] = max(expected["max_ratio"][i], p[i, y] / mu[i, y])
        for y, z in itertools.product(range(R), repeat=2):
            better = np.sign(given.reward[i, y] - given.reward[i, z])
            expected["win_rate"][i] += p[i, y] * opponent[i, z] * 0.5 * (1 + better)
    for name, values in found.items():
        expect(values, expected[name])


def test_ties_and_missing_support_by_hand() -> None:
    """Three responses, the first two equally good; the data never hold the last."""
    log = np.log
    policy = jnp.asarray(log([0.2, 0.3, 0.5]), jnp.float32)
    other = jnp.asarray(log([0.6, 0.2, 0.2]), jnp.float32)
    narrow = jnp.asarray([log(0.25), log(0.75), -np.inf], jnp.float32)
    reward = jnp.asarray([1.0, 1.0, 2.0])
    # 0.5 beats the 0.8 of the worse, and ties with 0.2; the rest ties with 0.8.
    expect(
        quantities.win_rate(policy, other, reward), 0.5 * 0.8 + 0.5 * 0.5 * 0.2 + 0.5 * 0.5 * 0.8
    )
    expect(quantities.win_rate(policy, policy, reward), 0.5)
    expect(quantities.support(policy, narrow), 0.5)
    expect(quantities.support(narrow, policy), 1.0)
    expect(quantities.entropy(narrow), -(0.25 * log(0.25) + 0.75 * log(0.75)))
    expect(quantities.kl(narrow, policy), 0.25 * log(0.25 / 0.2) + 0.75 * log(0.75 / 0.3))
    expect(quantities.chi_square(narrow, policy), 0.25**2 / 0.2 + 0.75**2 / 0.3 - 1)
    expect(quantities.max_ratio(narrow, policy), 2.5)
    for infinite in (quantities.kl, quantities.chi_square, quantities.max_ratio):
        assert float(infinite(policy, narrow)) == np.inf
    expect(quantities.total_variation(policy, narrow), 0.5)


class FirstIsFavoured(AbstractLabeler):
    """A labeler with a bias to what it reads first."""

    def outcomes(self, first: View, second: View) -> jax.Array:
        return decided(jax.nn.sigmoid(first.reward - second.reward + 0.5))


def test_preferences_average_over_the_order_of_reading() -> None:
    given = world()
    prompt = jax.tree.map(lambda x: x[4], PROMPTS)
    found = jax.jit(quantities.preference_matrix)(FirstIsFavoured(), given, prompt, RESPONSES)
    reward, mu = tables().reward[4], np.exp(tables().data[4])
    expected = np.zeros(R)
    for y, z in itertools.product(range(R), repeat=2):
        reads_first = 1 / (1 + np.exp(-(reward[y] - reward[z] + 0.5)))
        assert found[y, z] == pytest.approx(reads_first, abs=1e-5)
        reads_last = 1 - 1 / (1 + np.exp(-(reward[z] - reward[y] + 0.5)))
        expected[y] += mu[z] * 0.5 * (reads_first + reads_last)
    expect(quantities.preferred(found, jnp.asarray(tables().data[4], jnp.float32)), expected)


LOSSES = members(AbstractLoss, AbstractLoss.family)


@pytest.mark.parametrize("kind", [*LOSSES, "Ipo, length-normalised"])
def test_population_loss_is_the_training_loss_of_all_pairs(kind: str) -> None:
    """The training loss of every pair once, weighted by its probability, with a soft label for each.

    The policy is a table, whose KL training knows exactly."""
    loss = LOSSES[kind]() if kind in LOSSES else Ipo(length_normalised=True)
    i, given = 4, tables()
    rng = np.random.default_rng(0)
    preference = rng.random((R, R)).astype(np.float32)
    first, second = (x.ravel() for x in np.indices((R, R)))
    mu = np.exp(given.data[i])
    pairs = Pair(
        jax.tree.map(lambda x: jnp.broadcast_to(x[i], (R * R, *x.shape[1:])), PROMPTS),
        jax.tree.map(lambda x: x[first], RESPONSES),
        jax.tree.map(lambda x: x[second], RESPONSES),
        preference=jnp.asarray(preference.ravel()),
        weight=jnp.asarray(R * R * mu[first] * mu[second], jnp.float32),
    )
    policy, anchor = (table_of(row) for row in (given.policy, given.reference))
    scores = PairScores(*(jnp.asarray(given.reference[i, k], jnp.float32) for k in (first, second)))
    reward = given.reward[i].astype(np.float32)
    margin = jnp.asarray(reward[first] - reward[second])
    # The data's preferred response to a pair's prompt: its own first.
    inputs = TrainingInputs(Dataset(pairs, scores, margin), anchor, GoldenPreference(world()))
    batch = Batch(pairs, scores, margin, jnp.arange(R * R), Ledger.zero(R * R))
    found = batch_loss(loss, policy, inputs, batch)
    expected = population_loss(
        loss,
        *(jnp.asarray(x[i], jnp.float32) for x in (given.policy, given.reference, given.data)),
        jnp.asarray(preference),
        RESPONSES.length,
        jnp.asarray(reward),
    )
    assert float(expected) == pytest.approx(float(found), rel=1e-4)


@jax.jit
def batch_loss(loss: AbstractLoss, policy: Tabular, inputs: TrainingInputs, batch: Batch) -> Scalar:
    return loss.value(policy, None, inputs, batch)


population_loss = jax.jit(expected_loss)


@functools.cache
def drawn_worlds() -> tuple[np.ndarray, ...]:
    """Of six worlds: rewards and the writers' log-likelihoods of all responses, the ideal's places, and the places of
    256 responses of the writers to each prompt."""

    def one(key) -> tuple[jax.Array, ...]:
        k_world, k_ideal, k_writers = jax.random.split(key, 3)
        drawn = TASK.world(k_world)
        ideal = drawn.ideal
        assert ideal is not None
        best = jax.vmap(ideal)(jax.random.split(k_ideal, N), PROMPTS)
        keys = jax.random.split(k_writers, (N, 256))
        written = jax.vmap(jax.vmap(drawn.writers, (0, None)))(keys, PROMPTS)
        return (
            quantities.tabulate(drawn.reward, PROMPTS, RESPONSES),
            quantities.tabulate(drawn.writers.log_likelihood, PROMPTS, RESPONSES),
            response_index(best, VOCABULARY),
            response_index(written, VOCABULARY),
        )

    keys = jax.random.split(jax.random.key(8), 6)
    return tuple(np.asarray(x) for x in jax.jit(lambda keys: jax.lax.map(one, keys))(keys))


def test_worlds_have_an_ideal_and_no_ties() -> None:
    reward, _, best, _ = drawn_worlds()
    np.testing.assert_array_equal(best, reward.argmax(axis=-1))
    gaps = np.diff(np.sort(reward, axis=-1), axis=-1)
    assert np.mean(gaps == 0) < 1e-3


def test_rewards_differ_within_prompts_and_leave_room_above_the_writers() -> None:
    """Over the writers' responses, exactly: at least a third of the variance is within prompts, and the best response
    is a standard deviation above the mean in every world, with no more than 40 responses to choose from."""
    reward, log_likelihood, *_ = drawn_worlds()
    p = np.exp(log_likelihood.astype(np.float64))
    mean = np.sum(p * reward, axis=-1)
    within = np.sum(p * reward**2, axis=-1) - mean**2
    share = within.mean(axis=1) / (within.mean(axis=1) + mean.var(axis=1))
    assert np.all(share > 1 / 3)
    deviation = np.sqrt(within.mean(axis=1) + mean.var(axis=1))
    assert np.all((reward.max(axis=-1) - mean).mean(axis=1) > deviation)


def test_writers_write_what_their_likelihood_says() -> None:
    """It sums to one; and the mean reward of 256 responses to each prompt is within 4 standard errors of the exact
    value in every world, which fails for a correct sampler with probability 4e-4 at a random key."""
    reward, log_likelihood, _, written = drawn_worlds()
    p = np.exp(log_likelihood.astype(np.float64))
    np.testing.assert_allclose(p.sum(axis=-1), 1.0, atol=1e-4)
    mean = np.sum(p * reward, axis=-1)
    variance = (np.sum(p * reward**2, axis=-1) - mean**2) / written.shape[-1]
    sampled = np.take_along_axis(reward, written, axis=-1).mean(axis=(1, 2))
    error = np.sqrt(variance.sum(axis=1)) / N
    assert np.all(np.abs(sampled - mean.mean(axis=1)) < 4 * error)


SEEDS, COUNT, FEW, KNOWN = 200, 128, 96, 64
#: Every metric of which one value is the mean of independent draws, and those reported with a standard error.
NAMES = (
    "kl",
    "win_rate",
    "golden_reward",
    "proxy_reward",
    "proxy_win_rate",
    "data_accuracy",
    "self_accuracy",
    "winner_logprob_change",
    "loser_logprob_change",
    "entropy",
    "length",
)
WITH_ERROR = ("kl", "win_rate", "golden_reward")


def table_of(row: np.ndarray) -> Tabular:
    return Tabular(jnp.asarray(row, jnp.float32), VOCABULARY, TIME)


@functools.cache
def proxy() -> PairwiseProxy:
    """An untrained proxy with opinions."""
    blank = ProxyConfig().init(jax.random.key(5), SHAPE, VOCABULARY)
    readout = jax.random.normal(jax.random.key(6), (SHAPE.width,))
    return eqx.tree_at(lambda p: p.reader.readout, blank, readout)


@jax.jit
def one_each(world: World, policy, anchor, opponent, data, proxy, keys) -> dict[str, jax.Array]:
    """An evaluation a key, each on its own prompts, opponent's answers and labelled data."""

    def draw(policy: Tabular, count: int, k_prompts, k_responses) -> tuple[Prompt, Response]:
        index = jax.random.randint(k_prompts, (COUNT,), 0, N)
        prompts = jax.tree.map(lambda x: x[index], PROMPTS)
        each = jax.random.split(k_responses, COUNT)
        return prompts, decode.sample(policy, prompts, each, TIME, count).response

    def one(key) -> dict[str, jax.Array]:
        k_prompts, k_opponent, k_pairs, k_data, k_labels, key = jax.random.split(key, 6)
        prompts, answers = draw(opponent, 1, k_prompts, k_opponent)
        reward = jax.vmap(jax.vmap(world.reward, (None, 0)))(prompts, answers)
        against = Opponent(prompts, answers, reward)
        prompts, both = draw(data, 2, k_pairs, k_data)
        first, second = (jax.tree.map(lambda x, k=k: x[:, k], both) for k in range(2))
        views = [
            jax.vmap(lambda p, r: LABELER.view(world, p, r))(prompts, r) for r in (first, second)
        ]
        labels = jax.vmap(LABELER)(jax.random.split(k_labels, COUNT), *views)
        pairs = jax.vmap(arrange)(labels, prompts, first, second)
        margin = jax.vmap(world.reward)(prompts, pairs.winner)
        margin = margin - jax.vmap(world.reward)(prompts, pairs.loser)
        dataset = Dataset(pairs, logprob.score_pairs(anchor, pairs), margin)
        judge = GoldenPreference(world)
        some = jax.tree.map(lambda x: x[:KNOWN], dataset)
        by = EvaluationInputs(anchor, some, judge, proxy, against, None, None, FEW)
        return metrics.evaluate(policy, by, key)

    return jax.vmap(one)(keys)


@functools.cache
def estimates(kind: str) -> dict[str, jax.Array]:
    """`SEEDS` evaluations of the same policy, as a transformer or as a table."""
    pair = NETS[:2]
    if kind == "table":
        pair = tuple(table_of(row) for row in (tables().policy, tables().reference))
    others = (table_of(tables().opponent), table_of(tables().data))
    keys = jax.random.split(jax.random.key(17), SEEDS)
    return jax.device_get(one_each(world(), *pair, *others, proxy(), keys))


def token_entropy(p: np.ndarray) -> np.ndarray:
    """Entropy of the next token along every response, nats a token, from the probabilities of all responses."""
    texts = [cut(RESPONSES, j).tolist() for j in range(R)]
    prefixes: dict[tuple, np.ndarray] = {}
    for text, chance in zip(texts, p, strict=True):
        for t, token in enumerate(text):
            prefixes.setdefault(tuple(text[:t]), np.zeros(VOCABULARY))[token] += chance
    at = {
        prefix: -sum(x * np.log(x) for x in mass / mass.sum()) for prefix, mass in prefixes.items()
    }
    return np.array([np.mean([at[tuple(text[:t])] for t in range(len(text))]) for text in texts])


@functools.cache
def exact_metrics() -> dict[str, float]:
    """What each metric is an estimate of: the mean over uniform prompts of sums over all responses."""
    given = tables()
    p, q, mu = np.exp(given.policy), np.exp(given.opponent), np.exp(given.data)
    rho = given.policy - given.reference
    better = np.sign(given.reward[:, :, None] - given.reward[:, None, :])
    agrees = 0.5 * (1 + np.sign(rho[:, :, None] - rho[:, None, :]) * better)
    margins = jax.jit(lambda proxy: jax.lax.map(lambda i: proxy_margins(proxy, i), jnp.arange(N)))
    margins = np.asarray(margins(proxy()), np.float64)
    lengths = np.asarray(RESPONSES.length, np.float64)

    def mean(first: np.ndarray, second: np.ndarray, matrix: np.ndarray) -> float:
        return float(np.mean(np.einsum("ny,nz,nyz->n", first, second, matrix)))

    def row_mean(name: str, *rows: np.ndarray) -> float:
        return float(np.mean(over_prompts[name](*rows)))

    winner = given.labels * rho[:, :, None] + (1 - given.labels) * rho[:, None, :]
    loser = given.labels * rho[:, None, :] + (1 - given.labels) * rho[:, :, None]
    return {
        "kl": row_mean("kl", given.policy, given.reference),
        "win_rate": row_mean("win_rate", given.policy, given.opponent, given.reward),
        "golden_reward": row_mean("value", given.policy, given.reward),
        "proxy_reward": mean(p, q, margins),
        "proxy_win_rate": mean(p, q, 0.5 * (1 + np.sign(margins))),
        "data_accuracy": mean(mu, mu, agrees),
        "self_accuracy": mean(p, p, agrees),
        "winner_logprob_change": mean(mu, mu, winner),
        "loser_logprob_change": mean(mu, mu, loser),
        "entropy": float(np.mean([p[i] @ token_entropy(p[i]) for i in range(N)])),
        "length": float(np.mean(p @ lengths)),
    }


def proxy_margins(proxy: PairwiseProxy, i: jax.Array) -> jax.Array:
    first, second = (x.ravel() for x in np.indices((R, R)))
    prompts = jax.tree.map(lambda x: jnp.broadcast_to(x[i], (R * R, *x.shape[1:])), PROMPTS)
    texts = (jax.tree.map(lambda x, index=index: x[index], RESPONSES) for index in (first, second))
    margin = proxy.margin(prompts, *texts).reshape(R, R)
    # The same text is a tie, whatever rounding makes of its two readings.
    return jnp.where(jnp.eye(R, dtype=bool), 0.0, margin)


KINDS = pytest.mark.parametrize("kind", ["transformer", "table"])


@KINDS
@pytest.mark.parametrize("name", NAMES)
def test_every_metric_estimates_its_exact_value(kind: str, name: str) -> None:
    """The mean over 200 seeds lies within 3 standard errors of the exact value: a correct metric fails with probability
    0.3% at a random key, so about 6% of all keys fail somewhere; the key is fixed."""
    found = np.asarray(estimates(kind)[name], np.float64)
    error = found.std(ddof=1) / np.sqrt(SEEDS)
    assert error > 0
    assert abs(found.mean() - exact_metrics()[name]) < 3 * error


@KINDS
@pytest.mark.parametrize("name", WITH_ERROR)
def test_reported_standard_errors_are_right(kind: str, name: str) -> None:
    """Intervals of 1.96 standard errors hold the exact value in 95% of 200 seeds, within what 999 of 1000 binomial
    draws keep to; and the standard error is the spread between seeds, within 20% (four of its own errors)."""
    found = np.asarray(estimates(kind)[name], np.float64)
    error = np.asarray(estimates(kind)[f"{name}_se"], np.float64)
    covered = np.sum(np.abs(found - exact_metrics()[name]) <= 1.96 * error)
    low, high = stats.binom.ppf([0.0005, 0.9995], SEEDS, 0.95)
    assert low <= covered <= high
    assert np.sqrt(np.mean(error**2)) == pytest.approx(found.std(ddof=1), rel=0.2)


def test_chi_square_and_support_of_samples() -> None:
    """A chi-square divergence is the policy's mean ratio to the data less one, a support the share of its samples that
    the data can hold: within 3 standard errors over 200 seeds of 128 samples, at the fixed key."""
    given = tables()
    some = np.random.default_rng(2).random((N, R)) < 0.7
    narrow = jax.nn.log_softmax(jnp.where(some, given.data, -np.inf).astype(jnp.float32))

    @jax.jit
    def ratios(policy: Tabular, data: Tabular, narrow: jax.Array, keys) -> tuple:
        def one(key):
            k_prompts, key = jax.random.split(key)
            index = jax.random.randint(k_prompts, (COUNT,), 0, N)
            prompts = jax.tree.map(lambda x: x[index], PROMPTS)
            found = decode.sample(policy, prompts, jax.random.split(key, COUNT), TIME, 1).response
            ratio = metrics.compare(policy, data, prompts, found).log_ratio[:, 0]
            held = narrow[index, response_index(found, VOCABULARY)[:, 0]] > -jnp.inf
            return jnp.mean(jnp.exp(ratio)) - 1.0, jnp.mean(held.astype(jnp.float32))

        return jax.vmap(one)(keys)

    keys = jax.random.split(jax.random.key(23), SEEDS)
    found = ratios(table_of(given.policy), table_of(given.data), narrow, keys)
    expected = (
        over_prompts["chi_square"](given.policy, given.data),
        over_prompts["support"](given.policy, narrow),
    )
    for each, value in zip(found, expected, strict=True):
        each = np.asarray(each, np.float64)
        error = each.std(ddof=1) / np.sqrt(SEEDS)
        assert abs(each.mean() - np.mean(value)) < 3 * error


BETA, STEPS = 0.5, 4000


class Problem(NamedTuple):
    """A loss, and the row that its full-support optimum multiplies the reference's logarithm by."""

    loss: AbstractLoss
    exponent: jax.Array
    optimum: jax.Array
    curvature: float


def problem(kind: str, anchor: jax.Array, data: jax.Array, labels: jax.Array) -> Problem:
    """Optima by the formulas under test; ``curvature`` bounds a loss's second derivative in h."""
    if kind == "ipo":
        exponent = jax.vmap(quantities.preferred)(labels, data) / BETA
        optimum = jax.vmap(quantities.ipo_optimum, (0, 0, 0, None))(anchor, labels, data, BETA)
        return Problem(Ipo(beta=BETA), exponent, optimum, 2.0)
    scale = LABELER.temperature * BETA
    reward = jnp.asarray(tables().reward, jnp.float32)
    optimum = jax.vmap(quantities.rlhf_optimum, (0, 0, None))(anchor, reward, scale)
    return Problem(Dpo(beta=BETA), reward / scale, optimum, BETA**2 / 4)


@jax.jit
def descend(loss: AbstractLoss, start: Tabular, data, labels, rate) -> jax.Array:
    """Plain gradient descent of a table on the population loss of all prompts: its log-probabilities at the end."""

    def total(model: Tabular) -> Scalar:
        policy = quantities.log_table(model, PROMPTS, RESPONSES)
        anchor = quantities.log_table(start, PROMPTS, RESPONSES)
        lengths = RESPONSES.length
        each = jax.vmap(lambda *rows: expected_loss(loss, *rows, lengths))
        return jnp.sum(each(policy, anchor, data, labels))

    def step(_, model: Tabular) -> Tabular:
        return jax.tree.map(lambda x, slope: x - rate * slope, model, jax.grad(total)(model))

    return quantities.log_table(jax.lax.fori_loop(0, STEPS, step, start), PROMPTS, RESPONSES)


def distances(kind: str, full: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Total variation, a prompt, between where descent ends and: the closed form, the restricted optimum, the
    reference."""
    anchor = jnp.asarray(tables().reference, jnp.float32)
    labels = jnp.asarray(tables().labels, jnp.float32)
    kept = np.random.default_rng(6).random((N, R)) < (1.0 if full else 0.5)
    # A flattened data policy: descent takes as long as its rarest response is rare.
    data = jax.nn.log_softmax(jnp.where(kept, 0.3 * tables().data, -np.inf).astype(jnp.float32))
    given = problem(kind, anchor, data, labels)
    rate = 0.5 / (given.curvature * float(jnp.max(jnp.exp(data))))
    start = Tabular(anchor, VOCABULARY, TIME)
    found = descend(given.loss, start, data, labels, rate)
    restricted = jax.vmap(restricted_optimum)(anchor, given.exponent, data)
    distance = jax.vmap(quantities.total_variation, (0, 0))
    return tuple(np.asarray(distance(found, x)) for x in (given.optimum, restricted, anchor))


@pytest.mark.parametrize("kind", ["ipo", "dpo"])
def test_descent_on_the_population_loss_ends_at_the_closed_form(kind: str) -> None:
    """With data of full support, where the restricted optimum is the closed form too."""
    closed, restricted, moved = distances(kind, full=True)
    assert closed.max() < 1e-3
    assert restricted.max() < 1e-3
    assert moved.min() > 0.03


@pytest.mark.parametrize("kind", ["ipo", "dpo"])
def test_with_narrow_support_descent_ends_elsewhere(kind: str) -> None:
    """Data that hold half of the responses: the restricted optimum, and not the closed form (claim C17)."""
    closed, restricted, moved = distances(kind, full=False)
    assert restricted.max() < 1e-3
    assert closed.min() > 0.01
    assert moved.min() > 0.01

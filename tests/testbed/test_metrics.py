"""Metrics against enumeration, float64 numpy and values by hand."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import (
    TIME,
    VOCABULARY,
    cut,
    dataset,
    model,
    prompt,
    prompts,
    shallow,
    sum_reward,
    world,
)
from helpers import response as a_response
from helpers import sample as decode_sample

from testbed import metrics
from testbed.evaluation_set import Opponent, agreement
from testbed.metrics import EvaluationInputs, compare, mean_se
from testbed.preference import AbstractPreference, GoldenPreference
from testbed.streams import Stream, stream
from testbed.transformer_config import TransformerConfig
from testbed.types import Prompt, Response

N, FEW, KNOWN = 24, 16, 12
KEY = jax.random.key(4)


class LengthPreference(AbstractPreference):
    """A stand-in for a trained proxy: prefers the longer response."""

    def margin(self, prompts: Prompt, first: Response, second: Response) -> jax.Array:
        return (first.length - second.length).astype(jnp.float32)


@jax.jit
def evaluate(policy, anchor, data, golden, against) -> dict[str, jax.Array]:
    some = jax.tree.map(lambda x: x[:KNOWN], data)
    by = EvaluationInputs(anchor, some, golden, LengthPreference(), against, None, None, FEW)
    return metrics.evaluate(policy, by, KEY)


@functools.cache
def parts():
    """Policy, reference, data, judge, proxy, and the policy's two answers, drawn as `evaluate` draws them."""
    policy, anchor, given = shallow(1), shallow(2), prompts(N)
    answers = []
    for name, count in ((Stream.FIRST_RESPONSE, N), (Stream.SECOND_RESPONSE, FEW)):
        keys = jax.random.split(stream(KEY, name), count)
        some = jax.tree.map(lambda x, count=count: x[:count], given)
        found = decode_sample(policy, some, keys, time=TIME, count=1).response
        answers.append(jax.tree.map(lambda x: x[:, 0], found))
    return policy, anchor, dataset(anchor, N), GoldenPreference(world()), given, *answers


def opponent(seed: int = 9, answers: int = 1) -> Opponent:
    """Fixed answers, by an unrelated model."""
    *_, given, _, _ = parts()
    keys = jax.random.split(jax.random.key(seed), N)
    responses = decode_sample(shallow(seed), given, keys, time=TIME, count=answers).response
    reward = [
        [sum_reward(cut(given, i), cut(responses, (i, j))) for j in range(answers)]
        for i in range(N)
    ]
    return Opponent(given, responses, jnp.asarray(reward, jnp.float32))


def test_at_the_start_kl_is_exactly_zero() -> None:
    """A policy equal to its reference: KL 0.0, not small; every comparison of likelihoods is a tie and counts one
    half; nothing has moved."""
    policy, _, _, golden, *_ = parts()
    data = dataset(policy, N)
    found = evaluate(policy, policy, data, golden, opponent())
    assert float(found["kl"]) == 0.0
    assert float(found["kl_se"]) == 0.0
    assert float(found["self_accuracy"]) == float(found["data_accuracy"]) == 0.5
    assert float(found["winner_logprob_change"]) == float(found["loser_logprob_change"]) == 0.0


def test_every_metric_against_numpy() -> None:
    policy, anchor, data, golden, given, first, second = parts()
    against = opponent()
    found = evaluate(policy, anchor, data, golden, against)

    reward = np.array([sum_reward(cut(given, i), cut(first, i)) for i in range(N)])
    difference = reward - np.asarray(against.reward)[:, 0]
    wins = np.where(difference > 0, 1.0, np.where(difference < 0, 0.0, 0.5))
    assert 0 < wins.mean() < 1
    expect(found["win_rate"], wins.mean())
    expect(found["win_rate_se"], wins.std(ddof=1) / N**0.5)
    np.testing.assert_array_equal(found["win_by_prompt"], wins)
    np.testing.assert_allclose(found["golden_reward_by_prompt"], reward, rtol=2e-5, atol=2e-5)
    expect(found["golden_reward"], reward.mean())
    expect(found["golden_reward_se"], reward.std(ddof=1) / N**0.5)
    quantiles = np.quantile(reward, [0.1, 0.25, 0.5, 0.75, 0.9])
    for own, wanted in zip(found["golden_reward_quantile"], quantiles, strict=True):
        expect(own, wanted)
    np.testing.assert_array_equal(found["answer"], first.tokens[:2])
    longer = np.asarray(first.length) - np.asarray(against.responses.length)[:, 0]
    expect(found["proxy_reward"], longer.mean())
    expect(found["proxy_win_rate"], ((longer > 0) + 0.5 * (longer == 0)).mean())
    expect(found["length"], np.asarray(first.length).mean())

    kl, entropy = np.transpose(
        [rao_blackwell(policy, anchor, cut(given, i), cut(first, i)) for i in range(FEW)]
    )
    expect(found["kl"], kl.mean())
    expect(found["kl_se"], kl.std(ddof=1) / FEW**0.5)
    expect(found["entropy"], (entropy / np.asarray(first.length)[:FEW]).mean())

    def change(responses: Response, prompts: Prompt, count: int) -> np.ndarray:
        return np.array(
            [log_ratio(policy, anchor, cut(prompts, i), cut(responses, i)) for i in range(count)]
        )

    winner, loser = (
        change(part, data.pairs.prompt, KNOWN) for part in (data.pairs.winner, data.pairs.loser)
    )
    expect(found["winner_logprob_change"], winner.mean())
    expect(found["loser_logprob_change"], loser.mean())
    agree = np.sign(winner - loser) * np.sign(np.asarray(data.golden_margin)[:KNOWN])
    expect(found["data_accuracy"], (0.5 + 0.5 * agree).mean())

    own = change(first, given, FEW) - change(second, given, FEW)
    own = np.where(np.abs(own) < 1e-9, 0.0, own)
    other = np.array([sum_reward(cut(given, i), cut(second, i)) for i in range(FEW)])
    agree = np.sign(own) * np.sign(reward[:FEW] - other)
    expect(found["self_accuracy"], (0.5 + 0.5 * agree).mean())


def test_ties_count_one_half() -> None:
    """Against its own answers a policy wins exactly half, whatever rounding did to their recorded rewards. Against
    other texts of equal reward too; a shade better or worse, all or nothing."""
    policy, anchor, data, golden, given, first, _ = parts()
    reward = jax.jit(jax.vmap(golden.world.reward))(given, first)
    others = eqx.tree_at(lambda r: r.tokens, first, first.tokens.at[:, 0].add(1))
    for answers, shift, share in (
        (first, 0.0, 0.5),
        (first, 1e-6, 0.5),
        (first, -1e-6, 0.5),
        (others, 0.0, 0.5),
        (others, -0.125, 1.0),
        (others, 0.125, 0.0),
    ):
        once = jax.tree.map(lambda x: x[:, None], answers)
        against = Opponent(given, once, reward[:, None] + shift)
        found = evaluate(policy, anchor, data, golden, against)
        assert float(found["win_rate"]) == share
        assert float(found["win_rate_se"]) == 0.0
        assert float(found["proxy_win_rate"]) == 0.5


def test_the_win_rate_is_the_mean_over_answers_and_its_error_is_over_prompts() -> None:
    """Four answers to each prompt against numpy; the proxy compares with the first of them."""
    policy, anchor, data, golden, given, first, _ = parts()
    against = opponent(answers=4)
    found = evaluate(policy, anchor, data, golden, against)
    reward = np.array([sum_reward(cut(given, i), cut(first, i)) for i in range(N)])
    better = 0.5 + 0.5 * np.sign(reward[:, None] - np.asarray(against.reward))
    assert {0.25, 0.75} & set(better.mean(1).tolist())
    np.testing.assert_array_equal(found["win_by_prompt"], better.mean(1))
    expect(found["win_rate"], better.mean())
    expect(found["win_rate_se"], better.mean(1).std(ddof=1) / N**0.5)
    longer = np.asarray(first.length) - np.asarray(against.responses.length)[:, 0]
    expect(found["proxy_reward"], longer.mean())


def expect(found: jax.Array, value: float) -> None:
    assert float(found) == pytest.approx(float(value), rel=2e-5, abs=2e-5)


def rao_blackwell(policy, anchor, given: np.ndarray, written: np.ndarray) -> tuple[float, float]:
    """Sums over positions of the next token's KL and entropy, in float64."""
    ours = reference.next_token_logprobs(policy, given, written)
    theirs = reference.next_token_logprobs(anchor, given, written)
    return (np.exp(ours) * (ours - theirs)).sum(), -(np.exp(ours) * ours).sum()


def log_ratio(policy, anchor, given: np.ndarray, written: np.ndarray) -> float:
    ours, theirs = (reference.token_logprobs(net, given, written).sum() for net in (policy, anchor))
    return ours - theirs


TINY = TransformerConfig(width=16, layers=1, heads=2, key_value_heads=2)


@functools.cache
def enumerated():
    """Of the 31 responses of at most 4 tokens over {end, 1, 2}: probability under a policy, log-ratio to a reference,
    and the estimator's value, all in float64."""
    policy, anchor, given = model(1, TINY, 3), model(2, TINY, 3), np.array([2, 1])
    rows = []
    for tokens in np.ndindex(3, 3, 3, 3):
        length = tokens.index(0) + 1 if 0 in tokens else 4
        if any(tokens[length:]):
            continue
        written = np.array(tokens[:length])
        ours = reference.token_logprobs(policy, given, written).sum()
        ratio = log_ratio(policy, anchor, given, written)
        rows.append((np.exp(ours), ratio, rao_blackwell(policy, anchor, given, written)[0]))
    assert len(rows) == 31
    return policy, anchor, given, *np.transpose(rows)


def test_estimator_is_unbiased_by_enumeration() -> None:
    """Its expectation over all responses is the KL of whole responses, and its variance is the smaller one."""
    *_, p, ratio, value = enumerated()
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    exact = (p * ratio).sum()
    assert exact > 0.1
    assert (p * value).sum() == pytest.approx(exact, abs=1e-12)
    assert (p * value**2).sum() < (p * ratio**2).sum()


def test_estimator_agrees_with_enumeration_from_samples() -> None:
    """4,096 sampled responses at a fixed key: the mean within 3 standard errors of the exact KL (fails by chance with
    probability 0.003), the standard error within 5% of the exact one, and of 128 intervals of 32 responses each
    between 109 and 128 cover at 95% (outside with probability 1e-5)."""
    policy, anchor, given, p, ratio, value = enumerated()
    n = 4096
    keys = jax.random.split(jax.random.key(3), 1)
    drawn = decode_sample(policy, prompt([given], [2]), keys, time=4, count=n).response
    drawn = jax.tree.map(lambda x: x[0][:, None], drawn)
    many = prompt(np.tile(given, (n, 1)), np.full(n, 2))
    kl = jax.jit(compare)(policy, anchor, many, drawn).kl[:, 0]
    mean, se = (float(x) for x in mean_se(kl))
    exact = (p * ratio).sum()
    spread = np.sqrt((p * (value - exact) ** 2).sum())
    assert abs(mean - exact) < 3 * spread / n**0.5
    assert se == pytest.approx(spread / n**0.5, rel=0.05)
    means, errors = jax.vmap(mean_se)(kl.reshape(128, 32))
    covered = np.sum(np.abs(means - exact) < 2.04 * errors)
    assert 109 <= covered <= 128


def test_padding_does_not_enter_kl_or_entropy() -> None:
    policy, anchor, _, _, given, first, _ = parts()
    junk = eqx.tree_at(
        lambda r: r.tokens, first, jnp.where(first.mask, first.tokens, VOCABULARY - 1)
    )
    measure = jax.jit(compare)
    clean, other = (
        measure(policy, anchor, given, jax.tree.map(lambda x: x[:, None], response))
        for response in (first, junk)
    )
    np.testing.assert_array_equal(clean.kl, other.kl)
    np.testing.assert_array_equal(clean.entropy, other.entropy)
    np.testing.assert_array_equal(clean.log_ratio, other.log_ratio)


def test_mean_and_standard_error_by_hand() -> None:
    """1, 2, 3, 6: mean 3, variance (4 + 1 + 0 + 9) / 3, standard error the root of a quarter of it."""
    mean, se = mean_se(jnp.array([1.0, 2.0, 3.0, 6.0]))
    assert float(mean) == 3.0
    assert float(se) == pytest.approx((14 / 3 / 4) ** 0.5)


def test_agreement_by_hand() -> None:
    """Right, wrong, right, a tie of either kind: (1 + 0 + 1 + 1/2 + 1/2) / 5."""
    h = jnp.array([2.0, -0.1, -3.0, 0.0, 1.0])
    truth = jnp.array([0.5, 1.0, -9.0, 4.0, 0.0])
    assert float(agreement(h, truth)) == pytest.approx(0.6)


def test_golden_preference_is_antisymmetric_and_standardised() -> None:
    """Sums 3 + 4 and 5 less the same prompt, over a scale of 4: (7 - 5) / 4."""
    golden, given = GoldenPreference(world()), prompt([[2, 2, 0, 0]], [2])
    left, right = a_response([[3, 4, 0, 0, 0]], [3]), a_response([[5, 0, 6, 6, 6]], [2])
    assert float(golden.margin(given, left, right)[0]) == 0.5
    assert float(golden.margin(given, right, left)[0]) == -0.5

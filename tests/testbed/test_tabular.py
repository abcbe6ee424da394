"""The tabular policy: its conditionals, scores, samples and training, against sums over all responses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import advance, init
from helpers import sample as decode_sample
from helpers import score as a_score
from helpers import score_pairs as pair_scores
from scipy import stats

from testbed import decode, logprob, metrics
from testbed.errors import InvalidInput
from testbed.exact.enumeration import all_prompts, all_responses
from testbed.losses.ipo import Ipo
from testbed.optimiser import OptimiserConfig
from testbed.policies.tabular import Tabular
from testbed.preference import AbstractPreference
from testbed.source import AbstractSource, Dataset, TrainingInputs
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.train import TrainConfig
from testbed.types import Pair, Prompt, Response

VOCABULARY, TIME = 4, 3
PROMPTS, RESPONSES = all_prompts(VOCABULARY, 2), all_responses(VOCABULARY, TIME)
N, R = PROMPTS.length.shape[0], RESPONSES.length.shape[0]
TEXTS = [
    tokens[:length]
    for tokens, length in zip(RESPONSES.tokens.tolist(), RESPONSES.length.tolist(), strict=True)
]
EVERY = jax.tree.map(lambda x: jnp.broadcast_to(x, (N, *x.shape)), RESPONSES)

response_logits = jax.jit(logprob.response_logits)


def table(seed: int = 0, spread: float = 1.0) -> Tabular:
    logits = spread * np.random.default_rng(seed).normal(size=(N, R))
    return Tabular(jnp.asarray(logits, jnp.float32), VOCABULARY, TIME)


def probabilities(model: Tabular) -> np.ndarray:
    weights = np.exp(np.asarray(model.logits, np.float64))
    return weights / weights.sum(axis=1, keepdims=True)


def next_token(p: np.ndarray, prefix: list[int]) -> np.ndarray:
    """Distribution of the token behind a prefix, from the probabilities of all responses."""
    mass = np.zeros(VOCABULARY)
    for text, chance in zip(TEXTS, p, strict=True):
        if len(text) > len(prefix) and text[: len(prefix)] == prefix:
            mass[text[len(prefix)]] += chance
    return mass / mass.sum()


def test_conditionals_are_sums_over_completions() -> None:
    model = table()
    found = np.asarray(jax.nn.softmax(response_logits(model, PROMPTS, EVERY), axis=-1))
    p = probabilities(model)
    for i in (0, N - 1):
        for j, text in enumerate(TEXTS):
            for t in range(len(text)):
                expected = next_token(p[i], text[:t])
                np.testing.assert_allclose(found[i, j, t], expected, atol=1e-6)


def test_behind_the_end_only_the_end_is_possible() -> None:
    found = jax.nn.softmax(response_logits(table(), PROMPTS, EVERY), axis=-1)
    behind = np.broadcast_to(~np.asarray(RESPONSES.mask), found.shape[:3])
    assert behind.any()
    np.testing.assert_array_equal(np.asarray(found)[behind], np.eye(VOCABULARY)[[0] * behind.sum()])


def test_scores_are_entries_of_the_table() -> None:
    """And the sums of the conditionals' token log-probabilities, which transformers are scored by."""
    model = table(1)
    found = a_score(model, PROMPTS, EVERY)
    np.testing.assert_allclose(found, np.log(probabilities(model)), atol=1e-5)
    logits = response_logits(model, PROMPTS, EVERY)
    summed = jnp.sum(logprob.token_logprobs(logits, EVERY), axis=-1)
    np.testing.assert_allclose(found, summed, atol=1e-5)
    order = np.random.default_rng(0).permutation(N)
    shuffled = jax.tree.map(lambda x: x[order], PROMPTS)
    np.testing.assert_array_equal(a_score(model, shuffled, EVERY), np.asarray(found)[order])


def test_impossible_responses_leave_everything_finite() -> None:
    """Scores, conditionals, comparisons and gradients, of a table that gives most responses no probability."""
    rng = np.random.default_rng(3)
    logits = jnp.where(jnp.asarray(rng.random((N, R)) < 0.3), table().logits, -jnp.inf)
    model = Tabular(logits.at[:, 7].set(0.0), VOCABULARY, TIME)
    keys = jax.random.split(jax.random.key(1), N)
    drawn = decode_sample(model, PROMPTS, keys, time=TIME, count=3)
    assert np.all(np.isfinite(drawn.logprobs))
    found = jax.jit(metrics.compare)(model, table(), PROMPTS, drawn.response)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))

    @jax.jit
    @jax.grad
    def slope(model: Tabular) -> jax.Array:
        logits = logprob.response_logits(model, PROMPTS, drawn.response)
        whole = logprob.score(model, PROMPTS, drawn.response)
        return jnp.sum(logprob.token_logprobs(logits, drawn.response)) + jnp.sum(whole)

    assert np.all(np.isfinite(slope(model).logits))


def test_both_ways_of_scoring_have_one_gradient() -> None:
    """Of a response's log-probability with respect to its prompt's logits: one at the response, less p."""
    model, responses = table(2), jax.tree.map(lambda x: x[:, 11:12], EVERY)

    def whole(model: Tabular) -> jax.Array:
        return jnp.sum(logprob.score(model, PROMPTS, responses))

    def by_token(model: Tabular) -> jax.Array:
        logits = logprob.response_logits(model, PROMPTS, responses)
        return jnp.sum(logprob.token_logprobs(logits, responses))

    expected = np.eye(R)[11] - probabilities(model)
    for function in (whole, by_token):
        np.testing.assert_allclose(jax.jit(jax.grad(function))(model).logits, expected, atol=1e-5)


def test_frequencies_follow_the_table() -> None:
    """Chi-square over the 40 responses to two prompts, 20,000 of each, at the fixed key; a correct sampler fails with
    probability 2e-4."""
    model, count = table(4, 0.5), 20_000
    some = jax.tree.map(lambda x: x[:2], PROMPTS)
    keys = jax.random.split(jax.random.key(11), 2)
    found = decode_sample(model, some, keys, time=TIME, count=count)
    place = {tuple(t): i for i, t in enumerate(RESPONSES.tokens.tolist())}
    for i, expected in enumerate(count * probabilities(model)[:2]):
        drawn = [place[tuple(t)] for t in found.response.tokens[i].tolist()]
        assert expected.min() > 5
        assert stats.chisquare(np.bincount(drawn, minlength=R), expected).pvalue > 1e-4
        np.testing.assert_array_equal(found.response.length[i], RESPONSES.length[np.array(drawn)])
    # Two prompts with different keys are independent: no more equal draws than chance.
    first, second = found.response.tokens
    same = np.mean(np.all(first == second, axis=-1))
    chance = float(np.sum(np.prod(probabilities(model)[:2], axis=0)))
    assert abs(same - chance) < 4 * np.sqrt(chance / count)


def test_sampled_logprobs_are_the_scores() -> None:
    model = table(5)
    keys = jax.random.split(jax.random.key(2), N)
    drawn = decode_sample(model, PROMPTS, keys, time=TIME, count=4)
    scored = a_score(model, PROMPTS, drawn.response)
    np.testing.assert_allclose(jnp.sum(drawn.logprobs, axis=-1), scored, atol=1e-5)
    again = decode_sample(model, PROMPTS, keys, time=TIME, count=4)
    jax.tree.map(np.testing.assert_array_equal, drawn, again)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"logits must have 15 responses .* got 14"):
        Tabular(jnp.zeros((4, 14)), 3, 3)
    with pytest.raises(InvalidInput, match=r"time must be 3, .* got 5"):
        decode.sample(table(), PROMPTS, jax.random.split(jax.random.key(0), N), 5, 1)


class LaterIsBetter(AbstractPreference):
    """Prefers the response with the larger first token."""

    def margin(self, prompts: Prompt, first: Response, second: Response) -> jax.Array:
        return (first.tokens[:, 0] - second.tokens[:, 0]).astype(jnp.float32)


@functools.cache
def training_inputs() -> TrainingInputs:
    """Pairs of different responses to all prompts, the one with the larger first token preferred."""
    rng = np.random.default_rng(8)
    prompts, winners, losers = [], [], []
    while len(prompts) < 24:
        winner, loser = rng.integers(R, size=2)
        if RESPONSES.tokens[winner, 0] > RESPONSES.tokens[loser, 0]:
            prompts.append(len(prompts) % N)
            winners.append(winner)
            losers.append(loser)
    chosen = [
        jax.tree.map(lambda x, index=index: x[np.array(index)], every)
        for every, index in ((PROMPTS, prompts), (RESPONSES, winners), (RESPONSES, losers))
    ]
    pairs = Pair(*chosen, preference=jnp.ones(24), weight=jnp.ones(24))
    data = Dataset(pairs, pair_scores(table(), pairs), jnp.ones(24))
    return TrainingInputs(data, table(), LaterIsBetter())


@pytest.mark.parametrize("source", [Offline(), Online()], ids=["offline", "online"])
def test_it_trains_like_any_policy(source: AbstractSource) -> None:
    """On its own samples or on given pairs it comes to prefer what its teacher prefers."""
    config = TrainConfig(source, Ipo(beta=0.5), OptimiserConfig(3e-2, warmup=0.0), batch_size=8)
    state = advance(
        config,
        training_inputs(),
        init(config, training_inputs()),
        jax.random.key(3),
        jnp.asarray(0),
        jnp.asarray(100),
    )
    assert int(state.diverged_step) == -1
    pairs = training_inputs().data.pairs
    before, after = pair_scores(table(), pairs), pair_scores(state.policy, pairs)
    margin = (after.winner - before.winner) - (after.loser - before.loser)
    assert np.mean(margin > 0) > 0.75
    assert np.mean(margin) > 0.2
    worth = np.asarray(RESPONSES.tokens[:, 0])
    assert np.mean(probabilities(state.policy) @ worth) > np.mean(probabilities(table()) @ worth)

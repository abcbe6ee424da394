"""Sampling: its log-probabilities, its frequencies, prompts of different lengths, ends and truncation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import CONFIG, PROMPT, TIME, VOCABULARY, cut, model, prompts
from helpers import sample as decode_sample
from scipy import stats

from testbed import logprob
from testbed.decode import draw
from testbed.types import Prompt, Response

pytestmark = pytest.mark.usefixtures("strict_dtypes")

N, COUNT = 16, 3


@pytest.fixture(scope="module")
def sampled():
    net, given = model(1), prompts(N)
    keys = jax.random.split(jax.random.key(7), N)
    return net, given, jax.device_get(decode_sample(net, given, keys, time=TIME, count=COUNT))


def test_logprobs_equal_teacher_forcing(sampled) -> None:
    net, given, found = sampled

    @jax.jit
    def forced(net, given: Prompt, response: Response):
        logits = logprob.response_logits(net, given, response)
        return logprob.token_logprobs(logits, response)

    np.testing.assert_allclose(found.logprobs, forced(net, given, found.response), atol=1e-5)


def test_logprobs_equal_independent_implementation(sampled) -> None:
    """The tempered distribution is the one that is sampled and the one that is scored."""
    net, given, found = sampled
    assert CONFIG.temperature != 1.0
    for i, j in np.ndindex(N, COUNT):
        response = cut(found.response, (i, j))
        expected = reference.token_logprobs(net, cut(given, i), response)
        np.testing.assert_allclose(found.logprobs[i, j, : len(response)], expected, atol=1e-5)


def test_ends_and_truncation(sampled) -> None:
    _, _, found = sampled
    tokens, length = found.response.tokens, found.response.length
    ended = (tokens == 0).any(axis=-1) & ((tokens == 0).argmax(axis=-1) == length - 1)
    behind = np.arange(TIME) >= length[..., None]
    assert ended.any()
    assert (~ended).any()
    assert np.all(length[~ended] == TIME)
    assert np.all(tokens[~ended] != 0)
    assert np.all(tokens[behind] == 0)
    assert np.all(found.logprobs[behind] == 0.0)
    assert np.all(found.logprobs[~behind] < 0.0)
    # What precedes the end is never the end token.
    assert np.all(tokens[~behind & (np.arange(TIME) < length[..., None] - 1)] != 0)
    assert np.all((tokens >= 0) & (tokens < VOCABULARY))


def test_responses_to_one_prompt_differ(sampled) -> None:
    _, _, found = sampled
    assert np.mean((found.response.tokens[:, 0] != found.response.tokens[:, 1]).any(axis=-1)) > 0.8


def test_frequencies_follow_the_softmax() -> None:
    """Chi-square over the first two tokens of 20,000 responses to one prompt, cells of expectation below 10 pooled,
    at the fixed key; a correct sampler fails with probability 1e-4."""
    net, given, count = model(2), prompts(1, seed=3), 20_000
    keys = jax.random.split(jax.random.key(11), 1)
    tokens = np.asarray(decode_sample(net, given, keys, time=2, count=count).response.tokens)[0]
    prompt = cut(given, 0)
    first = np.exp(reference.next_token_logprobs(net, prompt, [1])[0])
    expected = np.zeros((VOCABULARY, VOCABULARY))
    expected[0, 0] = first[0]
    for token in range(1, VOCABULARY):
        second = np.exp(reference.next_token_logprobs(net, prompt, [token, 1])[1])
        expected[token] = first[token] * second
    expected = count * expected.ravel()
    observed = np.bincount(tokens[:, 0] * VOCABULARY + tokens[:, 1], minlength=VOCABULARY**2)
    assert observed[1:VOCABULARY].sum() == 0
    small = expected < 10
    expected = np.append(expected[~small], expected[small].sum())
    observed = np.append(observed[~small], observed[small].sum())
    keep = expected > 0
    assert keep.sum() > 20
    assert stats.chisquare(observed[keep], expected[keep], sum_check=False).pvalue > 1e-4


def test_a_padded_prompt_gives_what_it_gives_alone() -> None:
    """Prompts of 2 tokens among others in a padded batch, against a batch of them without any padding."""
    net, given = model(1), prompts(N)
    keys = jax.random.split(jax.random.key(7), N)
    together = decode_sample(net, given, keys, time=TIME, count=COUNT)
    short = np.flatnonzero(np.asarray(given.length) == 2)
    assert 0 < len(short) < N
    assert PROMPT > 2
    alone = Prompt(given.tokens[short, :2], given.length[short])
    found = decode_sample(net, alone, keys[short], time=TIME, count=COUNT)
    np.testing.assert_array_equal(found.response.tokens, together.response.tokens[short])
    np.testing.assert_allclose(found.logprobs, together.logprobs[short], atol=1e-5)


def test_keys_decide() -> None:
    """Same keys, same responses; the response of one prompt depends on its own key alone."""
    net, given = model(1), prompts(N)
    keys = jax.random.split(jax.random.key(7), N)
    first = decode_sample(net, given, keys, time=TIME, count=COUNT).response.tokens
    again = decode_sample(net, given, keys, time=TIME, count=COUNT).response.tokens
    np.testing.assert_array_equal(first, again)
    other = jax.random.split(jax.random.key(8), N)
    mixed = jax.numpy.where(jax.numpy.arange(N) < N // 2, keys, other)
    changed = decode_sample(net, given, mixed, time=TIME, count=COUNT).response.tokens
    np.testing.assert_array_equal(changed[: N // 2], first[: N // 2])
    assert np.mean(np.asarray(changed[N // 2 :]) != np.asarray(first[N // 2 :])) > 0.3


@pytest.mark.parametrize("vocabulary", [1, 2, 4, 5, 50, 1000])
def test_a_number_finds_the_token_whose_share_it_falls_into(vocabulary: int) -> None:
    """Against float64 sums; numbers within rounding of a boundary may fall to either side."""
    rng = np.random.default_rng(vocabulary)
    logits = 3.0 * rng.standard_normal(vocabulary).astype(np.float32)
    numbers = rng.random(500).astype(np.float32)
    numbers[:2] = 0.0, np.float32(1.0 - 2.0**-24)
    found = np.asarray(jax.vmap(draw, (0, None))(jnp.asarray(numbers), jnp.asarray(logits)))
    ends = np.cumsum(np.exp(logits.astype(np.float64)))
    ends /= ends[-1]
    begins = np.append(0.0, ends[:-1])
    assert np.all(begins[found] <= numbers + 1e-6)
    assert np.all(numbers <= ends[found] + 1e-6)

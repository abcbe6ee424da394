"""Scoring responses: packed against one by one, padding, the end token, and who owns sum or mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import (
    CONFIG,
    PROMPT,
    TIME,
    VOCABULARY,
    cut,
    model,
    pairs,
    prompts,
    responses,
    scored_pair,
)
from helpers import prompt as a_prompt
from helpers import response as a_response
from helpers import score as packed_score
from helpers import score_pairs as packed_score_pairs

from testbed import logprob
from testbed.transformer_config import TransformerConfig
from testbed.types import PairScores, arrange, certain, response_length

pytestmark = pytest.mark.usefixtures("strict_dtypes")

N = 12


def test_pairs_are_scored_as_each_response_alone() -> None:
    net, data = model(1), pairs(N)
    scores = packed_score_pairs(net, data)
    for i in range(N):
        prompt = cut(data.prompt, i)
        for response, found in ((data.winner, scores.winner), (data.loser, scores.loser)):
            alone = reference.token_logprobs(net, prompt, cut(response, i)).sum()
            assert found[i] == pytest.approx(alone, rel=1e-5, abs=1e-5)


def test_packed_equals_the_plain_model() -> None:
    """Against ``model(tokens)`` on prompt and response without padding: one shape, so one length of each."""
    net = model(2)
    prompt = np.array([[3, 1, 4], [2, 6, 5]], dtype=np.int32)
    response = np.array(
        [[[1, 5, 2, 6], [6, 6, 3, 0]], [[4, 0, 0, 0], [2, 2, 2, 2]]], dtype=np.int32
    )
    length = np.array([[4, 4], [1, 4]])
    found = packed_score(net, a_prompt(prompt, [3, 3]), a_response(response, length))
    logits = jax.jit(lambda net, tokens: net(tokens))
    for i, j in np.ndindex(2, 2):
        logp = jax.nn.log_softmax(logits(net, np.concatenate([prompt[i], response[i, j]])))
        each = [logp[2 + t, response[i, j, t]] for t in range(length[i, j])]
        assert found[i, j] == pytest.approx(float(sum(each)), abs=1e-5)


def test_padding_changes_nothing() -> None:
    """Whatever stands behind a prompt or a response, scores are the same to the last bit."""
    net = model(3)
    clean = packed_score_pairs(net, pairs(N, junk=0))
    for junk in (1, VOCABULARY - 1):
        found = packed_score_pairs(net, pairs(N, junk=junk))
        np.testing.assert_array_equal(found.winner, clean.winner)
        np.testing.assert_array_equal(found.loser, clean.loser)


def test_padding_does_not_train() -> None:
    """Nor does it enter the gradient: of an embedding that only padding uses, the gradient is zero."""
    net = model(3)
    data = pairs(6, junk=VOCABULARY)
    used = {
        int(t)
        for part in (data.prompt, data.winner, data.loser)
        for i in range(6)
        for t in cut(part, i)
    }
    assert VOCABULARY not in used
    # One token more than the shared model has, for the padding alone.
    net = model(3, CONFIG, VOCABULARY + 1)

    @jax.jit
    @jax.grad
    def slope(net, data):
        return jnp.sum(logprob.score_pairs(net, data).winner)

    gradient = slope(net, data).embedding
    assert np.all(gradient[VOCABULARY] == 0.0)
    assert np.all(np.any(gradient[jnp.array(sorted(used - {0}))] != 0.0, axis=-1))


def test_end_token_is_scored_and_what_follows_is_not() -> None:
    net = model(4)
    response = a_response([[[0, 3, 3, 3, 3], [4, 0, 1, 1, 1]]], [[1, 2]])
    found = packed_score(net, a_prompt([[2, 5, 1, 0]], [3]), response)
    first = reference.next_token_logprobs(net, [2, 5, 1], [4, 0])
    assert found[0, 0] == pytest.approx(first[0, 0], abs=1e-5)
    assert found[0, 1] == pytest.approx(first[0, 4] + first[1, 0], abs=1e-5)


def test_probabilities_of_all_responses_sum_to_one() -> None:
    """Over a vocabulary of 3 there are 31 responses of at most 4 tokens."""
    net = model(5, TransformerConfig(width=16, layers=1, heads=2, key_value_heads=2), 3)
    tokens, length = all_responses()
    scores = packed_score(net, a_prompt([[1, 2, 0]], [2]), a_response(tokens[None], length[None]))
    assert np.exp(np.asarray(scores, np.float64)).sum() == pytest.approx(1.0, abs=1e-5)


def all_responses() -> tuple[np.ndarray, np.ndarray]:
    """Every response of at most 4 tokens over {end, 1, 2}, padded with the end token."""
    every = np.array(list(np.ndindex(3, 3, 3, 3)), dtype=np.int32)
    length = np.where((every == 0).any(1), (every == 0).argmax(1) + 1, 4)
    canonical = np.where(np.arange(4) < length[:, None], every, 0)
    tokens = np.unique(canonical, axis=0)
    assert len(tokens) == 31
    length = np.where((tokens == 0).any(1), (tokens == 0).argmax(1) + 1, 4)
    return tokens, length


def test_response_length_by_hand() -> None:
    tokens = jnp.array([[0, 0, 0], [1, 0, 0], [1, 2, 0], [1, 2, 3], [1, 0, 3]])
    np.testing.assert_array_equal(response_length(tokens), [1, 2, 3, 3, 2])


def test_mask_counts_the_end_token() -> None:
    mask = responses(TIME + 1).mask
    np.testing.assert_array_equal(np.sum(mask, axis=1), [1, 2, 3, 4, 5, 5])
    assert np.all(np.diff(mask.astype(int), axis=1) <= 0)


def test_arrange_puts_the_winner_first() -> None:
    prompt = jax.tree.map(lambda x: x[0], prompts(1))
    first, second = (jax.tree.map(lambda x, i=i: x[i], responses(2)) for i in range(2))
    for first_wins in (True, False):
        pair = arrange(certain(jnp.asarray(first_wins)), prompt, first, second)
        winner, loser = (first, second) if first_wins else (second, first)
        for found, expected in ((pair.winner, winner), (pair.loser, loser), (pair.prompt, prompt)):
            np.testing.assert_array_equal(found.tokens, expected.tokens)
            np.testing.assert_array_equal(found.length, expected.length)


def test_scored_pair_owns_sum_or_mean() -> None:
    number = jnp.asarray
    pair = scored_pair(
        PairScores(number(-6.0), number(-9.0)), PairScores(number(-8.0), number(-3.0)), (4, 3)
    )
    with jax.numpy_dtype_promotion("standard"):
        summed, averaged = pair.log_ratios(), pair.log_ratios(length_normalised=True)
        assert (float(summed.winner), float(summed.loser)) == (2.0, -6.0)
        assert (float(averaged.winner), float(averaged.loser)) == (0.5, -2.0)
        assert float(pair.margin()) == 8.0
        assert float(pair.margin(length_normalised=True)) == 2.5


def test_context_is_the_prompt_without_its_last_token() -> None:
    data = prompts(PROMPT)
    for i in range(PROMPT):
        prompt = jax.tree.map(lambda x, i=i: x[i], data)
        seen = np.asarray(logprob.visible_context(prompt))
        tokens = np.asarray(logprob.context(prompt).tokens)[seen]
        assert [*tokens, int(logprob.last_token(prompt))] == cut(data, i).tolist()

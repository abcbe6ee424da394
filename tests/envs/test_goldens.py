"""Golden rewards against values worked by hand and plain Python."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import TIME, VOCABULARY, cut, model, prompt, prompts, response, responses

from envs.goldens.borda import Borda, evaluate
from envs.goldens.decision import Decision
from envs.goldens.fluency import Fluency
from envs.goldens.length import Length
from envs.goldens.neural import NeuralGolden, states
from envs.goldens.ngram import ROOM, NGram
from envs.goldens.substance import OFF, ON, OPENING, REPEATED, Kind, Substance
from envs.goldens.variety import Variety
from envs.goldens.weighted import WeightedGolden
from envs.writers import TransformerWriters
from testbed.errors import InvalidInput
from testbed.transformer_config import TransformerConfig

N = 24
#: Prompts and responses of every length, with the text they stand for and with other text behind their ends.
PROMPTS, RESPONSES = prompts(N), responses(N)
JUNK = prompts(N, junk=3), responses(N, junk=3)
NETWORK = TransformerConfig(width=8, layers=1, heads=2, key_value_heads=2)

each = jax.jit(lambda golden, p, r: jax.vmap(golden)(p, r))
all_states = jax.jit(jax.vmap(states, in_axes=(None, 0, 0, None)), static_argnums=3)


def texts() -> list[tuple[list[int], list[int]]]:
    """Every prompt and response without padding."""
    return [(cut(PROMPTS, i).tolist(), cut(RESPONSES, i).tolist()) for i in range(N)]


def test_length_and_variety_count_tokens() -> None:
    rows = [[3, 0, 0, 0, 0], [0, 0, 0, 0, 0], [2, 5, 2, 2, 0], [4, 4, 4, 4, 4], [1, 2, 3, 4, 5]]
    given = response(rows, [2, 1, 5, 5, 5])
    np.testing.assert_array_equal(each(Length(), prompts(5), given), [2, 1, 5, 5, 5])
    np.testing.assert_array_equal(each(Variety(), prompts(5), given), [2, 1, 3, 1, 5])
    junk = response([[3, 0, 6, 5, 1]], [2])
    np.testing.assert_array_equal(each(Variety(), prompts(1), junk), [2])


def test_weighted_golden_standardises_its_parts() -> None:
    """A constant part keeps its unit scale."""
    ones = NGram((jnp.zeros(VOCABULARY),), (jnp.zeros((VOCABULARY, VOCABULARY)),), jnp.ones(()))
    parts = [Length(), Variety(), ones]
    golden = WeightedGolden.standardised(parts, [2.0, -0.5, 3.0], PROMPTS, RESPONSES)
    length = np.array([len(r) for _, r in texts()], dtype=float)
    variety = np.array([len(set(r)) for _, r in texts()], dtype=float)
    by_hand = 2.0 * (length - length.mean()) / length.std()
    by_hand -= 0.5 * (variety - variety.mean()) / variety.std()
    np.testing.assert_allclose(each(golden, PROMPTS, RESPONSES), by_hand, atol=1e-5)


def test_fluency_is_the_mixture_log_likelihood_a_token() -> None:
    models = [model(seed) for seed in range(3)]
    writers = TransformerWriters(jax.tree.map(lambda *x: jnp.stack(x), *models), TIME)
    found = each(Fluency(writers), *JUNK)
    for (given, written), value in zip(texts(), found, strict=True):
        chances = [math.exp(reference.token_logprobs(m, given, written).sum()) for m in models]
        assert value == pytest.approx(math.log(sum(chances) / 3) / len(written), abs=1e-4)


def test_states_of_order_zero_are_causal_hidden_states() -> None:
    """Those of the text with end tokens up to the length limit."""
    trunk = model()
    found = all_states(trunk, *JUNK, 0)
    embedding = np.asarray(trunk.embedding, dtype=float)
    for (given, written), rows in zip(texts(), found, strict=True):
        text = given + written + [0] * (TIME - len(written))
        expected = reference.hidden(trunk, embedding[text])[len(given) :]
        np.testing.assert_allclose(rows, expected, atol=1e-4)


@pytest.mark.parametrize("order", [0, 1, 2, 3, TIME])
def test_receptive_field(order: int) -> None:
    """Another token at place j moves states j to j + order - 1 (order 0: all from j on), and nothing else does."""
    base = np.array([1, 2, 3, 4, 5])
    changed = np.tile(base, (TIME, 1))
    changed[np.arange(TIME), np.arange(TIME)] = 6
    given = jax.tree.map(lambda x: jnp.repeat(x[3:4], TIME + 1, axis=0), PROMPTS)
    rows = response(np.concatenate([base[None], changed]), [TIME] * (TIME + 1))
    found = np.asarray(all_states(model(), given, rows, order))
    moved = np.any(np.abs(found[1:] - found[:1]) > 1e-5, axis=2)
    reach = order or TIME
    place, at = np.indices((TIME, TIME))
    np.testing.assert_array_equal(moved, (at >= place) & (at < place + reach))


def test_states_of_a_window_enter_as_a_sum_of_rolled_embeddings() -> None:
    """With attention silenced, by hand at every place; with attention, at the first."""
    order, trunk = 3, model()
    silent = eqx.tree_at(
        lambda m: [b.attention_out for b in m.blocks], trunk, replace_fn=jnp.zeros_like
    )
    found, attending = (all_states(m, *JUNK, order) for m in (silent, trunk))
    embedding = np.asarray(trunk.embedding, dtype=float)
    for i, (given, written) in enumerate(texts()):
        text = written + [0] * (TIME - len(written))
        sums = [
            sum(np.roll(embedding[text[t - lag]], lag) for lag in range(min(order, t + 1)))
            for t in range(TIME)
        ]
        entering = np.stack(sums) / math.sqrt(order)
        np.testing.assert_allclose(found[i], reference.hidden(silent, entering), atol=1e-4)
        first = np.concatenate([embedding[given], entering[:1]])
        np.testing.assert_allclose(attending[i, 0], reference.hidden(trunk, first)[-1], atol=1e-4)


@pytest.mark.parametrize("order", [0, 2])
def test_neural_golden_reads_standardised_mean_states(order: int) -> None:
    golden = jax.jit(NeuralGolden.init, static_argnums=(1, 2, 6))(
        jax.random.key(1), NETWORK, VOCABULARY, 1.5, PROMPTS, RESPONSES, order
    )
    pooled = np.asarray(all_states(golden.trunk, PROMPTS, RESPONSES, order)).mean(axis=1)
    features = (pooled - pooled.mean(axis=0)) / pooled.std(axis=0)
    expected = np.tanh(features @ np.asarray(golden.mix)) @ np.asarray(golden.readout)
    np.testing.assert_allclose(each(golden, *JUNK), expected, atol=1e-4)


def ngram_by_hand(golden: NGram, given: list[int], written: list[int]) -> float:
    """The class's formula, one n-gram at a time."""
    total, vocabulary = 0.0, golden.cross[0].shape[0]
    for order, (base, cross) in enumerate(zip(golden.base, golden.cross, strict=True), start=1):
        text, seen = [0] * order + given + written, []
        for t in range(len(written)):
            end = order + len(given) + t + 1
            gram = 0
            for token in text[end - order : end]:
                gram = gram * vocabulary + token
            weight = float(base[gram])
            weight += sum(float(cross[x, gram]) for x in given) / math.sqrt(len(given))
            total += float(golden.repeat) ** seen.count(gram) * weight
            seen.append(gram)
    return total


@pytest.mark.parametrize("repeat", [1.0, 0.5, 0.0])
def test_ngram_adds_weights(repeat: float) -> None:
    golden = NGram.init(jax.random.key(0), VOCABULARY, 3, 0.7, repeat)
    golden = jax.device_get(golden)
    expected = [ngram_by_hand(golden, *text) for text in texts()]
    np.testing.assert_allclose(each(golden, *JUNK), expected, atol=1e-4)


def test_ngram_by_hand() -> None:
    """Prompt 2 1, response 1 1 2: unigrams 1 1 2, bigrams 11 11 12, the second of each counted half."""
    base = (jnp.array([0.0, 1.0, 10.0]), jnp.arange(9.0) * 100)
    cross = (jnp.zeros((3, 3)).at[2, 1].set(math.sqrt(2.0)), jnp.zeros((3, 9)))
    golden = NGram(base, cross, jnp.array(0.5))
    value = each(golden, prompt([[2, 1, 0, 0]], [2]), response([[1, 1, 2, 0, 0]], [3]))
    assert float(value[0]) == pytest.approx(1.5 * (1 + 1) + 10 + 1.5 * 400 + 500)


def test_ngram_weights_have_the_stated_spread() -> None:
    """Prompt-dependent weights add nothing over a prompt of all tokens; standard deviations are right to 5% (8000 or
    more normal draws: 6 standard errors)."""
    golden = jax.jit(lambda key: NGram.init(key, 20, 3, interaction=3.0))(jax.random.key(0))
    assert np.std(golden.base[2]) == pytest.approx(1.0, rel=0.05)
    assert np.std(golden.cross[2][1:]) == pytest.approx(3.0, rel=0.05)
    for cross in golden.cross:
        np.testing.assert_allclose(np.asarray(cross).sum(axis=0), 0.0, atol=1e-4)


@pytest.mark.parametrize(("vocabulary", "order"), [(5, 0), (5, 11), (300, 2)])
def test_ngram_refuses_tables_without_end(vocabulary: int, order: int) -> None:
    with pytest.raises(InvalidInput, match=rf"order must be .* at most {ROOM}, got {order} "):
        NGram.init(jax.random.key(0), vocabulary, order)


def test_borda_is_the_mean_share_of_responses_that_are_worse() -> None:
    """Two annotators of two goldens: utilities standardised, through the normal distribution function, averaged."""
    tastes = np.array([[1.0, 1.0], [0.0, -2.0]])
    golden = Borda.standardised(
        [Length(), Variety()], jnp.asarray(tastes), jnp.array([0.75, 0.25]), PROMPTS, RESPONSES
    )
    values = np.array([[len(r), len(set(r))] for _, r in texts()], dtype=float)
    parts = (values - values.mean(axis=0)) / values.std(axis=0)
    utilities = parts @ tastes.T
    utilities /= utilities.std(axis=0)
    share = 0.5 * (1 + np.vectorize(math.erf)(utilities / math.sqrt(2)))
    found = each(golden, PROMPTS, RESPONSES)
    np.testing.assert_allclose(found, share @ [0.75, 0.25], atol=1e-5)


def test_goldens_are_evaluated_in_order_whatever_their_kinds() -> None:
    """Those of a kind together, each in its place."""
    a, b = (NGram.init(jax.random.key(seed), VOCABULARY, 1) for seed in range(2))
    goldens = (a, Length(), b, Variety(), Length())
    found = jax.jit(jax.vmap(lambda p, r: evaluate(goldens, p, r)))(PROMPTS, RESPONSES)
    for column, golden in enumerate(goldens):
        np.testing.assert_allclose(found[:, column], each(golden, PROMPTS, RESPONSES), atol=1e-5)


#: End, two refusals, redirection, courtesy, two unsafe words, and two topics of two words in turn.
KINDS = np.array([0, 1, 1, 2, 3, 4, 4, 5, 5, 5, 5])
SIZE = np.array([1.0, 1.1, 0.9, 1.3, 0.8, 1.2, 0.7, 1.5, 0.6, 1.4, 2.0])
HARM = np.array([0.0, 0, 0, 0, 0, 0.5, 2.0, 0, 0, 0, 0])


def goldens() -> tuple[Decision, Substance]:
    decision = Decision(jnp.asarray(KINDS == Kind.REFUSAL), jnp.asarray(HARM), jnp.array(1.5))
    topic = np.zeros((11, 2))
    topic[[7, 9], 0] = topic[[8, 10], 1] = 1.0
    return decision, Substance(
        jnp.asarray(KINDS), jnp.asarray(topic), jnp.asarray(SIZE), jnp.array(0.9), decision
    )


def test_decision_table() -> None:
    """Safe: refused, answered, silent; the same for the milder unsafe word, for both, and for one behind the end."""
    given = [[7, 8, 9, 0]] * 3 + [[7, 5, 9, 0]] * 3 + [[6, 5, 9, 0]] * 3 + [[7, 8, 9, 6]] * 3
    written = [[2, 7, 0, 0, 0], [7, 1, 0, 0, 0], [0, 0, 0, 0, 0]] * 4
    found = each(goldens()[0], prompt(given, [3] * 12), response(written, [3, 3, 1] * 4))
    expected = [-1, 1, 0, 1, -0.75, 0, 1, -3, 0, -1, 1, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def substance_by_hand(given: list[int], written: list[int]) -> float:
    """The class's formula, one token at a time."""
    about = [x for x in given if KINDS[x] == Kind.TOPIC]
    unsafe = any(KINDS[x] == Kind.UNSAFE for x in given)
    refused = KINDS[written[0]] == Kind.REFUSAL
    row = ON[2] if refused else ON[1] if unsafe else ON[0]
    total = 0.0
    for t, token in enumerate(written):
        worth = row[KINDS[token]]
        if KINDS[token] == Kind.TOPIC:
            share = sum(x % 2 == token % 2 for x in about) / max(len(about), 1)
            worth = share * worth + (1 - share) * OFF
        if token in written[:t]:
            worth = REPEATED
        if t == 0 and refused:
            worth = OPENING
        total += 0.9**t * SIZE[token] * worth
    return total


def test_substance_weighs_words() -> None:
    rng = np.random.default_rng(0)
    n, time = 200, 6
    length = rng.integers(1, 5, n)
    given = np.where(np.arange(4) < length[:, None], rng.integers(5, 11, (n, 4)), 6)
    ended = rng.integers(1, time + 1, n)
    written = rng.integers(1, 11, (n, time))
    written[np.arange(n), ended - 1] *= (ended == time) & (rng.random(n) < 0.5)
    found = each(goldens()[1], prompt(given, length), response(written, ended))
    expected = [
        substance_by_hand(given[i, : length[i]].tolist(), written[i, : ended[i]].tolist())
        for i in range(n)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_substance_by_hand() -> None:
    """A refusal that repeats itself, redirects, and stays on topic for two words of three."""
    found = each(goldens()[1], prompt([[7, 5, 9, 8]], [4]), response([[1, 1, 3, 7, 0]], [5]))
    on_topic = 1.5 * (0.5 * 2 / 3 - 0.5 * 1 / 3)
    expected = 1.1 * 0.5 - 0.9 * 1.1 * 0.5 + 0.81 * 1.3 + 0.729 * on_topic
    assert float(found[0]) == pytest.approx(expected, rel=1e-5)

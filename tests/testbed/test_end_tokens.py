"""Several tokens that end a response, treated as one: probabilities, samples, training, text."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from testbed import decode, logprob
from testbed.policies import geometric_mixture
from testbed.policies.features import truncated
from testbed.policies.pretrained import Tokenizer, exchanged, pretrained, register
from testbed.transformer import Transformer
from testbed.types import END_TOKEN, Prompt, Response

V = tiny.VOCABULARY
#: In the checkpoint's own numbering: "<end>", "fine", and "<pad>", which is the token 0 that changes places.
ENDS = (tiny.Pieces.end, tiny.WORDS.index("fine"), 0)
#: The others, renumbered.
OTHERS = (tiny.WORDS.index("fine"), tiny.Pieces.end)
NAME = "tiny with three end tokens"


class Pieces(tiny.Pieces):
    ends = ENDS


def model(temperature: float = 1.0) -> Transformer:
    """The policy that starts from the checkpoint."""
    register(NAME, tiny.original(), Pieces())
    return pretrained(NAME)[0].configured(temperature=temperature).model


def prompt(*tokens: int) -> Prompt:
    return Prompt(jnp.asarray([tokens], jnp.int32), jnp.asarray([len(tokens)], jnp.int32))


forward = jax.jit(lambda model, tokens: jax.nn.softmax(model(tokens)))
score = jax.jit(logprob.score)
sample = jax.jit(decode.sample, static_argnums=(3, 4))
raw_logits = jax.jit(lambda model, tokens: model(tokens))


def original(tokens: list[int], temperature: float = 1.0) -> np.ndarray:
    """The checkpoint's own probabilities of the next token, in renumbered ids, for ids that are renumbered."""
    padded = np.pad(np.asarray(tokens), (0, 8 - len(tokens)))
    found = raw_logits(tiny.original(), jnp.asarray(exchanged(padded, ENDS[0])))
    logits = np.asarray(found[len(tokens) - 1], np.float64)
    weights = np.exp(logits / temperature)
    return (weights / weights.sum())[exchanged(np.arange(V), ENDS[0])]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_end_token_has_the_probability_of_all(temperature: float) -> None:
    """At the policy's temperature, after a context that holds every one of them; the rest is as it was."""
    context = [5, *OTHERS, 0, 6]
    found = np.asarray(forward(model(temperature), jnp.asarray(context))[-1], np.float64)
    raw = original(context, temperature)
    assert found.sum() == pytest.approx(1.0, abs=1e-6)
    assert found[END_TOKEN] == pytest.approx(raw[[0, *OTHERS]].sum(), rel=1e-4)
    assert raw[list(OTHERS)].min() > 1e-4
    np.testing.assert_array_equal(found[list(OTHERS)], 0.0)
    rest = np.setdiff1d(np.arange(V), (0, *OTHERS))
    np.testing.assert_allclose(found[rest], raw[rest], rtol=1e-4)


def test_all_responses_together_have_probability_one() -> None:
    """Of all responses of at most two tokens, and each has the probability of the ways in which the checkpoint writes
    it: where it ends, with any of the tokens that end it."""
    asked, policy = prompt(5, 6), model()
    words = np.setdiff1d(np.arange(1, V), OTHERS)
    texts = [(0, 0), *((a, 0) for a in words), *itertools.product(words, words)]
    length = [1] + [2] * (len(texts) - 1)
    every = Response(jnp.asarray(texts, jnp.int32)[None], jnp.asarray(length, jnp.int32)[None])
    found = np.exp(np.asarray(score(policy, asked, every)[0], np.float64))
    assert found.sum() == pytest.approx(1.0, abs=1e-5)
    first = original([5, 6])
    ended = [0, *OTHERS]
    by_hand = [first[ended].sum()]
    for a in words:
        by_hand.append(first[a] * original([5, 6, int(a)])[ended].sum())
    np.testing.assert_allclose(found[: len(by_hand)], by_hand, rtol=1e-4)
    assert sum(by_hand) == pytest.approx(
        1 - sum(first[a] * (1 - original([5, 6, int(a)])[ended].sum()) for a in words), rel=1e-4
    )


def test_sampled_responses_end_at_all_of_them() -> None:
    """As often as they should, none goes on behind one, and their log-probabilities are those of scoring."""
    asked, policy, n = prompt(5, 6), model(), 4000
    found = sample(policy, asked, jax.random.split(jax.random.key(0), 1), 3, n)
    tokens = np.asarray(found.response.tokens[0])
    assert not np.isin(tokens, OTHERS).any()
    assert np.mean(tokens[:, 0] == END_TOKEN) == pytest.approx(
        original([5, 6])[[0, *OTHERS]].sum(), abs=0.03
    )
    behind = np.cumsum(tokens == END_TOKEN, axis=1) > 0
    np.testing.assert_array_equal(tokens[behind], END_TOKEN)
    np.testing.assert_array_equal(
        found.response.length[0], np.minimum((~behind).sum(axis=1) + 1, 3)
    )
    some = jax.tree.map(lambda x: x[:, :50], found.response)
    forced = score(policy, asked, some)
    np.testing.assert_allclose(found.logprobs[:, :50].sum(-1), forced, atol=1e-4)


def test_a_drawn_token_is_never_one_of_the_others() -> None:
    """Where they are almost certain too: then the response is empty."""
    certain = eqx.tree_at(
        lambda m: m.embedding, model(), model().embedding.at[OTHERS[0]].multiply(200.0)
    )
    for policy in (certain, geometric_mixture.Geometric(certain, certain, 0.5)):
        found = sample(policy, prompt(5, 6), jax.random.split(jax.random.key(1), 1), 3, 500)
        assert not np.isin(np.asarray(found.response.tokens), OTHERS).any()
        assert np.all(np.isfinite(found.logprobs))


def test_training_keeps_them_one() -> None:
    """Gradients are numbers, and after steps that raise an ended response the model is still a distribution that gives
    the others nothing."""
    asked, policy = prompt(5, 6), model()
    ended = Response(jnp.asarray([[[4, 0, 0]]], jnp.int32), jnp.asarray([[2]], jnp.int32))

    @jax.jit
    def step(policy: Transformer) -> tuple[jax.Array, Transformer]:
        value, slope = eqx.filter_value_and_grad(
            lambda m: -jnp.sum(logprob.score(m, asked, ended))
        )(policy)
        return value, jax.tree.map(lambda w, g: w - 0.01 * g, policy, slope)

    values = []
    for _ in range(20):
        value, policy = step(policy)
        values.append(float(value))
    assert np.all(np.isfinite(values))
    assert values[-1] < values[0] - 0.5
    found = np.asarray(forward(policy, jnp.asarray([5, 6, 4]))[-1])
    assert found.sum() == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_array_equal(found[list(OTHERS)], 0.0)
    assert truncated(policy, 1).config.layers == 1


def test_texts_end_at_all_of_them() -> None:
    tokenizer = Tokenizer(Pieces())
    found = tokenizer.responses(["the film fine we", "the <end> film", "<pad> a", "a the film"], 3)
    np.testing.assert_array_equal(found.tokens, [[5, 6, 0], [5, 0, 0], [0, 0, 0], [4, 5, 6]])
    np.testing.assert_array_equal(found.length, [3, 2, 1, 3])
    assert tokenizer.decode([5, 6, 0, 7]) == " the film"
    assert tokenizer.decode_prompt([5, OTHERS[0], 6, 0, 7]) == " the fine film<end> was"


def test_which_tokens_end_is_part_of_a_checkpoints_name() -> None:
    """Weights alone do not say what a model writes."""
    one = register("tiny with one end token", tiny.original(), tiny.Pieces())
    several = register(NAME, tiny.original(), Pieces())
    assert one.source.checksum != several.source.checksum
    assert several.model.ends == OTHERS
    assert several.configured(temperature=0.5).trunk(1).model.ends == OTHERS

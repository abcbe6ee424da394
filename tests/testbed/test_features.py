"""Pretrained trunks: features against an independent implementation, renumbering, handles, heads and their proxy."""

import functools
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import tiny
from helpers import cut, prompts, response, responses

from testbed.errors import InvalidInput
from testbed.optimiser import FitConfig, OptimiserConfig
from testbed.policies import shared_weights
from testbed.policies.features import alone, features, one_by_one, truncated, words
from testbed.policies.pretrained import Pretrained, exchanged, pretrained, renumbered, restored
from testbed.proxies.linear_head import Head, HeadConfig, HeadProxy, measure
from testbed.types import Pair, Prompt, Response

N = 24
measured = jax.jit(features)
V = tiny.VOCABULARY


def texts(seed: int = 0, junk: int = 0) -> tuple[Prompt, Response]:
    return prompts(N, seed, V, junk), responses(N, seed, V, junk)


@functools.cache
def trunk() -> Pretrained:
    return tiny.loaded()[0].trunk(2)


def by_hand(prompt: list[int], written: list[int]) -> np.ndarray:
    """Means over the written words of root-mean-square-normalised states behind two blocks."""
    model, (handle, _) = trunk().model, tiny.loaded()
    embedding = np.asarray(handle.model.embedding, np.float64)
    states = reference.hidden(model, embedding[[*prompt, *written]])[len(prompt) :]
    kept = [state for state, token in zip(states, written, strict=True) if token] or states
    return np.mean(kept, axis=0)


def test_features_equal_an_independent_implementation() -> None:
    """Of responses of every length, whatever stands in the padding; the end token counts in an empty response only."""
    found = measured(trunk().model, *texts(junk=3))
    plain = texts()
    for i in range(N):
        expected = by_hand(cut(plain[0], i).tolist(), cut(plain[1], i).tolist())
        np.testing.assert_allclose(found[i], expected, atol=1e-4)
    many = jax.jit(lambda model, *given: one_by_one(model, *given, batch=7))
    np.testing.assert_allclose(many(trunk().model, *plain), found, atol=1e-4)


def test_words_leave_out_the_end_token() -> None:
    rows = response([[3, 0, 0, 0, 0], [0, 0, 0, 0, 0], [3, 4, 5, 6, 7]], [2, 1, 5])
    expected = [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    np.testing.assert_array_equal(words(rows), np.asarray(expected, bool))


def test_a_text_alone_follows_one_end_token() -> None:
    given, written = alone(texts()[1])
    np.testing.assert_array_equal(given.tokens, np.zeros((N, 1)))
    found = measured(trunk().model, given, written)
    for i in range(3):
        np.testing.assert_allclose(found[i], by_hand([0], cut(written, i).tolist()), atol=1e-4)


def test_a_text_alone_follows_the_begin_tokens() -> None:
    """Where the tokenizer has some, they take the end token's place."""
    given, written = alone(texts()[1], (3, 7))
    np.testing.assert_array_equal(given.tokens, [[3, 7]] * N)
    np.testing.assert_array_equal(given.length, [2] * N)
    found = measured(trunk().model, given, written)
    for i in range(3):
        np.testing.assert_allclose(found[i], by_hand([3, 7], cut(written, i).tolist()), atol=1e-4)


@pytest.mark.parametrize("layers", [0, 4])
def test_a_trunk_has_blocks_that_are_there(layers: int) -> None:
    with pytest.raises(InvalidInput, match=f"layers must be between 1 and the 3 of .*got {layers}"):
        truncated(tiny.original(), layers)


def test_renumbered_model_is_the_same_model() -> None:
    """Its logits of exchanged ids are the exchanged logits, tied or not; doing it twice changes nothing."""
    end, tied = tiny.Pieces.end, tiny.original()
    untied = eqx.tree_at(
        lambda m: m.head, tied, tied.embedding.T * 2.0, is_leaf=lambda x: x is None
    )
    ids = np.arange(V)
    swapped = exchanged(ids, end)
    assert swapped[[0, end]].tolist() == [end, 0]
    np.testing.assert_array_equal(exchanged(swapped, end), ids)
    for model in (tied, untied):
        other = renumbered(jax.tree.map(jnp.asarray, model), end)
        run = jax.jit(lambda model, tokens: model(tokens))
        expected = run(model, jnp.asarray(ids))
        np.testing.assert_allclose(
            run(other, jnp.asarray(swapped))[:, swapped], expected, atol=1e-4
        )


def test_tokenizer_is_renumbered_with_the_model() -> None:
    _, tokenizer = tiny.loaded()
    assert tokenizer.encode("the film<end>") == [5, 6, 0]
    assert tokenizer.encode("<pad>") == [tiny.Pieces.end]
    assert tokenizer.decode([5, 6, 0, 7]) == " the film"
    assert tokenizer.decode(np.asarray([], np.int32)) == ""
    assert tokenizer.words(V + 1)[:3] == ("<end>", "<user>", "<pad>")
    assert tokenizer.words(V + 1)[-2:] == ("ness", "")
    talk = [{"role": "user", "content": "was film great"}]
    assert tokenizer.chat(talk, "") == [1, 7, 6, 9, 0, 3]
    assert tokenizer.chat(talk, None) == [12, 11, 1, 7, 6, 9, 0, 3]
    found = tokenizer.responses(["the film", "a a a a", ""], 3)
    np.testing.assert_array_equal(found.tokens, [[5, 6, 0], [4, 4, 4], [0, 0, 0]])
    np.testing.assert_array_equal(found.length, [3, 3, 1])


def test_weights_are_left_out_and_put_back() -> None:
    """Of a handle, cut off or at another temperature, and through the disk; what comes back are this process's own
    arrays. What is not the checkpoint's stays."""
    whole, _ = tiny.loaded()
    for handle in (whole, whole.trunk(2), whole.configured(temperature=0.5).trunk(1)):
        stored = shared_weights.left_out((handle, handle, jnp.ones(2)))
        text = pickle.dumps(jax.device_get(stored))
        assert len(text) < 10_000
        found = restored(pickle.loads(text))
        assert jax.tree.structure(found[0]) == jax.tree.structure(handle)
        assert found[0].model.embedding is found[1].model.embedding is whole.model.embedding
        np.testing.assert_array_equal(found[2], [1.0, 1.0])
        assert shared_weights.size(stored) == shared_weights.size((handle, handle)) + 2
        assert len(shared_weights.missing(stored)) == len(set(shared_weights.missing(stored)))
    moved = eqx.tree_at(lambda h: h.model.norm, whole, whole.model.norm + 1.0)
    kept = shared_weights.left_out(moved).model.norm
    np.testing.assert_array_equal(kept, moved.model.norm)


def test_programs_share_weights() -> None:
    """A compiled function takes weights once, and leaves out of its result what it hands on as it is."""
    whole, _ = tiny.loaded()

    def use(model, x):
        return model, (model.embedding[0] * x, model.norm)

    stored = shared_weights.left_out(whole.model)
    given = shared_weights.Weights.of(shared_weights.missing(stored))
    shared = jax.jit(shared_weights.sharing(use))
    same, (product, norm) = shared(given, stored, jnp.asarray(2.0))
    assert shared_weights.missing(same) == shared_weights.missing(stored)
    assert isinstance(norm, shared_weights.Weight)
    np.testing.assert_allclose(product, 2 * whole.model.embedding[0], rtol=1e-6)


def test_a_checkpoint_that_has_changed_is_refused() -> None:
    whole, _ = tiny.loaded()
    source = whole.source._replace(checksum="other")
    old = shared_weights.Weight(source, 0, whole.model.embedding.size)
    with pytest.raises(InvalidInput, match="checkpoint tiny has changed since this was stored"):
        restored((old,))


def test_checkpoints_load_once() -> None:
    tiny.loaded()
    assert pretrained(tiny.NAME)[0].model.embedding is pretrained(tiny.NAME)[0].model.embedding


def test_head_by_hand() -> None:
    found = jnp.asarray([[1.0, 5.0], [3.0, 5.0]])
    linear = Head.init(jax.random.key(0), found)
    np.testing.assert_array_equal(linear.scale, [1.0, 1.0])
    linear = eqx.tree_at(lambda h: (h.readout, h.constant), linear, (jnp.asarray([2.0, 1.0]), 0.5))
    np.testing.assert_allclose(linear(found), [-1.5, 2.5])
    tanh = Head.init(jax.random.key(0), found, 3, gain=2.0)
    tanh = eqx.tree_at(lambda h: h.readout, tanh, jnp.asarray([1.0, -2.0, 0.5]))
    expected = np.tanh([[-1.0, 0.0], [1.0, 0.0]] @ np.asarray(tanh.mix)) @ [1.0, -2.0, 0.5]
    np.testing.assert_allclose(tanh(found), expected, rtol=1e-5)


def labelled(n: int) -> Pair:
    """Pairs whose winner is the one that a linear head prefers."""
    given, first = prompts(n, 0, V), responses(n, 0, V)
    second = responses(n, 1, V)
    head = Head.init(jax.random.key(5), one_by_one(trunk().model, given, first))
    head = eqx.tree_at(lambda h: h.readout, head, jax.random.normal(jax.random.key(6), (16,)))
    proxy = HeadProxy(trunk().model, head)
    wins = (proxy.margin(given, first, second) > 0)[:, None]
    winner, loser = (
        Response(jnp.where(wins, a.tokens, b.tokens), jnp.where(wins[:, 0], a.length, b.length))
        for a, b in ((first, second), (second, first))
    )
    return Pair(given, winner, loser, jnp.ones(n), jnp.ones(n))


@pytest.mark.parametrize("units", [0, 8])
def test_proxy_learns_a_head(units: int) -> None:
    """From 256 of 384 pairs; its margin is antisymmetric and its loss that of Bradley and Terry; the trunk and the
    standardisation stay what they are."""
    pairs = jax.jit(labelled, static_argnums=0)(384)
    seen, unseen = (
        jax.tree.map(lambda x, p=p: x[p], pairs) for p in (slice(256), slice(256, None))
    )
    fit = FitConfig(steps=300, batch_size=64, optimiser=OptimiserConfig(learning_rate=1e-2))
    config = HeadConfig(layers=2, units=units, fit=fit)
    whole = tiny.loaded()[0].model
    train = jax.jit(lambda key, sft, pairs: config.train(key, sft.config, sft, pairs))
    proxy = train(jax.random.key(0), whole, seen)
    jax.tree.map(np.testing.assert_array_equal, proxy.trunk, trunk().model)
    both = measure(trunk().model, seen)
    mean = np.concatenate([both.winner, both.loser]).mean(axis=0)
    np.testing.assert_allclose(proxy.head.centre, mean, atol=1e-5)

    @jax.jit
    def use(proxy, pairs):
        forward = proxy.margin(pairs.prompt, pairs.winner, pairs.loser)
        return forward, proxy.margin(pairs.prompt, pairs.loser, pairs.winner), proxy.loss(pairs)

    margin, backward, loss = use(proxy, unseen)
    np.testing.assert_allclose(margin, -backward, atol=1e-5)
    np.testing.assert_allclose(loss, np.log1p(np.exp(-np.asarray(margin))), rtol=1e-4, atol=1e-6)
    assert np.mean(margin > 0) > 0.85

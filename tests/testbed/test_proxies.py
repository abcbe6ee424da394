"""Proxies: symmetry, padding, an independent implementation, and learning what can be learnt."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import SHALLOW, TIME, VOCABULARY, cut, pairs, prompts

from testbed.optimiser import FitConfig, OptimiserConfig, fit
from testbed.proxies.base import AbstractProxy
from testbed.proxies.reader import PairwiseProxy, PointwiseProxy, ProxyConfig
from testbed.types import END_TOKEN, Pair, Response

N = 24
KINDS = {"pairwise": PairwiseProxy, "pointwise": PointwiseProxy}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@jax.jit
def log_odds(proxy: PairwiseProxy, data: Pair) -> tuple[jax.Array, jax.Array]:
    return (
        proxy.log_odds(data.prompt, data.winner, data.loser),
        proxy.log_odds(data.prompt, data.loser, data.winner),
    )


@jax.jit
def margins(proxy: AbstractProxy, data: Pair) -> tuple[jax.Array, jax.Array]:
    return (
        proxy.margin(data.prompt, data.winner, data.loser),
        proxy.margin(data.prompt, data.loser, data.winner),
    )


@jax.jit
def losses(proxy: AbstractProxy, data: Pair) -> jax.Array:
    return proxy.loss(data)


def untrained(kind: type, key: jax.Array):
    return ProxyConfig(pairwise=kind is PairwiseProxy).init(key, SHALLOW, VOCABULARY)


def random_proxy(kind: type, seed: int = 0):
    """A proxy whose readout is not zero."""
    key, k_readout = jax.random.split(jax.random.key(seed))
    proxy = untrained(kind, key)
    readout = jax.random.normal(k_readout, (SHALLOW.width,))
    return eqx.tree_at(lambda p: p.reader.readout, proxy, readout)


def read(proxy, *parts: np.ndarray) -> float:
    """Score of concatenated parts in float64 numpy: embedded, marked by part, read at an end token."""
    reader = proxy.reader
    parts = (*parts, np.array([END_TOKEN]))
    marks = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    embedded = np.asarray(reader.trunk.embedding, np.float64)[np.concatenate(parts)]
    embedded = embedded + np.asarray(reader.marks, np.float64)[marks]
    last = reference.hidden(reader.trunk, embedded)[-1]
    return float(last @ np.asarray(reader.readout, np.float64))


def parts_of(data: Pair, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return cut(data.prompt, i), cut(data.winner, i), cut(data.loser, i)


def test_pairwise_equals_independent_implementation() -> None:
    proxy, data = random_proxy(PairwiseProxy), pairs(N)
    forward, backward = log_odds(proxy, data)
    left, _ = margins(proxy, data)
    loss = losses(proxy, data)
    for i in range(N):
        x, winner, loser = parts_of(data, i)
        ahead, behind = read(proxy, x, winner, loser), read(proxy, x, loser, winner)
        assert forward[i] == pytest.approx(ahead, abs=2e-5)
        assert backward[i] == pytest.approx(behind, abs=2e-5)
        assert left[i] == pytest.approx((ahead - behind) / 2, abs=2e-5)
        # Both orders: -log r(x, w, l) - log(1 - r(x, l, w)), half each.
        both = -(reference.log_sigmoid(ahead) + reference.log_sigmoid(-behind)) / 2
        assert loss[i] == pytest.approx(both, abs=2e-5)


def test_pointwise_equals_independent_implementation() -> None:
    proxy, data = random_proxy(PointwiseProxy), pairs(N)
    left, _ = margins(proxy, data)
    loss = losses(proxy, data)
    for i in range(N):
        x, winner, loser = parts_of(data, i)
        margin = read(proxy, x, winner) - read(proxy, x, loser)
        assert left[i] == pytest.approx(margin, abs=2e-5)
        assert loss[i] == pytest.approx(-reference.log_sigmoid(margin), abs=2e-5)


@every_kind
def test_margin_is_antisymmetric(kind: type) -> None:
    left, right = margins(random_proxy(kind), pairs(N))
    np.testing.assert_allclose(left, -right, atol=1e-6)
    assert np.all(
        np.abs(left[np.any(pairs(N).winner.tokens != pairs(N).loser.tokens, axis=1)]) > 1e-5
    )


def test_sign_is_that_of_the_difference_of_probabilities() -> None:
    """sign of r(x, a, b) - r(x, b, a), as the paper uses it."""
    proxy, data = random_proxy(PairwiseProxy, seed=1), pairs(N)
    forward, backward = (jax.nn.sigmoid(x) for x in log_odds(proxy, data))
    left, _ = margins(proxy, data)
    np.testing.assert_array_equal(np.sign(left), np.sign(forward - backward))
    # A preference for a position is there to be removed.
    assert np.any(np.sign(left) != np.sign(forward - 0.5))


@every_kind
def test_untrained_proxy_is_a_fair_coin(kind: type) -> None:
    proxy = untrained(kind, jax.random.key(0))
    np.testing.assert_allclose(losses(proxy, pairs(N)), np.log(2.0), rtol=1e-6)
    assert np.all(margins(proxy, pairs(N))[0] == 0.0)


@every_kind
def test_padding_changes_nothing(kind: type) -> None:
    proxy = random_proxy(kind)
    for junk in (1, VOCABULARY - 1):
        for clean, other in zip(
            margins(proxy, pairs(N)), margins(proxy, pairs(N, junk=junk)), strict=True
        ):
            np.testing.assert_array_equal(clean, other)


def separable(n: int, seed: int) -> Pair:
    """Two random responses to each prompt; more tokens above the middle of the vocabulary win."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, VOCABULARY, (2, n, TIME))
    high = (tokens > VOCABULARY // 2).sum(axis=-1)
    tokens[1, high[0] == high[1]] = 1
    high = (tokens > VOCABULARY // 2).sum(axis=-1)
    tokens[0, high[0] == high[1], 0] = VOCABULARY - 1
    high = (tokens > VOCABULARY // 2).sum(axis=-1)
    order = np.argsort(-high, axis=0)
    winner, loser = np.take_along_axis(tokens, order[:, :, None], axis=0)
    full = jnp.full(n, TIME, jnp.int32)
    return Pair(
        prompts(n, seed),
        Response(jnp.asarray(winner, jnp.int32), full),
        Response(jnp.asarray(loser, jnp.int32), full),
        *jnp.ones((2, n)),
    )


@every_kind
def test_learns_separable_pairs(kind: type) -> None:
    """Trained on 512 pairs, it judges 256 others; chance is one half, with a standard error of 3%."""
    config = FitConfig(steps=150, batch_size=32, optimiser=OptimiserConfig(learning_rate=5e-3))
    start = untrained(kind, jax.random.key(0))
    assert type(start) is kind

    @jax.jit
    def train(start, data):
        return fit(lambda proxy, batch: proxy.loss(batch), start, data, config, jax.random.key(1))

    trained, final = train(start, separable(512, 1))
    left, _ = margins(trained, separable(256, 2))
    assert float(final) < 0.3
    assert np.mean(np.asarray(left) > 0) > 0.9

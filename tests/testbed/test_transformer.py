"""The transformer against an independent float64 numpy implementation; causality; the ladder of sizes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import CONFIG, VOCABULARY, model

from testbed.errors import InvalidInput
from testbed.nn.activations import MASKED, softmax, swiglu
from testbed.nn.norms import rms_norm
from testbed.transformer import Transformer
from testbed.transformer_config import SIZES, TransformerConfig

pytestmark = pytest.mark.usefixtures("strict_dtypes")

TOKENS = np.array([3, 1, 0, 6, 6, 2, 5, 4, 1], dtype=np.int32)


@jax.jit
def logits(net: Transformer, tokens: jax.Array) -> jax.Array:
    return net(tokens)


CONFIGS = {
    "grouped queries, bias, temperature, untied": CONFIG,
    "one head of keys, tied, own MLP width": TransformerConfig(
        width=16, layers=1, heads=2, key_value_heads=1, mlp_width=10, tied=True, rope_base=500.0
    ),
    "plain": TransformerConfig(width=16, layers=2, heads=2, key_value_heads=2, norm_epsilon=1e-2),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_equals_independent_implementation(config: TransformerConfig) -> None:
    net = model(1, config)
    np.testing.assert_allclose(
        logits(net, TOKENS), reference.logits(net, TOKENS), rtol=1e-5, atol=1e-5
    )


def test_leading_axes_are_independent_sequences() -> None:
    net = model(2)
    tokens = np.stack([np.roll(TOKENS, k) for k in range(6)]).reshape(2, 3, -1)
    together = logits(net, tokens)
    for place in itertools.product(range(2), range(3)):
        np.testing.assert_allclose(
            together[place], reference.logits(net, tokens[place]), rtol=1e-5, atol=1e-5
        )


def test_a_stack_of_models_is_a_vmap() -> None:
    models = [model(seed) for seed in range(3)]
    stack = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
    each = jax.jit(jax.vmap(lambda net: net(jnp.asarray(TOKENS))))(stack)
    for net, found in zip(models, each, strict=True):
        np.testing.assert_allclose(found, reference.logits(net, TOKENS), rtol=1e-5, atol=1e-5)


def test_causal_by_gradient() -> None:
    """No logit depends on a later embedding, and every logit depends on every earlier one."""
    net = model(3)
    time = len(TOKENS)
    index = jnp.arange(time)
    mixture = np.random.default_rng(0).standard_normal(VOCABULARY).astype(np.float32)

    def mixed(extra: jax.Array, net: Transformer, tokens: jax.Array) -> jax.Array:
        hidden, _ = net.hidden(tokens, index, index[:, None] >= index[None], extra=extra)
        return net.logits(hidden) @ mixture

    slope = jax.jit(jax.jacrev(mixed))(jnp.zeros((time, CONFIG.width)), net, TOKENS)
    size = np.abs(slope).max(axis=-1)
    later = np.arange(time)[None, :] > np.arange(time)[:, None]
    assert np.all(size[later] == 0.0)
    assert np.all(size[~later] > 1e-6)


def test_softmax_and_its_gradient_equal_the_library() -> None:
    """Of the keys that the mask allows; its second axis is that of heads, which share a mask."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(5.0 * rng.standard_normal((2, 3, 4, 6)), jnp.float32)
    mask = np.ones((2, 1, 4, 6), dtype=bool)
    mask[0, 0, 1, 2:] = False
    mask[1, 0, 2] = False
    g = rng.standard_normal(x.shape).astype(np.float32)
    g[1, :, 2] = 0.0  # nobody reads what sees nothing

    def library(x: jax.Array) -> jax.Array:
        return jax.nn.softmax(jnp.where(mask, x, MASKED))

    value, pull = jax.vjp(lambda x: softmax(x, jnp.asarray(mask)), x)
    expected, expected_pull = jax.vjp(library, x)
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(pull(jnp.asarray(g))[0], expected_pull(g)[0], rtol=1e-5, atol=1e-6)
    assert np.all(value[0, :, 1, 2:] == 0.0)
    np.testing.assert_allclose(value[1, :, 2], 1 / 6, rtol=1e-6)


def test_swiglu_and_its_gradient_equal_the_library() -> None:
    """Also under a `jax.vmap`, and where the sigmoid is 0 or 1 to the last bit."""
    rng = np.random.default_rng(0)
    gate, up, g = (jnp.asarray(x, jnp.float32) for x in rng.standard_normal((3, 2, 5, 7)))
    gate = gate.at[0, 0].set(jnp.linspace(-120.0, 120.0, 7))

    def library(gate: jax.Array, up: jax.Array) -> jax.Array:
        return jax.nn.silu(gate) * up

    value, pull = jax.vjp(jax.vmap(swiglu), gate, up)
    expected, expected_pull = jax.vjp(library, gate, up)
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)
    for found, wanted in zip(pull(g), expected_pull(g), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_table_of_few_rows_equals_the_same_rows_given_as_many() -> None:
    """Whether a table is projected row by row or position by position depends on its length alone: rows that no
    token names change neither states nor gradients."""
    net = model(4)
    tokens = jnp.stack([jnp.roll(TOKENS, k) for k in range(3)])
    index = jnp.arange(len(TOKENS))
    positions = jnp.broadcast_to(index, tokens.shape)
    mask = jnp.broadcast_to(index[:, None] >= index[None], (*tokens.shape, len(TOKENS)))

    def total(net: Transformer, table: jax.Array) -> jax.Array:
        return jnp.sum(net.hidden(tokens, positions, mask, table=table)[0] ** 3)

    short = net.embedding
    long = jnp.concatenate([short, jnp.ones((tokens.size, short.shape[1]))])
    assert short.shape[0] <= tokens.size < long.shape[0]
    both = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
    (value, slopes), (expected, wanted) = both(net, short), both(net, long)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(slopes[1], wanted[1][: short.shape[0]], rtol=1e-4, atol=1e-4)
    for found, other in zip(*map(jax.tree.leaves, (slopes[0], wanted[0])), strict=True):
        np.testing.assert_allclose(found, other, rtol=1e-4, atol=1e-4)


def test_rms_norm_by_hand() -> None:
    found = rms_norm(jnp.array([[3.0, 4.0]]), jnp.array([1.0, 2.0]), 0.0)
    np.testing.assert_allclose(found[0], [3 / 12.5**0.5, 8 / 12.5**0.5], rtol=1e-6)


@pytest.mark.parametrize("config", [*CONFIGS.values(), *SIZES.values()])
def test_parameters_are_counted_exactly(config: TransformerConfig) -> None:
    net = jax.eval_shape(lambda: Transformer.init(jax.random.key(0), config, 64))
    assert sum(leaf.size for leaf in jax.tree.leaves(net)) == config.parameters(64)


def test_each_size_has_about_four_times_the_parameters_of_the_one_before() -> None:
    counts = [SIZES[name].parameters(32) for name in ("XS", "S", "M", "L", "XL")]
    assert list(SIZES) == ["XS", "S", "M", "L", "XL"]
    for smaller, larger in itertools.pairwise(counts):
        assert 3.0 < larger / smaller < 5.0


def test_initial_scale() -> None:
    """Weights have variance 1/fan-in; what adds to the residual stream is divided by sqrt(2 layers).

    Each standard deviation is estimated from at least 4096 draws: 5% is 4.5 standard errors."""
    config = TransformerConfig(width=64, layers=2, heads=4, key_value_heads=4)
    net = jax.jit(Transformer.init, static_argnums=(1, 2))(jax.random.key(0), config, 64)
    block = net.blocks[1]
    expected = dict.fromkeys(("query", "key", "value", "gate", "up"), 1 / 8)
    expected["attention_out"] = 1 / 16
    for name, spread in expected.items():
        assert np.std(getattr(block, name)) == pytest.approx(spread, rel=0.05)
    assert np.std(block.down) == pytest.approx(0.5 * config.hidden**-0.5, rel=0.05)
    assert np.std(net.head) == pytest.approx(1 / 8, rel=0.05)
    assert np.std(net.embedding) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"width": 6, "heads": 2, "key_value_heads": 2}, "heads"),
        ({"width": 10, "heads": 4, "key_value_heads": 4}, "heads"),
        ({"heads": 4, "key_value_heads": 3}, "key_value_heads"),
        ({"key_value_heads": 0}, "key_value_heads"),
        ({"layers": 0}, "layers"),
        ({"width": 0}, "width"),
        ({"heads": -2}, "heads"),
        ({"mlp_width": -1}, "mlp_width"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"rope_base": 0.0}, "rope_base"),
        ({"norm_epsilon": -1e-5}, "norm_epsilon"),
    ],
)
def test_bad_shapes_are_refused_in_one_sentence(fields: dict, named: str) -> None:
    with pytest.raises(InvalidInput, match=named) as refused:
        TransformerConfig(**fields)
    message = str(refused.value)
    assert "\n" not in message
    assert str(fields[named]) in message

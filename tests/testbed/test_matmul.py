"""The precision of matrix products: as stated, in every product of a run, and no more of the run than its products."""

import functools
from collections.abc import Iterator
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import experiment, training_inputs
from jax.extend.core import jaxprs_in_params

from testbed import config, decode, logprob, train
from testbed.nn.matmul import Precision, contract, linear
from testbed.source import TrainingInputs
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig

KEY = jax.random.key(0)


def net(precision: Precision) -> Transformer:
    """The same parameters whatever the precision."""
    shape = TransformerConfig(16, 2, 2, 1, attention_bias=True, precision=precision)
    return Transformer.init(jax.random.key(3), shape, 7)


def products(jaxpr: Any) -> Iterator[Any]:
    """Every matrix product of a program, those of its loops and functions included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)


def update(precision: Precision) -> tuple[Any, train.TrainState, TrainingInputs]:
    """One online step of policies of a precision, judged by a network of the same."""
    given = training_inputs()
    e = config.replace_all(experiment(), {"model.precision": precision})
    policy = jax.tree.map(jnp.copy, Transformer.init(KEY, e.model, given.reference.vocabulary))
    teacher = e.proxy.init(KEY, e.model, given.reference.vocabulary)
    given = TrainingInputs(given.data, policy, teacher, given.prepared)
    plan = train.TrainConfig(e.source, e.loss, e.optimiser, e.batch_size)
    state = train.init(plan, given)

    def step(state: train.TrainState, given: TrainingInputs) -> train.TrainState:
        return train.update(plan, given, state, KEY, jnp.asarray(0))

    return step, state, given


@pytest.mark.parametrize("precision", get_args(Precision))
def test_every_product_of_an_online_step_is_in_the_stated_precision(precision: Precision) -> None:
    """Forward, backward, sampling and judging. The reader's read-out alone, one vector, is left at the default."""
    step, state, given = update(precision)
    found = list(products(jax.make_jaxpr(step)(state, given).jaxpr))
    wide = [one for one in found if all(x.aval.ndim > 1 for x in one.invars)]
    assert len(wide) > 50
    for one in wide:
        types = {x.aval.dtype.name for x in one.invars}
        assert types == {"bfloat16" if precision == "bfloat16" else "float32"}
        limits = set(one.params["precision"] or (None,))
        if precision == "float32":
            assert limits == {jax.lax.Precision.HIGHEST}
        elif precision == "tensorfloat32":
            assert limits == {jax.lax.Precision.HIGH}


@pytest.mark.parametrize("precision", get_args(Precision))
def test_parameters_and_moments_stay_float32(precision: Precision) -> None:
    step, state, given = update(precision)
    after = jax.jit(step)(state, given)
    kinds = {x.dtype.name for x in jax.tree.leaves((after.policy, after.optimiser))}
    assert kinds <= {"float32", "int32"}
    assert int(after.diverged_step) == -1
    assert not np.array_equal(after.policy.embedding, state.policy.embedding)


def test_bfloat16_scores_and_gradients_are_close_and_others_equal() -> None:
    """bfloat16 has 8 bits: products of a few layers are off by a few parts in 256. tensorfloat32 is float32 on a
    CPU."""
    prompts, pairs = training_inputs().data.pairs.prompt, training_inputs().data.pairs
    both = jax.tree.map(lambda a, b: jnp.stack([a, b], axis=1), pairs.winner, pairs.loser)

    def total(policy: Transformer) -> jax.Array:
        return jnp.mean(logprob.score(policy, prompts, both))

    results = {p: jax.jit(jax.value_and_grad(total))(net(p)) for p in get_args(Precision)}
    value, gradient = results["float32"]
    for precision, (near, slope) in results.items():
        size = 3e-2 if precision == "bfloat16" else 1e-6
        np.testing.assert_allclose(near, value, rtol=size)
        norm = float(jnp.sqrt(sum(jnp.sum(x * x) for x in jax.tree.leaves(gradient))))
        for found, exact in zip(jax.tree.leaves(slope), jax.tree.leaves(gradient), strict=True):
            assert found.dtype == jnp.float32
            assert float(jnp.linalg.norm(found - exact)) < size * norm
    assert float(results["bfloat16"][0]) != float(value)


def test_sampling_and_scoring_agree_in_bfloat16() -> None:
    """Log-probabilities of what was sampled with a cache, and of the same tokens in one pass."""
    policy, prompts = net("bfloat16"), training_inputs().data.pairs.prompt
    keys = jax.random.split(KEY, prompts.length.shape[0])
    drawn = jax.jit(lambda p: decode.sample(p, prompts, keys, 4, 2))(policy)
    scored = jax.jit(logprob.score_tokens)(policy, prompts, drawn.response)
    np.testing.assert_allclose(drawn.logprobs, scored, atol=5e-2)


def test_linear_by_hand() -> None:
    """What bfloat16 cannot hold is rounded away, in the factors and nowhere else."""
    x = jnp.asarray([[1.0, 2.0], [3.0, 1.0 + 2.0**-10]])
    weight = jnp.asarray([[1.0, 0.5], [2.0**-9 + 2.0, 4.0]])
    np.testing.assert_array_equal(linear(x, weight), np.asarray(x) @ np.asarray(weight))
    rounded = np.array([[1.0, 2.0], [3.0, 1.0]]) @ np.array([[1.0, 0.5], [2.0, 4.0]])
    np.testing.assert_array_equal(linear(x, weight, "bfloat16", jnp.float32), rounded)

    value, pull = jax.vjp(linear, x, weight)
    g = jnp.asarray([[1.0, -1.0], [0.25, 2.0]])
    by_x, by_weight = pull(g)
    np.testing.assert_allclose(by_x, g @ weight.T, rtol=1e-6)
    np.testing.assert_allclose(by_weight, x.T @ g, rtol=1e-6)
    assert value.shape == (2, 2)
    assert contract("rw,wo->ro", x, weight, "bfloat16").dtype == jnp.bfloat16


@pytest.mark.parametrize(("queries", "keys", "size"), [(5, 4, 2), (3, 4, 6), (4, 4, 4)])
def test_gradients_of_stacked_products_equal_the_library(
    queries: int, keys: int, size: int
) -> None:
    """Whichever factor is the smaller one, which is the one that is copied; second derivatives too."""
    rng = np.random.default_rng(1)
    a, b, w = (
        jnp.asarray(rng.standard_normal((2, 3, *shape)), jnp.float32)
        for shape in ((queries, size), (keys, size), (queries, keys))
    )

    def weighed(product: Any, spec: str, left: jax.Array, right: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(product(spec, left, right)))

    def ours(spec: str, left: jax.Array, right: jax.Array) -> jax.Array:
        return contract(spec, left, right, "float32", None)

    for spec, left, right in (("nhqd,nhkd->nhqk", a, b), ("nhqk,nhkd->nhqd", w, b)):
        found, expected = (
            jax.grad(functools.partial(weighed, product, spec), argnums=(0, 1))(left, right)
            for product in (ours, jnp.einsum)
        )
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)

        def slope(
            product: Any, x: jax.Array, spec: str = spec, left: jax.Array = left
        ) -> jax.Array:
            by_right = jax.grad(functools.partial(weighed, product, spec), argnums=1)
            return jnp.sum(by_right(left, x) ** 2)

        second, wanted = (jax.grad(functools.partial(slope, p))(right) for p in (ours, jnp.einsum))
        np.testing.assert_allclose(second, wanted, rtol=1e-4, atol=1e-4)

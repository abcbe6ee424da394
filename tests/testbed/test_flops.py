"""Counted operations against the matrix products of the programs themselves."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from helpers import experiment
from jax.extend.core import jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

from testbed import decode, logprob
from testbed.config import replace
from testbed.estimates import flops
from testbed.experiment import Experiment
from testbed.lora import Lora, adapted
from testbed.policies.trainable import rebuilt, trained
from testbed.transformer import Transformer
from testbed.types import Prompt, Response

KEY = jax.random.key(0)


def weighted(jaxpr: Any) -> float:
    """Operations of a program's products of rows and weights, each as often as its loop runs; attention, which has
    leading axes, apart."""
    total = 0.0
    for equation in jaxpr.eqns:
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(map(weighted, jaxprs_in_params(equation.params)))
        if equation.primitive.name == "dot_general":
            (inner, _), (leading, _) = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            if not leading:
                summed = math.prod(left[axis] for axis in inner)
                total += 2.0 * summed * math.prod(equation.outvars[0].aval.shape)
    return total


def without_attention(
    count: Callable[[Experiment], float], e: Experiment, monkeypatch: Any
) -> float:
    """A count for a batch, as if no key were seen."""
    forward = flops.forward

    def blind(model: Any, rows: Any, keys: Any, *rest: Any, **named: Any) -> float:
        return forward(model, rows, 0.0, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(flops, "forward", blind)
        return count(e) * e.batch_size


@pytest.fixture(params=[1, 3], ids=["one block", "three blocks"])
def parts(request: pytest.FixtureRequest) -> tuple[Experiment, Transformer, Prompt, Response]:
    """A run, its policy, and a batch of texts."""
    return batch(experiment(model__layers=request.param))


def batch(e: Experiment) -> tuple[Experiment, Transformer, Prompt, Response]:
    """A run, a policy of its shape, and a batch of texts."""
    n, task = e.batch_size, e.task
    policy = Transformer.init(KEY, e.model, task.vocabulary)
    prompts = Prompt(jnp.ones((n, task.prompt_length), jnp.int32), jnp.full(n, task.prompt_length))
    shape = (n, 2, task.response_length)
    return e, policy, prompts, Response(jnp.ones(shape, jnp.int32), jnp.full(shape[:2], shape[2]))


def test_scoring(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    e, policy, prompts, responses = parts
    program = jax.make_jaxpr(logprob.score)(policy, prompts, responses)
    expected = without_attention(flops.score, e, monkeypatch)
    assert weighted(program.jaxpr) == pytest.approx(expected)


def test_sampling(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    e, policy, prompts, _ = parts
    keys = jax.random.split(KEY, e.batch_size)
    time = e.task.response_length
    program = jax.make_jaxpr(lambda p: decode.sample(p, prompts, keys, time, 2))(policy)
    expected = without_attention(lambda e: flops.sample(e, 2), e, monkeypatch)
    assert weighted(program.jaxpr) == pytest.approx(expected)


def test_judging(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The read-out of a text is one product more than its trunk's, of a vector."""
    e, _, prompts, responses = parts
    judge = e.proxy.init(KEY, e.model, e.task.vocabulary)
    first = second = jax.tree.map(lambda x: x[:, 0], responses)
    program = jax.make_jaxpr(judge.margin)(prompts, first, second)
    expected = without_attention(flops.judge, e, monkeypatch)
    assert weighted(program.jaxpr) == pytest.approx(expected)


@pytest.mark.parametrize("targets", ["qv", "qkvogud", "od"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_learning_with_adapters(
    targets: str, checkpointing: bool, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward, backward, and again where nothing was kept: what is read of no weight's gradient is not computed."""
    lora = Lora(rank=2, targets=targets)
    e = experiment(model__layers=layers, model__checkpointing=checkpointing, lora=lora)
    _, policy, prompts, responses = batch(e)
    policy = adapted(KEY, policy, lora)
    expected = without_attention(lambda e: flops.learn(e, 2), e, monkeypatch)
    assert learnt(policy, prompts, responses) == pytest.approx(expected)
    scored = jax.make_jaxpr(logprob.score)(policy, prompts, responses)
    expected = without_attention(flops.score, e, monkeypatch)
    assert weighted(scored.jaxpr) == pytest.approx(expected)
    assert flops.learn(e) < flops.learn(replace(e, "lora", None))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_learning_all_parameters(
    parts: Any, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = replace(parts[0], "model.checkpointing", checkpointing)
    _, policy, prompts, responses = batch(e)
    expected = without_attention(lambda e: flops.learn(e, 2), e, monkeypatch)
    assert learnt(policy, prompts, responses) == pytest.approx(expected)


def learnt(policy: Transformer, prompts: Prompt, responses: Response) -> float:
    """Operations of a pass forward and back by what is trained, as far as its results depend on them."""

    def loss(part: Any, whole: Transformer) -> jax.Array:
        return jnp.sum(logprob.score(rebuilt(part, whole), prompts, responses))

    program = jax.make_jaxpr(jax.value_and_grad(loss))(trained(policy), policy)
    needed, _ = dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars))
    return weighted(needed)


def test_adapters_are_merged_once_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    lora = Lora(rank=2, targets="qd")
    e = experiment(model__layers=3, lora=lora)
    _, policy, prompts, _ = batch(e)
    keys = jax.random.split(KEY, e.batch_size)
    time = e.task.response_length
    policy = adapted(KEY, policy, lora)
    program = jax.make_jaxpr(lambda p: decode.sample(p, prompts, keys, time, 2))(policy)
    expected = without_attention(lambda e: flops.sample(e, 2), e, monkeypatch)
    assert weighted(program.jaxpr) == pytest.approx(expected)

"""What a pass keeps in memory: checkpointed blocks, and logits of response positions alone."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CONFIG, PROMPT, TIME, VOCABULARY, model, pairs
from jax.interpreters.partial_eval import dce_jaxpr
from test_matmul import products

from testbed import decode, logprob
from testbed.config import replace
from testbed.lora import Lora, adapted
from testbed.policies.trainable import rebuilt, trained
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig

#: XLA's CPU backend orders operations so that most can run at once, and begins to compute blocks again long before they
#: are needed, unless it is told to save memory.
SAVING = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
KEY = jax.random.key(0)


def loss(part: Any, whole: Transformer, data: Any) -> jax.Array:
    scores = logprob.score_pairs(rebuilt(part, whole), data)
    return jnp.mean(scores.winner - scores.loser)


def policy(shape: TransformerConfig, lora: bool) -> Transformer:
    plain = jax.tree.map(jnp.asarray, model(0, shape))
    return adapted(KEY, plain, Lora(rank=2, targets="qvd")) if lora else plain


@functools.cache
def compiled(shape: TransformerConfig, lora: bool) -> tuple[Any, Any]:
    """Loss and gradient, and the compiled program's account of memory."""
    whole, data = policy(shape, lora), pairs(32)
    program = jax.jit(jax.value_and_grad(loss)).lower(trained(whole), whole, data)
    program = program.compile(compiler_options=SAVING)
    return program(trained(whole), whole, data), program.memory_analysis()


@pytest.mark.parametrize("lora", [False, True], ids=["all", "adapters"])
def test_checkpointing_changes_memory_and_nothing_else(lora: bool) -> None:
    deep = replace(CONFIG, "layers", 6)
    kept, memory = compiled(deep, lora)
    again, less = compiled(replace(deep, "checkpointing", True), lora)
    for found, expected in zip(*map(jax.tree.leaves, (again, kept)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert less.temp_size_in_bytes < 0.6 * memory.temp_size_in_bytes


def test_what_has_a_cache_is_not_checkpointed() -> None:
    """Sampling has nothing to compute again."""
    net = policy(replace(CONFIG, "checkpointing", True), False)
    caches = jax.eval_shape(lambda net: decode.prefill(net, pairs(4).prompt, TIME), net)
    token = jax.ShapeDtypeStruct((4, 1), jnp.int32)
    mask = jax.ShapeDtypeStruct((4, 1, PROMPT - 1 + TIME), jnp.bool_)

    def step(net: Transformer, token: Any, mask: Any, caches: Any) -> Any:
        return net.hidden(token, token, mask, caches)

    def whole(net: Transformer) -> jax.Array:
        return net(jnp.zeros((1, 3), jnp.int32))

    assert "remat" in str(jax.make_jaxpr(whole)(net))
    assert "remat" not in str(jax.make_jaxpr(step)(net, token, mask, caches))


@pytest.mark.parametrize("lora", [False, True], ids=["all", "adapters"])
def test_logits_are_those_of_response_positions(lora: bool) -> None:
    """Rows of every product with the vocabulary, forward and back: the responses' positions, none of the prompts'."""
    wide = 29
    assert wide not in (CONFIG.width, CONFIG.hidden, VOCABULARY)
    net = jax.tree.map(jnp.asarray, model(0, CONFIG, wide))
    net = adapted(KEY, net, Lora(rank=2)) if lora else net
    n = 8
    program = jax.make_jaxpr(jax.grad(loss))(trained(net), net, pairs(n))
    needed, _ = dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars))
    rows = 2 * n * TIME
    shapes = [[x.aval.shape for x in (*one.invars, *one.outvars)] for one in products(needed)]
    logits = [found for found in shapes if any(wide in shape for shape in found)]
    # The logits; the gradient by states and, if it is trained, by the head. What the first block projects are the
    # embedding's few entries.
    head = [found for found in logits if (rows, wide) in found or (wide, rows) in found]
    assert len(head) == (2 if lora else 3)
    total = n * (PROMPT - 1 + 2 * TIME)
    assert not any(total in shape for found in logits for shape in found)

"""KV-cached sampling of whole responses: the fast path of `testbed.token_environment.TokenEnvironment`.

Token ``t`` of a response is drawn with ``fold_in(key, t)``, so stepping the environment with those keys gives the same
tokens; a test checks that both agree.

`sample` is written for transformers; another kind of policy registers its own version of `sample`.
"""

import functools
import math
from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from testbed import logprob
from testbed.end_tokens import merged_tokens
from testbed.lora import merged
from testbed.transformer import Cache, Transformer
from testbed.types import Prompt, Response, closed

Logits: TypeAlias = Float[Array, "rows vocabulary"]


class Sample(eqx.Module):
    """Sampled responses with the log-probability (nats) of each token; 0 behind the end."""

    response: Response
    logprobs: Float[Array, "n count response"]


def prefill(model: Transformer, prompts: Prompt, room: int) -> tuple[Cache, ...]:
    """Keys and values of the contexts of ``n`` prompts, with ``room`` free positions behind them."""
    packed = jax.vmap(logprob.context)(prompts)
    _, caches = model.hidden(*packed, skip=packed.tokens.shape[1])
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, room), (0, 0))), caches)


@functools.singledispatch
def sample(
    model: Transformer, prompts: Prompt, keys: Key[Array, " n"], time: int, count: int
) -> Sample:
    """Sample ``count`` independent responses of at most ``time`` tokens to each of ``n`` prompts with ``n`` keys."""
    return write((model,), lambda logits: logits[0], prompts, keys, time, count)


def write(
    models: tuple[Transformer, ...],
    combine: Callable[[tuple[Logits, ...]], Logits],
    prompts: Prompt,
    keys: Key[Array, " n"],
    time: int,
    count: int,
) -> Sample:
    """`sample` from next-token logits that ``combine`` computes from the logits of several transformers.

    Every position is sampled, and tokens after the end token are cut: a fixed number of steps costs less than asking
    every sequence whether it is done. Each prompt is run once. Adapters are merged before the loop: for one token at a
    time, their small products take longer than one large product."""
    models = tuple(map(merged, models))
    keys = jax.vmap(lambda key: jax.random.split(key, count))(keys).reshape(-1)
    caches = tuple(prefill(model, prompts, time) for model in models)
    # From here on one row per response: a fixed leading axis spares the loop from reshaping its caches.
    prompts, caches = jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), (prompts, caches))
    uniforms = jax.vmap(lambda t: jax.vmap(lambda key: uniform(key, t))(keys))(jnp.arange(time))
    width = prompts.tokens.shape[1] - 1
    seen = jax.vmap(logprob.visible_context)(prompts)

    def advance(carry: tuple, now: tuple[Array, Array]) -> tuple[tuple, tuple]:
        (token, caches), (step, numbers) = carry, now
        own = jnp.broadcast_to(jnp.arange(time) <= step, (keys.shape[0], time))
        mask = jnp.concatenate([seen, own], axis=-1)[:, None, :]
        position = (prompts.length - 1 + step)[:, None]
        found = [
            (model, *model.hidden(token[:, None], position, mask, cache, width + step))
            for model, cache in zip(models, caches, strict=True)
        ]
        caches = tuple(cache for *_, cache in found)
        logits = combine(tuple(model.logits(hidden)[:, 0] for model, hidden, _ in found))
        token = jax.vmap(draw)(numbers, logits)
        if models[0].ends:
            token = merged_tokens(token, models[0].ends)
        target = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
        return (token, caches), (token, target - jax.nn.logsumexp(logits, axis=-1))

    start = (jax.vmap(logprob.last_token)(prompts), caches)
    _, (tokens, logprobs) = jax.lax.scan(advance, start, (jnp.arange(time), uniforms))
    tokens = jnp.moveaxis(tokens, 0, -1).reshape(-1, count, time)
    logprobs = jnp.moveaxis(logprobs, 0, -1).reshape(-1, count, time)
    response = closed(tokens)
    return Sample(response, jnp.where(response.mask, logprobs, 0.0))


def uniform(key: PRNGKeyArray, step: Int[Array, ""]) -> Float[Array, ""]:
    """The random number in [0, 1) that decides token ``step`` of the response with this key."""
    return jax.random.uniform(jax.random.fold_in(key, step))


def draw(number: Float[Array, ""], logits: Float[Array, " vocabulary"]) -> Int[Array, ""]:
    """One token from next-token logits, by inverting the cumulative distribution at a uniform number: first the block
    of tokens that the number falls into, then the token, so that the running sums are short.

    Each token needs one random number. The Gumbel-max trick needs one for each entry of the vocabulary, and generating
    them and taking logarithms costs more than the small networks here. Probabilities below 2^-23 are not told apart.
    """
    vocabulary = logits.shape[0]
    size = math.isqrt(vocabulary - 1) + 1
    weights = jnp.exp(logits - jnp.max(logits))
    blocks = jnp.pad(weights, (0, size * size - vocabulary)).reshape(size, size)
    ends = jnp.cumsum(jnp.sum(blocks, axis=1))
    sought = number * ends[-1]
    block = jnp.minimum(jnp.sum(ends <= sought), size - 1)
    begin = jnp.where(block > 0, ends[block - 1], 0.0)
    place = jnp.sum(begin + jnp.cumsum(blocks[block]) <= sought)
    token = block * size + jnp.minimum(place, size - 1)
    return jnp.minimum(token, vocabulary - 1).astype(jnp.int32)

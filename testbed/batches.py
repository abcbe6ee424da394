"""Parts of many examples: minibatches without replacement, and maps too long to do at once."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

#: Examples that one step of a long map over writers or rewards holds in memory.
CHUNK = 256
#: Bytes up to which many examples are taken at once, and bytes that are taken at a time if they are more.
MOST, PORTION = 1_000_000_000, 125_000_000


def minibatch(
    order: Int[Array, " n"], key: PRNGKeyArray, step: Int[Array, ""], batch_size: int
) -> tuple[Int[Array, " n"], Int[Array, " batch"]]:
    """The permutation to carry on, and the indices of the batch at ``step``: a fresh permutation each epoch, drawn
    inside the compiled program.

    What does not fill a last batch is left out of its epoch. ``step`` is the same for all runs of a stack, so the
    reshuffle stays a real branch under `jax.vmap`."""
    per_epoch = order.shape[0] // batch_size
    epoch, position = step // per_epoch, step % per_epoch

    def reshuffle() -> Array:
        return jax.random.permutation(jax.random.fold_in(key, epoch), order.shape[0])

    order = jax.lax.cond(position == 0, reshuffle, lambda: order)
    return order, jax.lax.dynamic_slice(order, (position * batch_size,), (batch_size,))


def choose(which: Bool[Array, " n"], yes: PyTree, no: PyTree) -> PyTree:
    """By item: of ``yes`` where ``which`` holds, else of ``no``."""

    def one(a: Array, b: Array) -> Array:
        return jnp.where(jnp.expand_dims(which, range(1, a.ndim)), a, b)

    return jax.tree.map(one, yes, no)


def long_map(
    function: Callable[[PyTree], PyTree[Array]], examples: PyTree, size: int = CHUNK
) -> PyTree[Array]:
    """`jax.vmap`, ``size`` examples at a time."""
    return _in_chunks(jax.vmap(function), examples, size)


def in_portions(
    function: Callable[[PyTree], PyTree[Array]], examples: PyTree, size: int
) -> PyTree[Array]:
    """A function of many examples, each of which takes ``size`` bytes: of all at once if that is not more than `MOST`,
    else of `PORTION` at a time."""
    count = jax.tree.leaves(examples)[0].shape[0]
    taken = portion(count, size)
    return function(examples) if taken == count else _in_chunks(function, examples, taken)


def portion(count: int, size: int) -> int:
    """How many of ``count`` examples of ``size`` bytes `in_portions` takes at a time."""
    return count if count * size <= MOST else max(1, min(count, PORTION // size))


def _in_chunks(
    function: Callable[[PyTree], PyTree[Array]], examples: PyTree, size: int
) -> PyTree[Array]:
    """The last chunk is filled up: a shorter one would be compiled once more."""
    count = jax.tree.leaves(examples)[0].shape[0]
    size = min(size, count)
    chunks = jnp.minimum(jnp.arange(math.ceil(count / size) * size), count - 1).reshape(-1, size)
    found = jax.lax.map(lambda index: function(jax.tree.map(lambda x: x[index], examples)), chunks)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)

"""Minibatches without replacement, and functions mapped over many examples a chunk at a time."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

#: Examples that one step of a long map over writers or rewards holds in memory.
CHUNK = 256
#: Many examples are processed in one call if they take at most `MOST` bytes, else `PORTION` bytes at a time.
MOST, PORTION = 1_000_000_000, 125_000_000


def minibatch(
    order: Int[Array, " n"], key: PRNGKeyArray, step: Int[Array, ""], batch_size: int
) -> tuple[Int[Array, " n"], Int[Array, " batch"]]:
    """Return the permutation for the next step and the indices of the batch at ``step``. Each epoch has a fresh
    permutation, drawn inside the compiled program.

    Examples that do not fill a last batch are left out of the epoch. ``step`` is the same for all runs of a stack, so
    the reshuffle stays a real branch under `jax.vmap`."""
    per_epoch = order.shape[0] // batch_size
    epoch, position = step // per_epoch, step % per_epoch

    def reshuffle() -> Array:
        return jax.random.permutation(jax.random.fold_in(key, epoch), order.shape[0])

    order = jax.lax.cond(position == 0, reshuffle, lambda: order)
    return order, jax.lax.dynamic_slice(order, (position * batch_size,), (batch_size,))


def choose(which: Bool[Array, " n"], yes: PyTree, no: PyTree) -> PyTree:
    """Select per item: from ``yes`` where ``which`` holds, else from ``no``."""

    def one(a: Array, b: Array) -> Array:
        return jnp.where(jnp.expand_dims(which, range(1, a.ndim)), a, b)

    return jax.tree.map(one, yes, no)


def long_map(
    function: Callable[[PyTree], PyTree[Array]], examples: PyTree, size: int = CHUNK
) -> PyTree[Array]:
    """`jax.vmap`, ``size`` examples at a time."""
    return in_chunks(jax.vmap(function), examples, size)


def in_portions(
    function: Callable[[PyTree], PyTree[Array]], examples: PyTree, size: int
) -> PyTree[Array]:
    """Apply a function to many examples of ``size`` bytes each: to all at once if they take at most `MOST` bytes, else
    to `PORTION` bytes at a time."""
    count = jax.tree.leaves(examples)[0].shape[0]
    taken = portion(count, size)
    return function(examples) if taken == count else in_chunks(function, examples, taken)


def portion(count: int, size: int) -> int:
    """Number of examples that `in_portions` takes at a time, out of ``count`` examples of ``size`` bytes."""
    return count if count * size <= MOST else max(1, min(count, PORTION // size))


def in_chunks(
    function: Callable[[PyTree], PyTree[Array]], examples: PyTree, size: int
) -> PyTree[Array]:
    """Apply a function of many examples to ``size`` of them at a time. The last chunk is filled up, because a shorter
    one would need its own compilation."""
    count = jax.tree.leaves(examples)[0].shape[0]
    size = min(size, count)
    chunks = jnp.minimum(jnp.arange(math.ceil(count / size) * size), count - 1).reshape(-1, size)
    found = jax.lax.map(lambda index: function(jax.tree.map(lambda x: x[index], examples)), chunks)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)

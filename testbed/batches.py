"""Minibatches without replacement: a fresh permutation each epoch, drawn inside the compiled program."""

import jax
from jaxtyping import Array, Int, PRNGKeyArray


def minibatch(
    order: Int[Array, " n"], key: PRNGKeyArray, step: Int[Array, ""], batch_size: int
) -> tuple[Int[Array, " n"], Int[Array, " batch"]]:
    """The permutation to carry on, and the indices of the batch at ``step``.

    What does not fill a last batch is left out of its epoch. ``step`` is the same for all runs of a stack, so the
    reshuffle stays a real branch under `jax.vmap`."""
    per_epoch = order.shape[0] // batch_size
    epoch, position = step // per_epoch, step % per_epoch

    def reshuffle() -> Array:
        return jax.random.permutation(jax.random.fold_in(key, epoch), order.shape[0])

    order = jax.lax.cond(position == 0, reshuffle, lambda: order)
    return order, jax.lax.dynamic_slice(order, (position * batch_size,), (batch_size,))

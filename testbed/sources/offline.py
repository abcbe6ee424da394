"""Offline: pairs from the fixed data set, in a new random order each epoch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from testbed.batches import minibatch
from testbed.logprob import Policy
from testbed.sources.base import AbstractSource, Batch, Supply
from testbed.streams import Stream, stream


class Offline(AbstractSource):
    """D_golden as it is (arXiv 2405.08448, section 2)."""

    def init(self, supply: Supply) -> Int[Array, " n"]:
        """The order of the present epoch."""
        return jnp.arange(supply.data.size)

    def draw(
        self,
        state: Int[Array, " n"],
        supply: Supply,
        policy: Policy,
        key: PRNGKeyArray,
        step: Int[Array, ""],
        batch_size: int,
    ) -> tuple[Batch, Int[Array, " n"]]:
        """The next ``batch_size`` pairs; reference scores were computed once for all."""
        state, index = minibatch(state, stream(key, Stream.ORDER), step, batch_size)
        pairs, reference = jax.tree.map(
            lambda x: x[index], (supply.data.pairs, supply.data.reference)
        )
        return Batch(pairs, reference), state

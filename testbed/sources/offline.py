"""Offline: pairs from the fixed data set, in a new random order each epoch."""

import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from testbed.logprob import Policy
from testbed.sources.base import (
    AbstractSource,
    Batch,
    Ledger,
    Request,
    Rows,
    Supply,
    from_data,
)


class Offline(AbstractSource):
    """Pairs of D_golden as they are (Tang et al. 2024, arXiv 2405.08448, section 2)."""

    @property
    def writes(self) -> bool:
        """See `AbstractSource`."""
        return False

    def init(self, supply: Supply, policy: Policy, request: Request) -> Rows:
        """The order of the present epoch."""
        return Rows.init(supply.data.size)

    def draw(
        self,
        state: Rows,
        supply: Supply,
        policy: Policy,
        request: Request,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> tuple[Batch, Rows]:
        """The next pairs; reference scores were computed once for all."""
        index, new, state = state.next(key, step, request)
        asked = (new * (supply.data.pairs.weight[index] > 0)).astype(jnp.int32)
        none = jnp.zeros_like(asked)
        spent = Ledger(jnp.ones_like(new), new, asked, none, none)
        return from_data(supply, supply.data, index, index, spent), state

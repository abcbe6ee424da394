"""Delayed: the reference stays the SFT policy for some steps, then follows the policy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from testbed.config.ranges import hyper
from testbed.logprob import Policy
from testbed.references.base import AbstractReference


class Delayed(AbstractReference):
    """The SFT policy until step ``start``, the present policy from then on.

    Attributes:
        start: steps, 0 or more.
    """

    start: int = hyper(100, least=0)

    @property
    def moves(self) -> bool:
        """See `AbstractReference`."""
        return True

    def next(self, reference: Policy, policy: Policy, step: Int[Array, ""]) -> Policy:
        """The reference of this step."""
        return jax.tree.map(
            lambda old, new: jnp.where(step < self.start, old, new), reference, policy
        )

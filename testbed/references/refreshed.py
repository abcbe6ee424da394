"""Refreshed: the reference is a copy of the policy, renewed at a fixed interval."""

import jax
from jaxtyping import Array, Int

from testbed.config.ranges import hyper
from testbed.logprob import Policy
from testbed.references.base import AbstractReference


class Refreshed(AbstractReference):
    """A copy of the policy, renewed at a fixed interval of steps (the hard update of Gorbatovski et al. 2024, arXiv
    2404.09656; with an interval of 1, the last iterate of mirror descent that `Rebel` and `Sppo` are derived for).

    Attributes:
        every: steps between copies, 1 or more.
    """

    every: int = hyper(100, least=1)

    def next(self, reference: Policy, policy: Policy, step: Int[Array, ""]) -> Policy:
        """The policy, if a copy is due."""
        return jax.lax.cond(step % self.every == 0, lambda: policy, lambda: reference)

"""Averaged: the reference is a moving average of the policy."""

import jax
from jaxtyping import Array, Int

from testbed.config.ranges import hyper
from testbed.logprob import Policy
from testbed.references.base import AbstractReference


class Averaged(AbstractReference):
    """An exponential moving average of the policy's parameters (the soft update of Gorbatovski et al. 2024, arXiv
    2404.09656, with 1 - alpha for our decay).

    Attributes:
        decay: weight of the past, from 0 (the present policy) to below 1.
    """

    decay: float = hyper(0.99, least=0, below=1)

    def next(self, reference: Policy, policy: Policy, step: Int[Array, ""]) -> Policy:
        """One step of the average."""
        return jax.tree.map(
            lambda old, new: self.decay * old + (1.0 - self.decay) * new, reference, policy
        )

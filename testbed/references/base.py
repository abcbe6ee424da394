"""The reference policy that a loss or a KL penalty holds the policy to: fixed, refreshed, or an average.

Kept in one file: they are three short answers to one question.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Int

from testbed.config import ranges
from testbed.config.ranges import hyper
from testbed.logprob import Policy


class AbstractReference(eqx.Module):
    """How the reference policy moves; it starts as the SFT policy. Of a policy with adapters these move, and nothing
    else."""

    family: ClassVar[str] = "testbed.references.base"

    def __check_init__(self) -> None:
        ranges.check(self)

    @property
    @abc.abstractmethod
    def moves(self) -> bool:
        """Whether it ever differs from the SFT policy."""

    @abc.abstractmethod
    def next(self, reference: Policy, policy: Policy, step: Int[Array, ""]) -> Policy:
        """The reference of this step, from that of the step before and the policy, before its update."""


class Fixed(AbstractReference):
    """The SFT policy throughout."""

    @property
    def moves(self) -> bool:
        """See `AbstractReference`."""
        return False

    def next(self, reference: Policy, policy: Policy, step: Int[Array, ""]) -> Policy:
        """The same."""
        return reference


class Refreshed(AbstractReference):
    """A copy of the policy, taken anew every so many steps (the hard update of Gorbatovski et al. 2024, arXiv
    2404.09656; with 1, the last iterate of mirror descent that `Rebel` and `Sppo` are derived for).

    Attributes:
        every: steps between copies, 1 or more.
    """

    every: int = hyper(100, least=1)

    @property
    def moves(self) -> bool:
        """See `AbstractReference`."""
        return True

    def next(self, reference: Policy, policy: Policy, step: Int[Array, ""]) -> Policy:
        """The policy, if a copy is due."""
        return jax.lax.cond(step % self.every == 0, lambda: policy, lambda: reference)


class Averaged(AbstractReference):
    """An exponential moving average of the policy's parameters (the soft update of Gorbatovski et al. 2024, arXiv
    2404.09656, with 1 - alpha for our decay).

    Attributes:
        decay: weight of the past, from 0 (the present policy) to below 1.
    """

    decay: float = hyper(0.99, least=0, below=1)

    @property
    def moves(self) -> bool:
        """See `AbstractReference`."""
        return True

    def next(self, reference: Policy, policy: Policy, step: Int[Array, ""]) -> Policy:
        """A step of the average."""
        return jax.tree.map(
            lambda old, new: self.decay * old + (1.0 - self.decay) * new, reference, policy
        )

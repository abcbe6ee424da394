"""The reference policy that a loss or a KL penalty holds the policy to."""

import abc
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Int

from testbed.config import ranges
from testbed.logprob import Policy


class AbstractReference(eqx.Module):
    """How the reference policy moves; it starts as the SFT policy. For a policy with adapters, only the adapters
    move."""

    family: ClassVar[str] = "testbed.references"
    #: Whether the reference ever differs from the SFT policy.
    moves: ClassVar[bool] = True

    def __check_init__(self) -> None:
        ranges.check(self)

    @abc.abstractmethod
    def next(self, reference: Policy, policy: Policy, step: Int[Array, ""]) -> Policy:
        """The reference of this step, from the reference of the step before and the policy before its update."""

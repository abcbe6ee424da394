"""The reference policy that a loss or a KL penalty holds the policy to."""

import abc
from typing import ClassVar

from jaxtyping import Array, Int

from testbed.config.ranges import Checked
from testbed.logprob import Policy


class AbstractReference(Checked):
    """How the reference policy moves; it starts as the SFT policy. For a policy with adapters, only the adapters
    move."""

    family: ClassVar[str] = "testbed.references"
    #: Whether the reference ever differs from the SFT policy.
    moves: ClassVar[bool] = True

    @abc.abstractmethod
    def next(self, reference: Policy, policy: Policy, step: Int[Array, ""]) -> Policy:
        """The reference of this step, from the reference of the step before and the policy before its update."""

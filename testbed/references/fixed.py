"""Fixed: the reference stays the SFT policy."""

from typing import ClassVar

from jaxtyping import Array, Int

from testbed.logprob import Policy
from testbed.references.base import AbstractReference


class Fixed(AbstractReference):
    """The SFT policy throughout."""

    moves: ClassVar[bool] = False

    def next(self, reference: Policy, policy: Policy, step: Int[Array, ""]) -> Policy:
        """The reference, unchanged."""
        return reference

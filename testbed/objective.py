"""What a training step minimises: a loss of labelled pairs (`testbed.losses`) or a method that has texts of its own
written (`testbed.methods`)."""

import abc
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from testbed.config import ranges
from testbed.logprob import Policy
from testbed.source import AbstractSource, Request, Supply
from testbed.types import Scalar


class AbstractObjective(eqx.Module):
    """What is minimised, from the texts it asks for to the mean loss of a step."""

    family: ClassVar[tuple[str, ...]] = ("testbed.losses", "testbed.methods")

    def __check_init__(self) -> None:
        ranges.check(self)

    @abc.abstractmethod
    def refuse(self, source: AbstractSource) -> None:
        """Raise `InvalidInput`, saying why and what to use, if it cannot learn from this source."""

    @abc.abstractmethod
    def request(self, batch_size: int) -> Request:
        """What it asks of the source, for ``batch_size`` prompts a step."""

    def critic(self, policy: Policy) -> PyTree:
        """Parameters of its own that are trained along with the policy; None for most."""
        return None

    @property
    def fresh(self) -> int:
        """Responses to every prompt that `prepare` has written, whatever the source gives; for plans."""
        return 0

    def prepare(
        self,
        batch: PyTree,
        supply: Supply,
        policy: Policy,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> PyTree:
        """What the source drew, with what the loss or method adds to it by the present policy; for most, nothing.
        ``key`` is the run's, the same at every step."""
        return batch

    @abc.abstractmethod
    def value(self, policy: Policy, critic: PyTree, supply: Supply, batch: PyTree) -> Scalar:
        """Mean loss of a step's texts; its gradient moves policy and critic."""

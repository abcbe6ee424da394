"""The objective that a training step minimises: a loss of labelled pairs (`testbed.losses`), or a method that requests
its own texts (`testbed.methods`).
"""

import abc
from typing import ClassVar

from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from testbed.config.ranges import Checked
from testbed.logprob import Policy
from testbed.source import AbstractSource, Request, TrainingInputs
from testbed.types import Scalar


class AbstractObjective(Checked):
    """An objective: which texts it requests, and the mean loss of a step."""

    family: ClassVar[tuple[str, ...]] = ("testbed.losses", "testbed.methods")

    @abc.abstractmethod
    def refuse(self, source: AbstractSource) -> None:
        """Raise `InvalidInput`, with the reason and an alternative, if the objective cannot learn from this source."""

    @abc.abstractmethod
    def request(self, batch_size: int) -> Request:
        """The texts that the objective requests from the source, for ``batch_size`` prompts a step."""

    def critic(self, policy: Policy) -> PyTree:
        """Additional parameters that are trained along with the policy; None for most objectives."""
        return None

    @property
    def fresh(self) -> int:
        """Number of responses to every prompt that `prepare` generates, whatever the source gives; used by plans."""
        return 0

    def prepare(
        self,
        batch: PyTree,
        inputs: TrainingInputs,
        policy: Policy,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> PyTree:
        """The batch that the source drew, extended by texts of the present policy if the objective needs them; most
        objectives return it unchanged. ``key`` is the run's, the same at every step."""
        return batch

    @abc.abstractmethod
    def value(
        self, policy: Policy, critic: PyTree, inputs: TrainingInputs, batch: PyTree
    ) -> Scalar:
        """Mean loss of a step's texts; its gradient moves policy and critic."""

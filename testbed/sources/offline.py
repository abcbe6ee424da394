"""Offline: pairs from the fixed data set, in a new random order each epoch."""

from jaxtyping import Array, Int, PRNGKeyArray

from testbed.logprob import Policy
from testbed.source import AbstractSource, Batch, Request, Rows, TrainingInputs, from_data


class Offline(AbstractSource):
    """Pairs of D_golden as they are (Tang et al. 2024, arXiv 2405.08448, section 2)."""

    def init(self, inputs: TrainingInputs, policy: Policy, request: Request) -> Rows:
        """The order of the present epoch."""
        return Rows.init(inputs.data.size)

    def draw(
        self,
        state: Rows,
        inputs: TrainingInputs,
        policy: Policy,
        request: Request,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> tuple[Batch, Rows]:
        """The next pairs; their reference scores were computed once in advance."""
        return from_data(state, inputs, inputs.data, request, key, step)

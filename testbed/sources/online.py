"""Online: fresh texts from the present policy."""

from typing import ClassVar

import jax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from testbed.logprob import Policy
from testbed.source import AbstractSource, Request, Rows, TrainingInputs
from testbed.streams import Stream, stream


class Online(AbstractSource):
    """Fresh texts by the present policy, judged by the teacher, on the data's prompts (Tang et al. 2024, arXiv
    2405.08448, section 2; Guo et al. 2024, arXiv 2402.04792).

    The prompts come in the order in which `Offline` would take them from the same data with the same key.
    """

    writes: ClassVar[bool] = True

    def init(self, inputs: TrainingInputs, policy: Policy, request: Request) -> Rows:
        """The order of prompts of the present epoch."""
        return Rows.init(inputs.data.size)

    def draw(
        self,
        state: Rows,
        inputs: TrainingInputs,
        policy: Policy,
        request: Request,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> tuple[PyTree, Rows]:
        """Let the policy write the texts of this step."""
        rows, _, state = state.next(key, step, request)
        fresh = jax.random.fold_in(stream(key, Stream.SAMPLES), step)
        return request.rollout(inputs, policy, rows, fresh), state

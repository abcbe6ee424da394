"""Record: a source of pairs whose stream is stored."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from testbed.config.ranges import hyper
from testbed.logprob import Policy
from testbed.recorded_runs.pair_stream import Recording, token_type
from testbed.source import AbstractSource, Batch, Request, TrainingInputs
from testbed.sources.online import Online


class Recorder(eqx.Module):
    """The state of the wrapped source, and the stream so far."""

    inner: PyTree
    recording: Recording


class Record(AbstractSource):
    """Pairs as another source gives them, kept on the device in `Recorder.recording`, for `Replay` (the data set
    D_online of Tang et al. 2024, arXiv 2405.08448, appendix F).

    Attributes:
        source: whose pairs. steps: how many there is room for, from step 0 on; later steps are learnt from but not
            stored.
    """

    source: AbstractSource = Online()
    steps: int = hyper(1000, least=1, static=True)

    @property
    def recorded_run(self) -> Any:
        """The recorded run of the wrapped source."""
        return self.source.recorded_run

    @property
    def preparation(self) -> AbstractSource | None:
        """The preparation of the wrapped source."""
        return self.source.preparation

    def prepare(self, given: Any) -> tuple[PyTree, dict[str, Array]]:
        """The prepared data of the wrapped source."""
        return self.source.prepare(given)

    def work(self, request: Request) -> tuple[float, float]:
        """The cost of the wrapped source."""
        return self.source.work(request)

    def init(self, inputs: TrainingInputs, policy: Policy, request: Request) -> Recorder:
        """An empty recording."""
        kind = token_type(policy, inputs)
        time = inputs.response_length
        room = Recording.room(self.steps, request.batch_size, time, kind)
        return Recorder(self.source.init(inputs, policy, request), room)

    def draw(
        self,
        state: Recorder,
        inputs: TrainingInputs,
        policy: Policy,
        request: Request,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> tuple[Batch, Recorder]:
        """The wrapped source's pairs, after a copy was stored."""
        batch, inner = self.source.draw(state.inner, inputs, policy, request, key, step)
        return batch, Recorder(inner, state.recording.put(batch, step))

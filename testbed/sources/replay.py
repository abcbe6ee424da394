"""Replay: the recorded stream of an online run, in its order or shuffled."""

import jax
from jaxtyping import Array, Int, PRNGKeyArray

from testbed import config
from testbed.config.ranges import hyper
from testbed.errors import InvalidInput
from testbed.logprob import Policy
from testbed.recorded_runs.pair_stream import Recording, shuffled
from testbed.recorded_runs.recorded_run import Given, Recorded
from testbed.source import AbstractSource, Batch, Request, Rows, TrainingInputs
from testbed.streams import Stream, stream


class Replay(AbstractSource):
    """Offline learning from D_online, the stream of an online run, in its order or shuffled (Tang et al. 2024, arXiv
    2405.08448, section 5.1 and appendix F).

    In the original order, with the loss, optimiser, batch size and reference of the recorded run, training repeats that
    run exactly: the parameters agree to the last bit on one device. After the last pair the stream starts again, in a
    new order if it is shuffled.

    Attributes:
        recorded: the run. shuffle_window: pairs are shuffled within windows of this many of its steps; 1 keeps the
            order, and the number of the run's steps shuffles uniformly.
    """

    recorded: Recorded = Recorded()
    shuffle_window: float = hyper(1.0, least=1)

    def __check_init__(self) -> None:
        if not self.recorded.has_stream:
            raise InvalidInput(
                "recorded.run.loss must learn from pairs, which can be replayed, "
                f"got {config.spell(self.recorded.run.loss)}"
            )

    @property
    def recorded_run(self) -> Recorded:
        """See `AbstractSource`."""
        return self.recorded

    @property
    def preparation(self) -> "Replay":
        """A replay without shuffling: the stream does not depend on the order."""
        return Replay(self.recorded)

    def prepare(self, given: Given) -> tuple[Recording | None, dict[str, Array]]:
        """The recorded stream."""
        return given.made.recording, {}

    def init(self, inputs: TrainingInputs, policy: Policy, request: Request) -> Rows:
        """The order before the first epoch. Raises `InvalidInput` if the stream does not fill a batch."""
        if inputs.prepared.rows.size < request.batch_size:
            raise InvalidInput(
                f"batch_size must be at most the {inputs.prepared.rows.size} recorded pairs, got {request.batch_size}"
            )
        return Rows.init(inputs.prepared.rows.size)

    def draw(
        self,
        state: Rows,
        inputs: TrainingInputs,
        policy: Policy,
        request: Request,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> tuple[Batch, Rows]:
        """The next pairs."""
        recording: Recording = inputs.prepared
        steps = recording.rows.size // request.batch_size
        fresh = jax.random.fold_in(stream(key, Stream.SHUFFLE), step // steps)
        order = jax.lax.cond(
            step % steps == 0,
            lambda: shuffled(fresh, recording.steps, recording.batch_size, self.shuffle_window),
            lambda: state.order,
        )
        start = step % steps * request.batch_size
        index = jax.lax.dynamic_slice(order, (start,), (request.batch_size,))
        before = state.met[index]
        batch = recording.batch(inputs, index, ~before, self.recorded.run.reference.moves)
        return batch, Rows(order, state.met.at[index].set(request.learnt(before)))

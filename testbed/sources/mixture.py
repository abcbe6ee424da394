"""Mixture: a part of each batch from one source, the rest from another."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from testbed import config
from testbed.batches import choose
from testbed.config.ranges import hyper
from testbed.errors import InvalidInput
from testbed.logprob import Policy
from testbed.source import AbstractSource, Request, TrainingInputs
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.streams import Stream, stream


class Mixture(AbstractSource):
    """A share of every batch from one source, the rest from another; more than two by nesting (hybrid data of Song et
    al. 2024, arXiv 2406.01462, and of RLHF practice).

    A share that is not a multiple of 1/batch is kept on average: the count of each step is one of the two nearest whole
    numbers. Both sources draw whole batches, so any share costs the same to compute; the ledger counts only the items
    that are learnt from.

    Attributes:
        first, second: the sources. share: of the second.
    """

    first: AbstractSource = Offline()
    second: AbstractSource = Online()
    share: float = hyper(0.5, least=0, most=1)

    def __check_init__(self) -> None:
        first, second = (source.recorded_run for source in self.sources)
        if first and second and config.describe(first) != config.describe(second):
            raise InvalidInput(
                f"second must draw on the recorded run of first, {config.spell(first)}, "
                f"got {config.spell(second)}"
            )

    @property
    def writes(self) -> bool:
        """Whether both sources write."""
        return self.first.writes and self.second.writes

    @property
    def recorded_run(self) -> Any:
        """The recorded run of either source."""
        return self.first.recorded_run or self.second.recorded_run

    @property
    def preparation(self) -> "Mixture | None":
        """A mixture of the preparations of both sources; None if neither prepares anything."""
        first, second = (source.preparation for source in self.sources)
        return Mixture(first or Online(), second or Online()) if first or second else None

    def prepare(self, given: Any) -> tuple[PyTree, dict[str, Array]]:
        """The prepared data of both sources; if both measure facts of one name, the second's are kept."""
        (first, some), (second, others) = (source.prepare(given) for source in self.sources)
        return (first, second), some | others

    @property
    def depth(self) -> int:
        """How deep mixtures are nested in this one, also inside other sources; 0 if there are none."""

        def mixture(part: Any) -> bool:
            return isinstance(part, Mixture)

        parts = jax.tree.leaves(self.sources, is_leaf=mixture)
        return 1 + max((part.depth for part in parts if mixture(part)), default=-1)

    @property
    def sources(self) -> tuple[AbstractSource, AbstractSource]:
        """Both sources."""
        return self.first, self.second

    def work(self, request: Request) -> tuple[float, float]:
        """The cost of both sources."""
        written, judged = zip(*(source.work(request) for source in self.sources), strict=True)
        return sum(written), sum(judged)

    def init(self, inputs: TrainingInputs, policy: Policy, request: Request) -> tuple[PyTree, ...]:
        """The states of both sources."""
        parts = zip(self.sources, self._inputs_of_sources(inputs), strict=True)
        return tuple(source.init(own, policy, request) for source, own in parts)

    def draw(
        self,
        state: tuple[PyTree, ...],
        inputs: TrainingInputs,
        policy: Policy,
        request: Request,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> tuple[PyTree, tuple[PyTree, ...]]:
        """Draw from both sources, and take items at random places from the second."""
        # Each depth uses another random stream: nested mixtures must not choose the same places.
        level = jax.random.fold_in(stream(key, Stream.MIXTURE), self.depth)
        k_count, k_place = jax.random.split(jax.random.fold_in(level, step))
        size = request.batch_size
        count = jnp.floor(size * self.share + jax.random.uniform(k_count))
        taken = jax.random.permutation(k_place, size) < count
        # An item that is drawn but not taken is not learnt from: its cost counts when it is learnt from.
        learnt = request.learnt(jnp.zeros_like(taken))
        requests = [request._replace(kept=learnt & part) for part in (~taken, taken)]
        parts = zip(self.sources, state, self._inputs_of_sources(inputs), requests, strict=True)
        drawn = [
            source.draw(own, part, policy, asked, key, step) for source, own, part, asked in parts
        ]
        (first, _), (second, _) = drawn
        return choose(taken, second, first), tuple(state for _, state in drawn)

    def _inputs_of_sources(self, inputs: TrainingInputs) -> list[TrainingInputs]:
        """The training inputs of each source, with its own prepared data."""
        first, second = inputs.prepared or (None, None)
        return [
            TrainingInputs(inputs.data, inputs.reference, inputs.teacher, part, inputs.fixed)
            for part in (first, second)
        ]

"""Where the runs of a chunk are, written to disk and read back while the chunk is computed."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import PyTree

from sweeps.population import devices
from sweeps.population.run_checkpoints import Paused, Underway
from sweeps.population.slot_measurements import Measurements
from sweeps.population.slot_schedule import Schedule, places
from sweeps.study import Point
from testbed.train import TrainState


class Checkpoints:
    """Checkpoints of the runs of a chunk. One that was found stays in memory until the state of its run is restored."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._points, self._stored = points, Underway()
        self._found: dict[int, Paused] = {}

    def find(self, run: int) -> tuple[int, int]:
        """Where a run goes on: the evaluation that it comes to, and steps since the one before. Zeros for a run that
        has no checkpoint."""
        paused = self._stored.paused(self._points[run])
        if paused is None:
            return 0, 0
        self._found[run] = paused
        return paused.index, paused.done

    def restore(
        self, state: TrainState, schedule: Schedule, measurements: Measurements
    ) -> TrainState:
        """The state of all slots, with those of runs whose checkpoints were found; their measurements are taken in."""
        if not self._found:
            return state
        held = jax.tree.map(np.array, jax.device_get(state))
        for place in places(schedule.taken):
            run = int(schedule.runs[place])
            paused = self._found.pop(run, None)
            if paused is not None:
                measurements.resume(run, paused.values)
                jax.tree.map(
                    lambda all, own, at=place: all.__setitem__(at, own), held, paused.state
                )
        return devices.place(held)

    def save(self, state: TrainState, schedule: Schedule, measurements: Measurements) -> None:
        """Write checkpoints of all runs that have begun. Raises `Unfinished` if the disk refuses."""
        held = jax.device_get(state)
        for place in places(schedule.taken & (schedule.index > 0)):
            run, index = int(schedule.runs[place]), int(schedule.index[place])
            if run in self._found:
                continue  # it is on disk, and not yet among the states
            values = measurements.so_far(run, index)
            paused = Paused(index, int(schedule.done[place]), values, _slot(held, place))
            self._stored.pause(self._points[run], paused)

    def finish(self, run: int, state: TrainState, place: tuple[int, int]) -> None:
        """Remove the checkpoint of a run that is complete, and keep the policy of one whose task asks for it. Raises
        `Unfinished` if the disk refuses."""
        point = self._points[run]
        self._stored.finish(point)
        if type(point.experiment.task).checkpointed:
            self._stored.keep(point, jax.device_get(_slot(state.policy, place)))


def _slot(state: PyTree, place: tuple[int, int]) -> PyTree:
    """One slot's part of what is stacked."""
    return jax.tree.map(lambda x: x[place], state)

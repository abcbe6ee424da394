"""Checkpoints of the runs of a chunk, written to disk and read back while the chunk is computed."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import PyTree

from sweeps.population import devices
from sweeps.population.run_checkpoints import Paused, RunCheckpoints
from sweeps.population.slot_measurements import Measurements
from sweeps.population.slot_schedule import Schedule, places
from sweeps.study import Point
from testbed.train import TrainState


class Checkpoints:
    """Checkpoints of the runs of a chunk. A checkpoint that was found stays in memory until its run's state is
    restored."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._points, self._stored = points, RunCheckpoints()
        self._found: dict[int, Paused] = {}

    def find(self, run: int) -> tuple[int, int]:
        """Where a run continues: the number of its next evaluation, and the steps since the evaluation before. Both are
        zero for a run without a checkpoint."""
        paused = self._stored.paused(self._points[run])
        if paused is None:
            return 0, 0
        self._found[run] = paused
        return paused.index, paused.done

    def restore(
        self, state: TrainState, schedule: Schedule, measurements: Measurements
    ) -> TrainState:
        """Write the states and the measurements of all found checkpoints into the slots; return the states of all
        slots."""
        if not self._found:
            return state
        held = jax.tree.map(np.array, jax.device_get(state))
        for place in places(schedule.taken):
            run = int(schedule.runs[place])
            paused = self._found.pop(run, None)
            if paused is not None:
                measurements.resume(run, paused.values, paused.by_prompt)
                jax.tree.map(
                    lambda all, value, at=place: all.__setitem__(at, value), held, paused.state
                )
        return devices.place(held)

    def save(self, state: TrainState, schedule: Schedule, measurements: Measurements) -> None:
        """Write checkpoints of all runs that have begun. Raises `Unfinished` if the disk refuses."""
        held = jax.device_get(state)
        for place in places(schedule.taken & (schedule.index > 0)):
            run, index = int(schedule.runs[place]), int(schedule.index[place])
            if run in self._found:
                continue  # the checkpoint is on disk, and its state is not in a slot yet
            values, by_prompt = measurements.so_far(run, index)
            done, slot = int(schedule.done[place]), _slot(held, place)
            paused = Paused(index, done, values, by_prompt, slot)
            self._stored.pause(self._points[run], paused)

    def finish(self, run: int, state: TrainState, place: tuple[int, int]) -> None:
        """Remove the checkpoint of a complete run, and store the run's policy if its task asks for that. Raises
        `Unfinished` if the disk refuses."""
        point = self._points[run]
        self._stored.finish(point)
        if type(point.experiment.task).checkpointed:
            self._stored.keep(point, jax.device_get(_slot(state.policy, place)))


def _slot(state: PyTree, place: tuple[int, int]) -> PyTree:
    """One slot's part of stacked arrays."""
    return jax.tree.map(lambda x: x[place], state)

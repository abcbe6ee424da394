"""The schedule of a chunk: which run is in which slot, and what each slot does next. Only indices; nothing is trained.

Slots are stacked as ``rows x lanes``: all lanes of a row hold runs of one world.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Moved(NamedTuple):
    """Whether slots hold other runs than before, and rows other worlds."""

    runs: bool
    worlds: bool


class Call(NamedTuple):
    """The work of the slots in one call of the programs: the slots that begin, the slots that train, their number of
    steps, and the slots that are measured afterwards. A slot that neither begins nor trains is idle."""

    begins: np.ndarray
    trains: np.ndarray
    steps: int
    measured: np.ndarray


class Schedule:
    """The assignment of a chunk's runs to its slots.

    ``owners`` are the numbers of the runs' worlds; ``worlds`` is the number of worlds. ``marks`` are the steps at which
    each run is measured, 0 first (`testbed.experiment.EvaluationConfig.marks`). ``start`` returns, for a run that takes
    a slot, where the run continues: the number of its next evaluation, and the steps since the evaluation before; both
    are zero for a run that has not begun.
    """

    def __init__(
        self,
        owners: Sequence[int],
        worlds: int,
        layout: tuple[int, int],
        marks: Sequence[Sequence[int]],
        start: Callable[[int], tuple[int, int]],
    ) -> None:
        self._start = start
        # Row by row the marks of a run; the last is repeated, so that all rows are equally long.
        size = max(map(len, marks))
        self._marks = np.array(
            [[*own, *[own[-1]] * (size - len(own))] for own in marks], dtype=np.int32
        )
        self._queues = [deque[int]() for _ in range(worlds)]
        for run, owner in enumerate(owners):
            self._queues[owner].append(run)
        self._waiting = np.array([len(queue) for queue in self._queues])
        # The run in each slot, -1 for none; its next evaluation; steps since the one before; each row's world.
        self.runs = np.full(layout, -1)
        self.index = np.zeros(layout, np.int32)
        self.done = np.zeros(layout, np.int32)
        self.worlds = np.full(layout[0], -1)

    @property
    def taken(self) -> np.ndarray:
        """The slots that hold a run."""
        return self.runs >= 0

    @property
    def before(self) -> np.ndarray:
        """The step of each slot's previous evaluation; 0 for a slot without one."""
        return self._marks[self.runs, np.maximum(self.index - 1, 0)] * self.taken

    @property
    def interval(self) -> np.ndarray:
        """Steps between each slot's previous evaluation and its next; 1 for a slot that has no previous one."""
        trains = self.taken & (self.index > 0)
        steps = self._marks[self.runs, self.index * trains] - self.before
        return np.where(trains, steps, 1).astype(np.int32)

    def fill(self) -> Moved:
        """Give free slots the next runs of their worlds, and free rows the worlds with most runs waiting."""
        runs, worlds = self.runs.copy(), self.worlds.copy()
        for row, slots in enumerate(self.runs):
            if np.all(slots < 0):
                self.worlds[row] = self._next_world(int(self.worlds[row]))
            world = self.worlds[row]
            for lane in np.flatnonzero(slots < 0)[: self._waiting[world]]:
                run = self._queues[world].popleft()
                self.runs[row, lane] = run
                self.index[row, lane], self.done[row, lane] = self._start(run)
                self._waiting[world] -= 1
        return Moved(not np.array_equal(runs, self.runs), not np.array_equal(worlds, self.worlds))

    def _next_world(self, held: int) -> int:
        """The next world of a row without runs; ``held`` is the world that the row held, negative if it held none."""
        if held >= 0 and self._waiting[held]:
            return held
        # Among worlds with equally many waiting runs, prefer a world that no other row holds.
        wanted = 2 * self._waiting + 1
        wanted[self.worlds[self.worlds >= 0]] -= 1
        best = int(np.argmax(wanted))
        return best if self._waiting[best] or held < 0 else held

    def next(self, most: int) -> Call:
        """The next call, with at most ``most`` steps: no slot trains past its next evaluation."""
        begins = self.taken & (self.index == 0)
        trains = self.taken & (self.index > 0)
        left = self.interval - self.done
        steps = int(np.min(left, where=trains, initial=most)) * int(np.any(trains))
        # Slots that reach an evaluation are measured; the others wait.
        measured = begins | (trains & (left == steps))
        return Call(begins, trains, steps, measured)

    def count(self, call: Call) -> None:
        """Record the steps or the evaluations of a call."""
        self.done[call.trains] += call.steps
        self.done[call.measured] = 0
        self.index[call.measured] += 1

    def leave(self, complete: np.ndarray) -> None:
        """Free the slots whose runs are ``complete``."""
        self.runs[complete] = -1


def places(chosen: np.ndarray) -> list[tuple[int, int]]:
    """Row and lane of the chosen slots."""
    return [(int(row), int(lane)) for row, lane in np.argwhere(chosen)]

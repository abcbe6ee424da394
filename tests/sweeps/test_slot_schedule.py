"""The schedule of a chunk's slots: numbers alone, without devices."""

import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from sweeps.population.slot_schedule import Moved, Schedule, places


def schedule(
    owners: list[int],
    layout: tuple[int, int],
    marks: Sequence[int] = range(0, 50, 10),
    begun: dict[int, tuple[int, int]] | None = None,
) -> Schedule:
    known = begun or {}
    each = [marks] * len(owners)
    return Schedule(owners, max(owners) + 1, layout, each, lambda run: known.get(run, (0, 0)))


def finish(made: Schedule, *runs: int) -> Moved:
    """These runs are complete, and the next ones take their slots."""
    made.leave(np.isin(made.runs, runs))
    return made.fill()


def test_the_schedule_needs_no_devices() -> None:
    program = "import sys, sweeps.population.slot_schedule; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_rows_take_the_worlds_with_most_runs_and_lanes_their_runs() -> None:
    made = schedule([0, 1, 1, 1, 2, 2], (2, 2))
    assert made.fill() == Moved(True, True)
    assert made.worlds.tolist() == [1, 2]
    assert made.runs.tolist() == [[1, 2], [4, 5]]


def test_of_equal_queues_a_row_takes_the_world_that_no_other_row_has() -> None:
    made = schedule([0, 0, 1], (2, 1))
    made.fill()
    assert made.runs.tolist() == [[0], [2]]


def test_a_world_may_be_in_several_rows() -> None:
    made = schedule([0, 0, 0], (2, 1))
    made.fill()
    assert made.worlds.tolist() == [0, 0]
    assert made.runs.tolist() == [[0], [1]]


def test_a_slot_takes_the_next_run_of_its_world() -> None:
    made = schedule([0, 0, 0, 1], (1, 2))
    made.fill()
    made.index[:], made.done[:] = 2, 3
    assert finish(made, 0) == Moved(True, False)
    assert made.runs.tolist() == [[2, 1]]
    assert (made.index.tolist(), made.done.tolist()) == ([[0, 2]], [[0, 3]])


def test_a_row_takes_another_world_only_when_all_its_runs_are_done() -> None:
    made = schedule([0, 0, 1], (1, 2))
    made.fill()
    # Nothing that the devices must be given anew.
    assert finish(made, 0) == Moved(False, False)
    assert made.runs.tolist() == [[-1, 1]]
    assert finish(made, 1) == Moved(True, True)
    assert (made.worlds.tolist(), made.runs.tolist()) == ([1], [[2, -1]])
    # A row keeps its world when there is no other left.
    assert finish(made, 2) == Moved(False, False)
    assert made.worlds.tolist() == [1]
    assert not np.any(made.taken)


def test_a_run_is_measured_before_its_first_step_and_at_every_evaluation() -> None:
    made = schedule([0], (1, 1))
    made.fill()
    seen = []
    for _ in range(6):
        call = made.next(4)
        seen.append((bool(call.begins[0, 0]), call.steps, bool(call.measured[0, 0])))
        made.count(call)
    assert seen[0] == (True, 0, True)
    assert seen[1:4] == [(False, 4, False), (False, 4, False), (False, 2, True)]
    assert seen[4:] == [(False, 4, False), (False, 4, False)]
    assert (made.index[0, 0], made.done[0, 0]) == (2, 8)


def test_slots_go_as_far_as_the_next_evaluation_of_any() -> None:
    """Three runs: one is 7 steps after an evaluation, one begins, one is at its first step; the last slot is idle."""
    made = schedule([0, 0, 0], (1, 4), begun={0: (2, 7), 2: (1, 0)})
    made.fill()
    call = made.next(100)
    assert call.begins.tolist() == [[False, True, False, False]]
    assert call.trains.tolist() == [[True, False, True, False]]
    assert call.steps == 3
    assert places(call.measured) == [(0, 0), (0, 1)]
    made.count(call)
    assert made.index.tolist() == [[3, 1, 1, 0]]
    assert made.done.tolist() == [[0, 0, 3, 0]]


def test_evaluations_may_be_unevenly_spaced() -> None:
    """Two runs, measured at steps 2, 3 and 10; the second continues after 4 of the last 7 steps. The first is measured
    on its way, and the second where it ends."""
    made = schedule([0, 0], (1, 2), marks=(0, 2, 3, 10), begun={1: (3, 4)})
    made.fill()
    seen = []
    for _ in range(4):
        call = made.next(100)
        seen.append((call.steps, made.before[0].tolist(), made.interval[0].tolist()))
        seen[-1] += (places(call.measured),)
        made.count(call)
        made.leave(made.index == 4)
    assert seen == [
        (3, [0, 3], [1, 7], [(0, 0), (0, 1)]),
        (2, [0, 0], [2, 1], [(0, 0)]),
        (1, [2, 0], [1, 1], [(0, 0)]),
        (7, [3, 0], [7, 1], [(0, 0)]),
    ]
    assert not np.any(made.taken)


def test_runs_of_other_lengths_have_marks_of_their_own() -> None:
    made = Schedule([0, 0], 1, (1, 2), [(0, 5, 10), (0, 5)], lambda run: (1, 0))
    made.fill()
    made.count(made.next(100))
    made.leave(np.array([[False, True]]))
    assert (made.before.tolist(), made.interval.tolist()) == ([[5, 0]], [[5, 1]])

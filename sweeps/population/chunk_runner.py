"""Trains and measures the runs of a chunk in its slots.

The runs in the slots may be at different points of their training. One call trains each run towards its next
evaluation, and runs that reach an evaluation are measured. Complete and diverged runs then leave their slots to the
next runs.
"""

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from sweeps.console import profile
from sweeps.console.profile import Part
from sweeps.console.progress import Progress
from sweeps.population import devices
from sweeps.population.plan import Chunk
from sweeps.population.programs import BEGIN, IDLE, TRAIN, Compiled, Lane, Programs, measured_part
from sweeps.population.slot_checkpoints import Checkpoints
from sweeps.population.slot_measurements import Measurements
from sweeps.population.slot_schedule import Call, Moved, Schedule, places
from sweeps.population.world_builder import WorldSource
from sweeps.runtime import make_room
from sweeps.store.parquet import Rows
from sweeps.throttle import Pace
from testbed.metrics import SHOWN, EvaluationInputs
from testbed.policies.shared_weights import missing
from testbed.source import TrainingInputs
from testbed.stages.world_config import WorldArtifacts, WorldConfig
from testbed.train import TrainConfig, TrainState

#: Seconds that a call may take before the next progress message, and seconds of work that an interruption may lose.
PIECE_SECONDS, SAVE_SECONDS = 10.0, 30.0


class Outcome(NamedTuple):
    """The result of a chunk: its rows by column; the number of diverged runs; seconds that the devices computed."""

    rows: Rows
    diverged: int
    seconds: float


def run_chunk(
    chunk: Chunk, worlds: WorldSource, progress: Progress, programs: Compiled | None = None
) -> Outcome:
    """Train and evaluate the runs of a chunk.

    Raises `OutOfMemory` if a device has too little memory.
    """
    make_room()
    steps = _Steps(progress)
    try:
        if programs is None:
            with Programs(worlds) as made:
                programs = made.of([chunk])
        return _Slots(chunk, worlds, steps, programs).through()
    except Exception as problem:
        # The runs will start again: take back the steps that were counted.
        steps.advance(-steps.done)
        raise devices.as_memory(problem) from problem


class _Steps:
    """Counts the steps that were reported to a progress display."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self.done = progress, 0

    def advance(self, steps: int) -> None:
        """Report completed steps; a negative number takes back steps that must be repeated."""
        self.done += steps
        self._progress.advance(steps)


class _Slots:
    """The slots of a chunk: its schedule, and the arrays on the devices that belong to the scheduled runs."""

    def __init__(
        self, chunk: Chunk, worlds: WorldSource, progress: _Steps, programs: Compiled
    ) -> None:
        self._marks = [point.experiment.marks for point in chunk.points]
        self._longest = max(int(np.max(np.diff(marks))) for marks in self._marks)
        self._chunk, self._progress, self._programs = chunk, progress, programs
        self._worlds = _Worlds(chunk, worlds)
        self._measurements = Measurements(chunk, programs.columns)
        self._checkpoints = Checkpoints(chunk.points)
        self._schedule = Schedule(
            chunk.owners, len(chunk.worlds), chunk.layout, self._marks, self._start
        )

    def through(self) -> Outcome:
        """Train and measure all runs of the chunk."""
        schedule, train, checkpoints = self._schedule, self._programs.train, self._checkpoints
        state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self._programs.state)
        state = devices.place(state)
        most, busy, saved = self._piece(), 0.0, Pace(SAVE_SECONDS)
        moved, (config, seed), (inputs, evaluation_inputs) = (
            schedule.fill(),
            (None, None),
            (None, None),
        )
        while np.any(schedule.taken):
            if moved.runs:
                config, seed = self._lanes()
                state = checkpoints.restore(state, schedule, self._measurements)
            if moved.worlds:
                inputs, evaluation_inputs = self._worlds.rows(schedule.worlds)
                weights = devices.everywhere(missing((inputs, evaluation_inputs)))
            call = schedule.next(most)
            mode = np.select([call.begins, call.trains], [BEGIN, TRAIN], IDLE).astype(np.int32)
            clock = time.monotonic()
            places_in_runs = schedule.index, schedule.before, schedule.done, schedule.interval
            lane = Lane(seed, *devices.place((*places_in_runs, mode)))
            with profile.part(Part.TRAIN, self._chunk.label):
                state = train(weights, state, config, lane, inputs, np.int32(call.steps))
                if profile.active() or not np.any(call.measured):
                    # The evaluation may begin before training has ended, except where their times are told apart.
                    jax.block_until_ready(state.diverged_step)
            if np.any(call.measured):
                mode = devices.place(np.where(call.measured, mode, IDLE))
                measured = lane._replace(mode=mode)
                with profile.part(Part.MEASURE, self._chunk.label):
                    bits = self._programs.measure(
                        weights, measured_part(state), measured, evaluation_inputs
                    )
                    bits = jax.device_get(bits)
                moved = self._measured(bits, call, state)
            else:
                schedule.count(call)
                moved = Moved(False, False)
            self._progress.advance(call.steps * int(np.sum(call.trains)))
            busy += time.monotonic() - clock
            if saved.due():
                with saved:
                    checkpoints.save(state, schedule, self._measurements)
        rows = self._measurements.rows(self._worlds.facts, self._worlds.asked)
        return Outcome(rows, self._measurements.diverged, busy)

    def _measured(self, bits: np.ndarray, call: Call, state: TrainState) -> Moved:
        """Store the evaluations of the measured slots, and give the slots of complete runs to the next runs."""
        schedule = self._schedule
        runs = np.where(call.measured, schedule.runs, -1)
        complete, spared = self._measurements.put(runs, schedule.index, bits)
        self._progress.advance(spared)
        schedule.count(call)
        for place in places(complete):
            self._checkpoints.finish(int(schedule.runs[place]), state, place)
        schedule.leave(complete)
        return schedule.fill()

    def _piece(self) -> int:
        """Number of steps of one call: as many as are expected to fit into `PIECE_SECONDS`."""
        chunk = self._chunk
        if not chunk.seconds:
            return self._longest
        one = chunk.seconds / chunk.steps * chunk.layout.slots
        return max(1, min(self._longest, int(PIECE_SECONDS / one)))

    def _start(self, run: int) -> tuple[int, int]:
        """Where a run continues (see `Schedule`); steps before this point count as done."""
        index, done = self._checkpoints.find(run)
        if index:
            self._progress.advance(self._marks[run][index - 1] + done)
        return index, done

    def _lanes(self) -> tuple[TrainConfig, Any]:
        """Training config and seed of each slot's run, on the devices; an idle slot has arbitrary values."""
        runs = self._schedule.runs
        experiments = [self._chunk.points[max(run, 0)].experiment for run in runs.flat]
        lanes = [(one.train, one.used_seeds.training) for one in experiments]
        return devices.place(devices.stacked(lanes, *runs.shape))


class _Worlds:
    """The worlds that rows hold. A world is read when a row takes it, and released when no row holds it any more: a
    chunk may have thousands of worlds. The ``facts`` and the first prompts (``asked``) of all worlds stay in memory."""

    def __init__(self, chunk: Chunk, worlds: WorldSource) -> None:
        self._chunk, self._worlds = chunk, worlds
        self._held: dict[int, WorldArtifacts] = {}
        self.facts: dict[int, dict[str, Any]] = {}
        self.asked: dict[int, list[str]] = {}

    def rows(self, worlds: np.ndarray) -> tuple[TrainingInputs, EvaluationInputs]:
        """The inputs of training and of evaluation of each row's world, on the devices."""
        first, configs = self._chunk.points[0].experiment, self._chunk.worlds
        self._held = {
            world: self._held[world] if world in self._held else self._worlds[configs[world]]
            for world in dict.fromkeys(worlds.tolist())
        }
        for world, artifacts in self._held.items():
            if world not in self.facts:
                self.facts[world] = dict(artifacts.facts)
                self.asked[world] = _asked(artifacts, configs[world])
        owned = [self._held[world] for world in worlds.tolist()]
        rows = [
            (one.training_inputs(first.teacher), one.evaluation_inputs(first.evaluation))
            for one in owned
        ]
        return devices.place(devices.stacked(rows))


def _asked(artifacts: WorldArtifacts, config: WorldConfig) -> list[str]:
    """The prompts, in words, for which a run's answers are stored."""
    prompts = artifacts.opponent.prompts
    tokens, lengths = (np.asarray(x[:SHOWN]) for x in (prompts.tokens, prompts.length))
    return [
        config.task.prompt_text(row[:size].tolist())
        for row, size in zip(tokens, lengths, strict=True)
    ]

"""The runs of a chunk on their way through its slots.

Slots hold runs at any point of their training. A call trains each towards its next evaluation, those that have come to
theirs are measured; then runs that are complete or have diverged leave, and the next ones take their slots.
"""

import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from sweeps.console.progress import Progress
from sweeps.population import devices
from sweeps.population.plan import Chunk
from sweeps.population.programs import BEGIN, IDLE, TRAIN, Compiled, Lane, Programs, measured_part
from sweeps.population.run_checkpoints import Paused, Underway
from sweeps.population.world_builder import Standing
from sweeps.runtime import make_room
from sweeps.store.parquet import ANSWERS, Rows
from sweeps.store.store import FACTS
from sweeps.throttle import Pace
from testbed.metrics import SHOWN, Yardstick
from testbed.policies.shared_weights import missing
from testbed.source import Supply
from testbed.stages.world_config import Ground, GroundConfig
from testbed.train import TrainConfig, TrainState

#: Seconds that a call may take before the next sign of progress, and seconds of work that may be lost.
PIECE_SECONDS, SAVE_SECONDS = 10.0, 30.0


class Outcome(NamedTuple):
    """Of a chunk: its rows, column by column; how many runs diverged; seconds that the devices were computing."""

    rows: Rows
    diverged: int
    seconds: float


def run_chunk(
    chunk: Chunk, grounds: Standing, progress: Progress, programs: Compiled | None = None
) -> Outcome:
    """Train and evaluate the runs of a chunk.

    Raises `OutOfMemory` if a device has too little memory.
    """
    make_room()
    slots = _Slots(chunk, grounds, progress)
    try:
        return slots.through(programs)
    except Exception as problem:
        slots.undo()
        raise devices.as_memory(problem) from problem


class _Slots:
    """The runs of a chunk on their way through its slots."""

    def __init__(self, chunk: Chunk, grounds: Standing, progress: Progress) -> None:
        self.chunk, self.progress = chunk, progress
        # Worlds are read when a row takes them, and let go when it takes another: a chunk may have thousands. Of all
        # that were read their facts are kept.
        self.standing, self.held = grounds, dict[int, Ground]()
        self.facts: dict[int, dict[str, Any]] = {}
        self.asked: dict[int, list[str]] = {}
        self.steps = 0
        first = chunk.points[0].experiment
        self.every = first.steps // first.evaluation.points
        self.queues = [deque[int]() for _ in chunk.grounds]
        for run, owner in enumerate(chunk.owners):
            self.queues[owner].append(run)
        self.waiting = np.array([len(queue) for queue in self.queues])
        # The run in each slot, -1 for none, and the evaluation it comes to; the world of each row.
        self.runs = np.full(tuple(chunk.layout), -1)
        self.index = np.zeros(tuple(chunk.layout), np.int32)
        self.done = np.zeros(tuple(chunk.layout), np.int32)
        self.worlds = np.full(chunk.layout.rows, -1)
        self.underway, self.found = Underway(), dict[int, Paused]()
        self.saved = Pace(SAVE_SECONDS)

    def through(self, programs: Compiled | None) -> Outcome:
        """Take all runs through."""
        if programs is None:
            with Programs(self.standing) as own:
                programs = own.of([self.chunk])
        train_on, measure = programs.train, programs.measure
        state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), programs.state)
        state = devices.place(state)
        table = _Table(self.chunk, programs.columns)
        every, piece, busy = np.int32(self.every), self._piece(), 0.0
        moved, (config, seed), (supply, yardstick) = self._fill(), (None, None), (None, None)
        while np.any(self.runs >= 0):
            if moved.runs:
                config, seed = self._lanes()
                state = self._resumed(state, table)
            if moved.worlds:
                supply, yardstick = self._rows()
                weights = devices.everywhere(missing((supply, yardstick)))
            mode = self._modes()
            training = mode == TRAIN
            left = np.min(self.every - self.done, where=training, initial=self.every)
            steps = min(piece, int(left)) * int(np.any(training))
            # Those that come to an evaluation are measured; the others wait.
            there = (mode == BEGIN) | (training & (self.done + steps == self.every))
            clock = time.monotonic()
            lane = Lane(seed, *devices.place((self.index, self.done, mode)))
            state = train_on(weights, state, config, lane, supply, every, np.int32(steps))
            if np.any(there):
                those = lane._replace(mode=devices.place(np.where(there, mode, IDLE)))
                found = measure(weights, measured_part(state), those, yardstick, every)
                moved = self._measured(jax.device_get(found), there, table, state)
            else:
                jax.block_until_ready(state.diverged_step)
                moved = _Moved(False, False)
            self.done[training & ~there] += steps
            self._advance(steps * int(np.sum(training)))
            busy += time.monotonic() - clock
            if self.saved.due():
                with self.saved:
                    self._pause(state, table)
        return Outcome(table.rows(self.facts, self.asked), table.diverged, busy)

    def _measured(
        self, found: np.ndarray, there: np.ndarray, table: "_Table", state: TrainState
    ) -> "_Moved":
        """Take in the evaluation of some slots, and give those that are done to the next runs."""
        complete, spared = table.put(np.where(there, self.runs, -1), self.index, found)
        self._advance(self.every * spared)
        self.done[there], self.index[there] = 0, self.index[there] + 1
        self._leave(complete, state)
        return self._fill()

    def _modes(self) -> np.ndarray:
        """What each slot does next."""
        live = self.runs >= 0
        return np.where(live, np.where(self.index > 0, TRAIN, BEGIN), IDLE).astype(np.int32)

    def _piece(self) -> int:
        """Steps of a call: as many as `PIECE_SECONDS` are expected to be enough for."""
        chunk = self.chunk
        if not chunk.seconds:
            return self.every
        one = chunk.seconds / chunk.steps * chunk.layout.slots
        return max(1, min(self.every, int(PIECE_SECONDS / one)))

    def _leave(self, done: np.ndarray, state: TrainState) -> None:
        """Runs that are complete make room for others."""
        for place in _places(done):
            run = int(self.runs[place])
            point = self.chunk.points[run]
            self.underway.finish(point)
            if type(point.experiment.task).checkpointed:
                self.underway.keep(point, jax.device_get(_slot(state.policy, place)))
            self.runs[place] = -1

    def _pause(self, state: TrainState, table: "_Table") -> None:
        """Keep where every run is."""
        held = jax.device_get(state)
        for place in _places((self.runs >= 0) & (self.index > 0)):
            run, index = int(self.runs[place]), int(self.index[place])
            if run in self.found:
                continue  # it is on disk, and not yet among the states
            values = table.so_far(run, index)
            paused = Paused(index, int(self.done[place]), values, _slot(held, place))
            self.underway.pause(self.chunk.points[run], paused)

    def _resumed(self, state: TrainState, table: "_Table") -> TrainState:
        """With the states of runs that go on where they were."""
        if not self.found:
            return state
        held = jax.tree.map(np.array, jax.device_get(state))
        for place in _places(self.runs >= 0):
            paused = self.found.pop(int(self.runs[place]), None)
            if paused is not None:
                table.resume(int(self.runs[place]), paused.values)
                jax.tree.map(
                    lambda all, own, at=place: all.__setitem__(at, own), held, paused.state
                )
        return devices.place(held)

    def undo(self) -> None:
        """Take back what was told of progress: the runs will begin again."""
        self._advance(-self.steps)

    def _advance(self, steps: int) -> None:
        self.steps += steps
        self.progress.advance(steps)

    def _fill(self) -> "_Moved":
        """Give free slots the next runs of their worlds, and free rows the worlds with most runs waiting."""
        runs, worlds = self.runs.copy(), self.worlds.copy()
        for row, slots in enumerate(self.runs):
            held = self.worlds[row]
            if np.all(slots < 0) and (held < 0 or not self.waiting[held]):
                # Of equally long queues that of a world which no other row has.
                wanted = 2 * self.waiting + 1
                wanted[self.worlds[self.worlds >= 0]] -= 1
                best = int(np.argmax(wanted))
                self.worlds[row] = best if self.waiting[best] or held < 0 else held
            world = self.worlds[row]
            for slot in np.flatnonzero(slots < 0)[: self.waiting[world]]:
                self._give((row, int(slot)), self.queues[world].popleft())
                self.waiting[world] -= 1
        return _Moved(not np.array_equal(runs, self.runs), not np.array_equal(worlds, self.worlds))

    def _give(self, place: tuple[int, int], run: int) -> None:
        """Begin a run in a slot, or go on with it."""
        paused = self.underway.paused(self.chunk.points[run])
        self.runs[place], self.index[place], self.done[place] = run, 0, 0
        if paused is not None:
            self.found[run] = paused
            self.index[place], self.done[place] = paused.index, paused.done
            self._advance(self.every * (paused.index - 1) + paused.done)

    def _lanes(self) -> tuple[TrainConfig, Any]:
        """Training and seed of each slot's run, on the devices; of an idle one anything."""
        own = [self.chunk.points[max(run, 0)].experiment for run in self.runs.flat]
        lanes = [(experiment.train, experiment.seed) for experiment in own]
        return devices.place(devices.stacked(lanes, *self.runs.shape))

    def _rows(self) -> tuple[Supply, Yardstick]:
        """Supply and yardstick of each row's world, on the devices."""
        first, configs = self.chunk.points[0].experiment, self.chunk.grounds
        worlds = dict.fromkeys(self.worlds.tolist())
        self.held = {
            world: self.held[world] if world in self.held else self.standing[configs[world]]
            for world in worlds
        }
        self.facts |= {world: dict(self.held[world].facts) for world in worlds}
        self.asked |= {world: _asked(self.held[world], configs[world]) for world in worlds}
        owned = [self.held[world] for world in self.worlds.tolist()]
        rows = [(one.supply(first.teacher), one.yardstick(first.evaluation)) for one in owned]
        return devices.place(devices.stacked(rows))


def _asked(ground: Ground, config: GroundConfig) -> list[str]:
    """The prompts to which a run's answers are kept, in words."""
    prompts = ground.opponent.prompts
    tokens, lengths = (np.asarray(x[:SHOWN]) for x in (prompts.tokens, prompts.length))
    return [
        config.task.prompt_text(row[:size].tolist())
        for row, size in zip(tokens, lengths, strict=True)
    ]


def _places(chosen: np.ndarray) -> list[tuple[int, int]]:
    """Row and lane of the slots that are chosen."""
    return [(int(row), int(lane)) for row, lane in np.argwhere(chosen)]


def _slot(state: PyTree, place: tuple[int, int]) -> PyTree:
    """One slot's part of what is stacked."""
    return jax.tree.map(lambda x: x[place], state)


class _Moved(NamedTuple):
    """Whether slots have other runs than before, and rows other worlds."""

    runs: bool
    worlds: bool


class _Table:
    """What was measured of the runs of a chunk, as it comes in."""

    def __init__(self, chunk: Chunk, columns: dict[str, np.dtype]) -> None:
        self._chunk, self._columns = chunk, columns
        self._points = np.array([p.experiment.evaluation.points for p in chunk.points])
        size = (len(chunk.points), int(self._points.max()) + 1, len(columns))
        self._values = np.full(size, np.nan)
        self._diverged = np.full(len(chunk.points), -1)
        # Numbers of the columns that hold tokens, in the order of prompts and time.
        found = {name: number for number, name in enumerate(columns) if name.startswith("answer_")}
        order = sorted(found, key=lambda name: [int(part) for part in name.split("_")[1:]])
        self._tokens = {name: found[name] for name in order}

    @property
    def diverged(self) -> int:
        """How many runs diverged."""
        return int(np.sum(self._diverged >= 0))

    def put(self, runs: np.ndarray, index: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, int]:
        """Take in what slots have measured: which slots are done, and how many evaluations they are spared. A run that
        diverged is frozen: what is measured of it once holds for its later evaluations too."""
        live = runs >= 0
        run, here = runs[live], index[live]
        kinds = self._columns.values()
        columns = [
            np.ascontiguousarray(bits).view(kind)
            for bits, kind in zip(found[live].T, kinds, strict=True)
        ]
        self._values[run, here] = np.array(columns, dtype=np.float64).T
        self._diverged[run] = self._values[run, here, list(self._columns).index("diverged_step")]
        frozen = self._diverged[run] >= 0
        for own, since in zip(run[frozen], here[frozen], strict=True):
            self._values[own, since:] = self._values[own, since]
        done = np.zeros(runs.shape, bool)
        done[live] = frozen | (here == self._points[run])
        return done, int(np.sum((self._points[run] - here)[frozen]))

    def so_far(self, run: int, index: int) -> np.ndarray:
        """What was measured of a run before an evaluation, one row each."""
        return self._values[run, :index]

    def resume(self, run: int, values: np.ndarray) -> None:
        """Take in what was measured of a run before."""
        self._values[run, : len(values)] = values

    def rows(self, known: Mapping[int, Any], asked: Mapping[int, Sequence[str]]) -> Rows:
        """One entry a run and evaluation in every column, run by run; ``known`` are the facts of every world, ``asked``
        its first prompts."""
        chunk, points = self._chunk, self._chunk.points
        counts = self._points + 1
        evaluation = np.concatenate([np.arange(count) for count in counts])
        run = np.repeat(np.arange(len(points)), counts)
        every = points[0].experiment.steps // points[0].experiment.evaluation.points
        facts = [known[owner] for owner in chunk.owners]
        measured = self._values[run, evaluation].T
        return {
            "run": np.array([point.run for point in points], dtype=object)[run],
            "evaluation": evaluation,
            "step": every * evaluation,
            "diverged_step": self._diverged[run],
            "prompts": np.array([p.experiment.evaluation.prompts for p in points])[run],
            "stack": np.full(len(run), chunk.stack),
            "devices": np.full(len(run), chunk.devices),
            ANSWERS: self._answers(run, evaluation, asked),
            **{
                name: values
                for name, values in zip(self._columns, measured, strict=True)
                if name != "diverged_step" and name not in self._tokens
            },
            **{
                f"{FACTS}{name}": np.array([float(own.get(name, np.nan)) for own in facts])[run]
                for name in dict.fromkeys(name for own in facts for name in own)
            },
        }

    def _answers(
        self, run: np.ndarray, evaluation: np.ndarray, asked: Mapping[int, Sequence[str]]
    ) -> list[str | None]:
        """What is answered at the first and the last evaluation of each run; nothing in between."""
        ends = (evaluation == 0) | (evaluation == self._points[run])
        said: list[str | None] = [None] * len(run)
        for row in np.flatnonzero(ends).tolist():
            prompts = asked[self._chunk.owners[run[row]]]
            tokens = self._values[run[row], evaluation[row], list(self._tokens.values())]
            task = self._chunk.points[run[row]].experiment.task
            texts = map(task.text, tokens.astype(int).reshape(len(prompts), -1).tolist())
            said[row] = json.dumps(list(zip(prompts, texts, strict=True)), ensure_ascii=False)
        return said

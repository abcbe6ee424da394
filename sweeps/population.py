"""Thousands of runs: builds what they stand on, and takes chunk after chunk through its compiled programs.

A chunk's slots (see `sweeps.plan`) hold runs at any point of their training. One call trains each from one evaluation
to the next, one measures it; then runs that are complete or have diverged leave, and the next ones take their slots.
"""

import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from sweeps import devices
from sweeps.devices import Along, OutOfMemory
from sweeps.engine import Spent
from sweeps.grounds import Grounds, Standing
from sweeps.plan import Chunk, Layout, Plan, compile_key, plan
from sweeps.progress import Progress
from sweeps.runtime import cache_directory, cores, make_room
from sweeps.store import FACTS
from testbed import metrics, train
from testbed.errors import InvalidInput
from testbed.ground import Ground
from testbed.logprob import Policy
from testbed.metrics import Yardstick
from testbed.sources.base import Supply
from testbed.stages import Cache
from testbed.streams import Stream, stream
from testbed.train import TrainConfig, TrainState
from testbed.trained import rebuilt

__all__ = ["Outcome", "compile_key", "execute", "plan", "run_chunk"]

#: What a slot does in a call: nothing, begin a run, or train it on.
IDLE, BEGIN, TRAIN = range(3)
Rows = dict[str, Any]


def execute(plan: Plan, on_rows: Callable[[Rows], None], progress: Progress) -> Spent:
    """Build what the runs stand on, then run chunk after chunk; ``on_rows`` gets each chunk's rows when it is done.

    Raises `InvalidInput` if one run alone does not fit.
    """
    clock = time.monotonic()
    grounds = Grounds(Cache(cache_directory() / "stages"), progress)
    grounds.prepare(plan.grounds)
    stage_seconds, clock = time.monotonic() - clock, time.monotonic()
    with Host(grounds, progress) as host:
        for number, chunk in enumerate(plan.chunks):
            progress.stage(f"chunk {number + 1} of {len(plan.chunks)} ({chunk.label})")
            outcome = host.run(plan.chunks[number:])
            on_rows(outcome.rows)
            progress.finished(len(chunk.points), outcome.diverged)
    host.spent.stage_seconds = stage_seconds
    host.spent.run_seconds = time.monotonic() - clock
    return host.spent


class Host:
    """The devices of this process, which take chunk after chunk; ``spent`` says what that took.

    A chunk for which a device has too little memory is begun again with half as many slots, and so are those like it.
    """

    def __init__(self, grounds: Standing, progress: Progress) -> None:
        self.spent = Spent()
        self._grounds, self._progress = grounds, progress
        self._programs = Programs(grounds)
        self._smaller: dict[tuple[int, Layout], Layout] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._programs.__exit__(*error)

    def run(self, chunks: Sequence[Chunk]) -> "Outcome":
        """What comes of the first chunk; the programs of those behind it are begun meanwhile. Raises `InvalidInput` if
        one run alone does not fit."""
        while True:
            chunk = self._fitting(chunks[0])
            try:
                made = self._programs.of(map(self._fitting, chunks))
                outcome = run_chunk(chunk, self._grounds, self._progress, made)
            except OutOfMemory as problem:
                smaller = _smaller(chunk, problem)
                self._smaller[chunk.group, chunk.layout] = smaller
                self.spent.shrunk += 1
                self._progress.stage(
                    f"out of memory: {smaller.slots} instead of {chunk.layout.slots} runs at a time"
                )
                continue
            self.spent.busy_seconds += outcome.seconds
            self.spent.bytes = max(self.spent.bytes, made.bytes * chunk.devices)
            return outcome

    def _fitting(self, chunk: Chunk) -> Chunk:
        """The chunk in as many slots as memory has room for, as far as that is known."""
        while (chunk.group, chunk.layout) in self._smaller:
            chunk = chunk.within(self._smaller[chunk.group, chunk.layout])
        return chunk


def _smaller(chunk: Chunk, problem: OutOfMemory) -> Layout:
    layout = chunk.layout.halved(chunk.devices)
    if layout is None:
        raise InvalidInput(
            f"a device has too little memory for one run of {chunk.label} ({problem}): make the model, batch_size or "
            f"evaluation.prompts smaller, or raise {devices.LIMIT}"
        ) from problem
    return layout


class Compiled(NamedTuple):
    """A chunk's programs, the names and types of what the second measures, and the bytes that they need a device."""

    train: Any
    measure: Any
    columns: dict[str, np.dtype]
    bytes: int = 0


class Programs:
    """The training and measuring programs of chunks, compiled ahead of need in threads, a core each: XLA leaves Python
    free meanwhile. A program is kept while the next chunks need it."""

    def __init__(self, grounds: Standing) -> None:
        self._grounds = grounds
        self._pool = ThreadPoolExecutor(cores())
        self._made: dict[Any, Future[Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def of(self, chunks: Iterable[Chunk]) -> Compiled:
        """Those of the first chunk, when they are compiled; those of as many chunks behind it as there are cores are
        begun. Raises `OutOfMemory` if they need more than a device may use."""
        make_room()
        coming = _different(chunks, 1 + cores())
        asked = [_asked(chunk, self._grounds[chunk.grounds[0]]) for chunk in coming]
        wanted = {_shape_key(part): part for parts, _ in asked for part in parts}
        for key, (program, arguments) in wanted.items():
            if key not in self._made:
                self._made[key] = self._pool.submit(_compile, program, arguments)
        self._made = {key: self._made[key] for key in wanted}
        parts, columns = asked[0]
        try:
            first, second = (self._made[_shape_key(part)].result() for part in parts)
        except Exception as problem:
            self._made.clear()
            raise _as_memory(problem) from problem
        needed = max(devices.needed_memory(program) or 0 for program in (first, second))
        if needed > devices.memory_limit():
            raise OutOfMemory(f"it needs {needed / 1e9:.2g} GB")
        return Compiled(first, second, columns, needed)


def _different(chunks: Iterable[Chunk], most: int) -> list[Chunk]:
    """The first chunks that differ in group or slots: others share their programs."""
    found: dict[Any, Chunk] = {}
    for chunk in chunks:
        found.setdefault((chunk.group, chunk.layout), chunk)
        if len(found) == most:
            break
    return list(found.values())


def _asked(chunk: Chunk, ground: Ground) -> tuple[list[tuple[Any, PyTree]], dict[str, np.dtype]]:
    """A chunk's programs with the shapes of their arguments, and what the second measures. All runs of a chunk have the
    shapes of the first."""
    e, (rows, lanes) = chunk.points[0].experiment, chunk.layout
    supply, yardstick = ground.supply(e.teacher), ground.yardstick(e.evaluation)
    state = jax.eval_shape(train.init, e.train, supply)
    one = Lane(*3 * [np.int32(0)])
    found = jax.eval_shape(_columns, _measured_part(state), one, yardstick)
    state, config, lane = (devices.shapes(part, rows, lanes) for part in (state, e.train, one))
    supply, yardstick = (devices.shapes(part, rows) for part in (supply, yardstick))
    count = jax.ShapeDtypeStruct((), np.int32)
    parts = [
        (_training_program(), (state, config, lane, supply, count, count)),
        (_measuring_program(), (_measured_part(state), lane, yardstick)),
    ]
    return parts, {name: column.dtype for name, column in found.items()}


def _shape_key(part: tuple[Any, PyTree]) -> Any:
    program, arguments = part
    return id(program), jax.tree.structure(arguments), *jax.tree.leaves(arguments)


def _compile(program: Any, arguments: tuple[PyTree, ...]) -> Any:
    return program.lower(*arguments).compile()


def _as_memory(problem: Exception) -> Exception:
    """The same error, or `OutOfMemory` if that is what it says."""
    if devices.ran_out(problem):
        return OutOfMemory(str(problem).splitlines()[0][:200])
    return problem


class Lane(NamedTuple):
    """What a slot is asked to do: the run's seed, the number of the evaluation it comes to, and `IDLE`, `BEGIN` or
    `TRAIN`."""

    seed: Any
    index: Any
    mode: Any


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
        raise _as_memory(problem) from problem


class _Slots:
    """The runs of a chunk on their way through its slots."""

    def __init__(self, chunk: Chunk, grounds: Standing, progress: Progress) -> None:
        self.chunk, self.progress = chunk, progress
        # Worlds are read when a row takes them, and let go when it takes another: a chunk may have thousands. Of all
        # that were read their facts are kept.
        self.standing, self.held = grounds, dict[int, Ground]()
        self.facts: dict[int, dict[str, Any]] = {}
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
        self.worlds = np.full(chunk.layout.rows, -1)

    def through(self, programs: Compiled | None) -> Outcome:
        """Take all runs through."""
        parts, columns = _asked(self.chunk, self.standing[self.chunk.grounds[0]])
        train_on, measure = programs[:2] if programs else (program for program, _ in parts)
        state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), parts[0][1][0])
        state = devices.place(state)
        table = _Table(self.chunk, columns)
        busy = 0.0
        moved, (config, seed), (supply, yardstick) = self._fill(), (None, None), (None, None)
        while np.any(self.runs >= 0):
            if moved.runs:
                config, seed = self._lanes()
            if moved.worlds:
                supply, yardstick = self._rows()
            live = self.runs >= 0
            mode = np.where(live, np.where(self.index > 0, TRAIN, BEGIN), IDLE).astype(np.int32)
            lane = Lane(seed, *devices.place((self.index, mode)))
            steps = self.every * int(np.any(mode == TRAIN))
            clock = time.monotonic()
            state = train_on(state, config, lane, supply, np.int32(self.every), np.int32(steps))
            found = jax.device_get(measure(_measured_part(state), lane, yardstick))
            busy += time.monotonic() - clock
            done, spared = table.put(self.runs, self.index, found)
            self._advance(self.every * (int(np.sum(mode == TRAIN)) + spared))
            self.runs[done] = -1
            self.index += 1
            moved = self._fill()
        return Outcome(table.rows(self.facts), table.diverged, busy)

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
                slots[slot], self.index[row, slot] = self.queues[world].popleft(), 0
                self.waiting[world] -= 1
        return _Moved(not np.array_equal(runs, self.runs), not np.array_equal(worlds, self.worlds))

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
        owned = [self.held[world] for world in self.worlds.tolist()]
        rows = [(one.supply(first.teacher), one.yardstick(first.evaluation)) for one in owned]
        return devices.place(devices.stacked(rows))


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

    def rows(self, known: Mapping[int, Any]) -> Rows:
        """One entry a run and evaluation in every column, run by run; ``known`` are the facts of every world."""
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
            **{
                name: values
                for name, values in zip(self._columns, measured, strict=True)
                if name != "diverged_step"
            },
            **{
                f"{FACTS}{name}": np.array([float(own.get(name, np.nan)) for own in facts])[run]
                for name in dict.fromkeys(name for own in facts for name in own)
            },
        }


@functools.cache
def _training_program() -> Any:
    along = (Along.LANES, Along.LANES, Along.LANES, Along.ROWS, Along.ALL, Along.ALL)
    return devices.compiled(_train_on, along, donate=(0,))


@functools.cache
def _measuring_program() -> Any:
    return devices.compiled(_measure, (Along.LANES, Along.LANES, Along.ROWS))


def _train_on(
    state: TrainState, config: TrainConfig, lane: Lane, supply: Supply, every: Array, steps: Array
) -> TrainState:
    """One slot's training from one evaluation to the next, or its beginning."""

    def begin() -> TrainState:
        return train.init(config, supply)

    def go_on() -> TrainState:
        start = (lane.index - 1) * every
        return train.advance(config, supply, state, _key(lane.seed), start, steps)

    return jax.lax.switch(lane.mode, [lambda: state, begin, go_on])


class Learnt(NamedTuple):
    """Of a `TrainState` what is measured: what is trained of the policy, and what training says of itself. Apart from
    training, measuring is one program for all sources and losses."""

    policy: Policy
    numbers: dict[str, Any]


def _measured_part(state: TrainState) -> Learnt:
    """What is trained of the policy; means since the last evaluation; what was consumed in all; where it diverged."""
    ledger = state.ledger
    numbers = {
        "train_loss": state.loss,
        "gradient_norm": state.gradient_norm,
        "pairs_seen": ledger.pairs,
        "distinct_pairs": ledger.distinct,
        "labels_bought": ledger.labels,
        "judgements": ledger.judgements,
        "tokens_sampled": ledger.tokens,
        "diverged_step": state.diverged_step,
    }
    return Learnt(state.policy, numbers)


def _measure(learnt: Learnt, lane: Lane, yardstick: Yardstick) -> Array:
    """One slot's evaluation: the bits of each column's 32-bit number, so that one transfer brings all of them."""

    def bits() -> Array:
        columns = _columns(learnt, lane, yardstick)
        return jnp.stack([jax.lax.bitcast_convert_type(x, jnp.uint32) for x in columns.values()])

    size = jax.eval_shape(bits).shape
    return jax.lax.cond(lane.mode == IDLE, lambda: jnp.zeros(size, jnp.uint32), bits)


def _columns(learnt: Learnt, lane: Lane, yardstick: Yardstick) -> dict[str, Array]:
    """What is measured of a run, by name, in alphabetical order: so a compiled program hands dictionaries back."""
    key = jax.random.fold_in(stream(_key(lane.seed), Stream.EVALUATION), lane.index)
    policy = rebuilt(learnt.policy, yardstick.reference)
    columns = metrics.evaluate(policy, yardstick, key).columns | learnt.numbers
    return dict(sorted(columns.items()))


def _key(seed: Array) -> PRNGKeyArray:
    return stream(jax.random.key(seed), Stream.TRAINING)

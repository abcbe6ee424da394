"""The two programs of a chunk, which train its runs and measure them, compiled ahead of need."""

import functools
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree, UInt32

from sweeps.population import devices, executable_cache
from sweeps.population.devices import Along, OutOfMemory
from sweeps.population.plan import Chunk
from sweeps.population.world_builder import Standing
from sweeps.runtime import cores, make_room
from testbed import metrics, train
from testbed.logprob import Policy
from testbed.metrics import Yardstick
from testbed.policies.shared_weights import Weights, missing, sharing
from testbed.policies.trainable import rebuilt
from testbed.source import Supply
from testbed.stages.world_config import Ground
from testbed.streams import Stream, stream
from testbed.train import TrainConfig, TrainState

#: What a slot does in a call: nothing, begin a run, or train it on.
IDLE, BEGIN, TRAIN = range(3)


class Lane(NamedTuple):
    """What a slot is asked to do: the run's seed, the number of the evaluation it comes to, steps that it has done
    since the one before, and `IDLE`, `BEGIN` or `TRAIN`."""

    seed: Any
    index: Any
    done: Any
    mode: Any


class Compiled(NamedTuple):
    """A chunk's programs, shapes of the states that the first trains, the names and types of what the second measures,
    and the bytes that they need a device."""

    train: Any
    measure: Any
    state: PyTree
    columns: dict[str, np.dtype]
    bytes: int


class Programs:
    """The training and measuring programs of chunks, compiled ahead of need in threads, a core each: XLA leaves Python
    free meanwhile. A program is kept while the next chunks need it."""

    def __init__(self, grounds: Standing) -> None:
        self._grounds = grounds
        self._pool = ThreadPoolExecutor(cores())
        self._made: dict[Any, Future[Any]] = {}
        self._needs: dict[Any, Needs] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def of(self, chunks: Iterable[Chunk]) -> Compiled:
        """Those of the first chunk, when they are compiled; those of as many chunks behind it as there are cores are
        begun. Raises `OutOfMemory` if they need more than a device may use."""
        make_room()
        coming = _different(chunks, 1 + cores())
        self._needs = {
            kind: self._needs.get(kind) or needed(chunk, self._grounds[chunk.grounds[0]])
            for kind, chunk in coming.items()
        }
        wanted = {_shape_key(part): part for need in self._needs.values() for part in need.parts}
        for key, part in wanted.items():
            if key not in self._made:
                self._made[key] = self._pool.submit(executable_cache.compiled, *part)
        self._made = {key: self._made[key] for key in wanted}
        need = next(iter(self._needs.values()))
        try:
            first, second = (self._made[_shape_key(part)].result() for part in need.parts)
        except Exception as problem:
            self._made.clear()
            raise devices.as_memory(problem) from problem
        size = max(devices.needed_memory(program) or 0 for program in (first, second))
        if size > devices.memory_limit():
            raise OutOfMemory(f"it needs {size / 1e9:.2g} GB")
        return Compiled(first, second, need.state, need.columns, size)


def _different(chunks: Iterable[Chunk], most: int) -> dict[Any, Chunk]:
    """The first chunks that differ in group or slots, by both: others share their programs."""
    found: dict[Any, Chunk] = {}
    for chunk in chunks:
        found.setdefault((chunk.group, chunk.layout), chunk)
        if len(found) == most:
            break
    return found


class Part(NamedTuple):
    """A program of a chunk: its name, the function, and the shapes of its arguments."""

    name: str
    program: Any
    arguments: tuple[PyTree, ...]


class Needs(NamedTuple):
    """What a chunk needs: its two programs; shapes of the states of its slots; the columns that are measured."""

    parts: tuple[Part, Part]
    state: PyTree
    columns: dict[str, np.dtype]


def needed(chunk: Chunk, ground: Ground) -> Needs:
    """What a chunk needs. All its runs have the shapes of the first."""
    e, (rows, lanes) = chunk.points[0].experiment, chunk.layout
    supply, yardstick = ground.supply(e.teacher), ground.yardstick(e.evaluation)
    weights = devices.shapes_of(devices.everywhere(missing((supply, yardstick))))
    one, count = Lane(*4 * [np.int32(0)]), jax.ShapeDtypeStruct((), np.int32)
    given = (weights, devices.alone((e.train, supply, yardstick)), one, count)
    work_out = functools.partial(_state_and_columns, *given)
    state, columns = executable_cache.worked_out("state and columns", given, work_out)
    state, config, lane = (devices.shapes(part, rows, lanes) for part in (state, e.train, one))
    supply, yardstick = (devices.shapes(part, rows) for part in (supply, yardstick))
    to_train = (weights, state, config, lane, supply, count, count)
    to_measure = (weights, measured_part(state), lane, yardstick, count)
    size = len(columns)
    parts = (
        Part("train", training_program(), to_train),
        Part(f"measure {size} columns", measuring_program(size), to_measure),
    )
    return Needs(parts, state, columns)


def _state_and_columns(
    weights: Weights, run: tuple[TrainConfig, Supply, Yardstick], lane: Lane, count: Any
) -> tuple[TrainState, dict[str, np.dtype]]:
    """Shapes of a run's state, and the columns that are measured of it."""
    config, supply, yardstick = run
    state = jax.eval_shape(sharing(train.init), weights, config, supply)
    part = measured_part(state)
    found = jax.eval_shape(sharing(_columns), weights, part, lane, yardstick, count)
    # Without the shardings that tracing gives: they are of this process.
    return devices.alone(state), {name: column.dtype for name, column in found.items()}


def _shape_key(part: Part) -> Any:
    return id(part.program), jax.tree.structure(part.arguments), *jax.tree.leaves(part.arguments)


@functools.cache
def training_program() -> Any:
    """`_train_on` for every slot; the states that it is given are used up."""
    along = (Along.LANES, Along.LANES, Along.LANES, Along.ROWS, Along.ALL, Along.ALL)
    return devices.compiled(_train_on, along, donate=(0,))


@functools.cache
def measuring_program(size: int) -> Any:
    """`_measure` for every slot, which finds so many columns."""
    measure = functools.partial(_measure, size)
    return devices.compiled(measure, (Along.LANES, Along.LANES, Along.ROWS, Along.ALL))


def _train_on(
    state: TrainState, config: TrainConfig, lane: Lane, supply: Supply, every: Array, steps: Array
) -> TrainState:
    """Some steps of one slot's training on the way to its next evaluation, ``every`` steps behind the one before; or
    its beginning."""

    def begin() -> TrainState:
        return train.init(config, supply)

    def go_on() -> TrainState:
        start = (lane.index - 1) * every + lane.done
        going = train.restarted(state, lane.done == 0)
        return train.go_on(config, supply, going, _key(lane.seed), start, steps)

    return jax.lax.switch(lane.mode, [lambda: state, begin, go_on])


class Learnt(NamedTuple):
    """Of a `TrainState` what is measured: what is trained of the policy, and what training says of itself. Apart from
    training, measuring is one program for all sources and losses."""

    policy: Policy
    numbers: dict[str, Any]


def measured_part(state: TrainState) -> Learnt:
    """What is trained of the policy; sums since the last evaluation; what was consumed in all; where it diverged."""
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


def _measure(
    size: int, learnt: Learnt, lane: Lane, yardstick: Yardstick, every: Array
) -> UInt32[Array, " size"]:
    """One slot's evaluation: the bits of each column's 32-bit number, so that one transfer brings all of them. That
    there are ``size`` of them is known: finding out would take as long as tracing all that is measured."""

    def bits() -> Array:
        columns = _columns(learnt, lane, yardstick, every)
        return jnp.stack([jax.lax.bitcast_convert_type(x, jnp.uint32) for x in columns.values()])

    return jax.lax.cond(lane.mode == IDLE, lambda: jnp.zeros(size, jnp.uint32), bits)


def _columns(learnt: Learnt, lane: Lane, yardstick: Yardstick, every: Array) -> dict[str, Array]:
    """What is measured of a run, by name, in alphabetical order: so a compiled program hands dictionaries back."""
    key = jax.random.fold_in(stream(_key(lane.seed), Stream.EVALUATION), lane.index)
    policy = rebuilt(learnt.policy, yardstick.reference)
    means = {name: learnt.numbers[name] / every for name in ("train_loss", "gradient_norm")}
    found = metrics.columns(metrics.evaluate(policy, yardstick, key)) | learnt.numbers | means
    return dict(sorted(found.items()))


def _key(seed: Array) -> PRNGKeyArray:
    return stream(jax.random.key(seed), Stream.TRAINING)

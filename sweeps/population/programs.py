"""The two programs of a chunk, which train its runs and measure them, compiled before they are needed."""

import functools
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, PRNGKeyArray, PyTree, UInt32

from sweeps.console import profile
from sweeps.population import devices, executable_cache
from sweeps.population.devices import Along, OutOfMemory
from sweeps.population.plan import Chunk
from sweeps.population.world_builder import WorldSource
from sweeps.runtime import cores, make_room
from testbed import metrics, train
from testbed.logprob import Policy
from testbed.metric_table import BY_PROMPT
from testbed.metrics import EvaluationInputs
from testbed.policies.shared_weights import Weights, missing, sharing
from testbed.policies.trainable import rebuilt
from testbed.source import TrainingInputs
from testbed.stages.world_config import WorldArtifacts
from testbed.streams import Stream, stream
from testbed.train import TrainConfig, TrainState

#: What a slot does in a call: nothing, begin a run, or continue its training.
IDLE, BEGIN, TRAIN = range(3)
#: Most compiled programs, and most kinds of chunks, that are kept in memory although the next chunks do not need them.
KEPT = 16


class Lane(NamedTuple):
    """The work of a slot.

    Attributes:
        seed: of the run's training. index: the number of the run's next evaluation. before: the step of the evaluation
            before. done: steps since then. interval: steps between these two evaluations.
        mode: `IDLE`, `BEGIN` or `TRAIN`.
    """

    seed: Any
    index: Any
    before: Any
    done: Any
    interval: Any
    mode: Any


class Compiled(NamedTuple):
    """A chunk's programs, the shapes of the states that the first program trains, the names and types of the columns
    that the second measures (outcomes by prompt follow them), and the bytes that the programs need on each device."""

    train: Any
    measure: Any
    state: PyTree
    columns: dict[str, np.dtype]
    bytes: int


class Programs:
    """The training and measuring programs of chunks, compiled before they are needed in the threads of ``pool``, by
    default one per core: XLA does not hold Python's lock meanwhile. The latest `KEPT` programs are kept: waves of
    worlds need the same ones again. At the end the pool is shut down."""

    def __init__(self, worlds: WorldSource, pool: Executor | None = None) -> None:
        self._worlds = worlds
        self._pool = pool or ThreadPoolExecutor(cores())
        self._made: dict[Any, Future[Any]] = {}
        self._needs: dict[Any, Needs] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, chunks: Iterable[Chunk], worlds: WorldSource) -> None:
        """Begin to compile the programs that `of` will want first; of the artifacts of ``worlds`` only the shapes are
        used. May be called in another thread than `of`, which waits until the programs are traced."""
        with self._lock:
            self._expect(chunks, worlds)

    def of(self, chunks: Iterable[Chunk]) -> Compiled:
        """Wait for the programs of the first chunk and return them; compilation starts for as many of the next chunks
        as there are cores. Raises `OutOfMemory` if the programs need more than a device may use."""
        make_room()
        with profile.part(profile.Part.WAIT), self._lock:
            need = self._expect(chunks, self._worlds)
            try:
                first, second = (self._made[_shape_key(part)].result() for part in need.parts)
            except Exception as problem:
                self._made.clear()
                raise devices.as_memory(problem) from problem
        size = max(devices.needed_memory(program) or 0 for program in (first, second))
        if size > devices.memory_limit():
            raise OutOfMemory(f"it needs {size / 1e9:.2g} GB")
        return Compiled(first, second, need.state, need.columns, size)

    def _expect(self, chunks: Iterable[Chunk], worlds: WorldSource) -> "Needs":
        """Have the programs of the next different chunks made; return the needs of the first chunk."""
        coming = _different(chunks, 1 + cores())
        needs = {
            kind: self._needs.get(kind) or needed(chunk, worlds[chunk.worlds[0]])
            for kind, chunk in coming.items()
        }
        wanted = {_shape_key(part): part for need in needs.values() for part in need.parts}
        made = {
            key: self._made.get(key) or self._pool.submit(executable_cache.compiled, *part)
            for key, part in wanted.items()
        }
        self._needs, self._made = _latest(self._needs, needs), _latest(self._made, made)
        return next(iter(needs.values()))


def _latest(known: dict[Any, Any], used: Mapping[Any, Any]) -> dict[Any, Any]:
    """The entries that are ``used`` now, and the latest others, `KEPT` of them at most unless more are used."""
    others = [key for key in known if key not in used]
    kept = others[max(len(others) + len(used) - KEPT, 0) :]
    return {key: known[key] for key in kept} | dict(used)


def _different(chunks: Iterable[Chunk], most: int) -> dict[Any, Chunk]:
    """The first chunks that differ in group or slots, by both; chunks with the same group and slots share programs."""
    different: dict[Any, Chunk] = {}
    for chunk in chunks:
        different.setdefault((chunk.group, chunk.layout), chunk)
        if len(different) == most:
            break
    return different


class Part(NamedTuple):
    """A program of a chunk: its name, the function, and the shapes of its arguments."""

    name: str
    program: Any
    arguments: tuple[PyTree, ...]


class Needs(NamedTuple):
    """The needs of a chunk: its two programs; shapes of its slots' states; the measured columns."""

    parts: tuple[Part, Part]
    state: PyTree
    columns: dict[str, np.dtype]


def needed(chunk: Chunk, artifacts: WorldArtifacts) -> Needs:
    """The needs of a chunk. All its runs have the shapes of the first run."""
    given = _given(chunk, artifacts)
    work_out = functools.partial(_state_and_columns, *given)
    return _needs(chunk, given, executable_cache.worked_out(_SHAPES, given, work_out))


def lacking(chunk: Chunk, artifacts: WorldArtifacts) -> tuple[str, ...]:
    """Names of the programs of a chunk that no earlier process has stored. Nothing is traced."""
    given = _given(chunk, artifacts)
    known = executable_cache.worked_out_before(_SHAPES, given)
    if known is None:
        return names(chunk)
    parts = _needs(chunk, given, known).parts
    return tuple(
        one.name for one in parts if executable_cache.stored(one.name, one.arguments) is None
    )


#: The name under which the shapes of states and columns are stored.
_SHAPES = "state and columns"


def _given(chunk: Chunk, artifacts: WorldArtifacts) -> tuple[PyTree, PyTree, Lane]:
    """Shapes of what a run of a chunk is given: weights; config and inputs; its lane."""
    e = chunk.points[0].experiment
    inputs, evaluation_inputs = jax.eval_shape(
        lambda made: (made.training_inputs(e.teacher), made.evaluation_inputs(e.evaluation)),
        devices.alone(artifacts),
    )
    weights = devices.shapes_of(devices.everywhere(missing((inputs, evaluation_inputs))))
    one = Lane(*[np.int32(0) for _ in Lane._fields])
    return weights, devices.alone((e.train, inputs, evaluation_inputs)), one


def _needs(chunk: Chunk, given: tuple[PyTree, PyTree, Lane], known: tuple[PyTree, Any]) -> Needs:
    """The needs of a chunk whose runs are ``given`` these shapes, with ``known`` shapes of states and columns."""
    evaluation, (rows, lanes) = chunk.points[0].experiment.evaluation, chunk.layout
    weights, (config, inputs, evaluation_inputs), one = given
    (state, columns), count = known, jax.ShapeDtypeStruct((), np.int32)
    state, config, lane = (devices.shapes(part, rows, lanes) for part in (state, config, one))
    inputs, evaluation_inputs = (devices.shapes(part, rows) for part in (inputs, evaluation_inputs))
    to_train = (weights, state, config, lane, inputs, count)
    to_measure = (weights, measured_part(state), lane, evaluation_inputs)
    size = len(columns) + len(BY_PROMPT) * evaluation.prompts
    train, measure = names(chunk)
    parts = (
        Part(train, training_program(), to_train),
        Part(measure, measuring_program(size), to_measure),
    )
    return Needs(parts, state, columns)


def names(chunk: Chunk) -> tuple[str, str]:
    """The names of a chunk's programs. The number of measurements follows from the arguments of the second."""
    e = chunk.points[0].experiment
    return f"train {type(e.source).__name__} {type(e.loss).__name__}", "measure"


def _state_and_columns(
    weights: Weights,
    run: tuple[TrainConfig, TrainingInputs, EvaluationInputs],
    lane: Lane,
) -> tuple[TrainState, dict[str, np.dtype]]:
    """Shapes of a run's state, and the columns that are measured for a run."""
    config, inputs, evaluation_inputs = run
    state = jax.eval_shape(sharing(train.init), weights, config, inputs)
    part = measured_part(state)
    columns, _ = jax.eval_shape(sharing(_measurements), weights, part, lane, evaluation_inputs)
    # The shardings that tracing adds are removed: they belong to this process.
    return devices.alone(state), {name: column.dtype for name, column in columns.items()}


def _shape_key(part: Part) -> Any:
    return id(part.program), jax.tree.structure(part.arguments), *jax.tree.leaves(part.arguments)


@functools.cache
def training_program() -> Any:
    """`_train_on` for every slot; the input states are donated."""
    along = (Along.LANES, Along.LANES, Along.LANES, Along.ROWS, Along.ALL)
    return devices.compiled(_train_on, along, donate=(0,))


@functools.cache
def measuring_program(size: int) -> Any:
    """`_measure` for every slot, with ``size`` numbers."""
    measure = functools.partial(_measure, size)
    return devices.compiled(measure, (Along.LANES, Along.LANES, Along.ROWS))


def _train_on(
    state: TrainState,
    config: TrainConfig,
    lane: Lane,
    inputs: TrainingInputs,
    steps: Array,
) -> TrainState:
    """Continue one slot's training by some steps towards its next evaluation, or begin the training."""

    def begin() -> TrainState:
        return train.init(config, inputs)

    def go_on() -> TrainState:
        going = train.restarted(state, lane.done == 0)
        return train.go_on(config, inputs, going, _key(lane.seed), lane.before + lane.done, steps)

    return jax.lax.switch(lane.mode, [lambda: state, begin, go_on])


class Learnt(NamedTuple):
    """The measured part of a `TrainState`: the trained part of the policy, and the numbers that training records.
    Because training is left out, one measuring program serves all sources and losses."""

    policy: Policy
    numbers: dict[str, Any]


def measured_part(state: TrainState) -> Learnt:
    """The trained part of the policy; sums since the last evaluation; total consumption; the step of divergence."""
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
    size: int, learnt: Learnt, lane: Lane, evaluation_inputs: EvaluationInputs
) -> UInt32[Array, " size"]:
    """One slot's evaluation: the bits of each column's 32-bit number, then of the outcomes by prompt, so that one
    transfer brings all. ``size``, how many numbers these are, is an argument because finding it would take as long as
    tracing all measurements.

    Outcomes by prompt are returned whether a run keeps them or not: one program, and therefore equal bits, for both."""

    def bits() -> Array:
        columns, outcomes = _measurements(learnt, lane, evaluation_inputs)
        words = [jax.lax.bitcast_convert_type(x, jnp.uint32) for x in columns.values()]
        return jnp.concatenate(
            [jnp.stack(words), jnp.ravel(jax.lax.bitcast_convert_type(outcomes, jnp.uint32))]
        )

    return jax.lax.cond(lane.mode == IDLE, lambda: jnp.zeros(size, jnp.uint32), bits)


def _measurements(
    learnt: Learnt, lane: Lane, evaluation_inputs: EvaluationInputs
) -> tuple[dict[str, Array], Float32[Array, "outcome prompt"]]:
    """The measurements of a run by name, in alphabetical order, the order in which compiled programs return
    dictionaries; and its outcomes by prompt (`testbed.metrics.by_prompt`)."""
    key = jax.random.fold_in(stream(_key(lane.seed), Stream.EVALUATION), lane.index)
    policy = rebuilt(learnt.policy, evaluation_inputs.reference)
    means = {name: learnt.numbers[name] / lane.interval for name in ("train_loss", "gradient_norm")}
    found = metrics.evaluate(policy, evaluation_inputs, key)
    columns = metrics.columns(found) | learnt.numbers | means
    return dict(sorted(columns.items())), metrics.by_prompt(found)


def _key(seed: Array) -> PRNGKeyArray:
    return stream(jax.random.key(seed), Stream.TRAINING)

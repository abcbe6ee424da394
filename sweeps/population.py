"""Many runs at once: the only module that knows about devices.

Runs that share a compile key are stacked and spread over a mesh of devices, ``jit(shard_map(stack(run)))`` with no
communication between them. Within a device the stack is a `jax.vmap` where batched products are cheap (GPU) and a
`jax.lax.map` where they are not: a CPU runs one lane after the other at full speed, one XLA device per core.
"""

import functools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray, PyTree

from sweeps.progress import Progress
from sweeps.runtime import cache_directory, cores, make_room
from sweeps.store import FACTS
from sweeps.study import Point
from testbed import cost, metrics, stages, train
from testbed.experiment import Experiment
from testbed.ground import Ground, GroundConfig
from testbed.logprob import Policy
from testbed.metrics import Yardstick
from testbed.sources.base import Supply
from testbed.stages import STAGES, Cache
from testbed.streams import Stream, stream
from testbed.train import TrainConfig

#: Every stage of a ground, in order.
STAGE_NAMES = tuple(stage.name for stage in STAGES)
#: Most lanes per device. On a CPU stacking gains nothing, and a chunk is what a crash can lose.
CPU_STACK = 1
GPU_STACK = 1024
#: Share of a device's memory that a chunk may plan with.
MEMORY_SHARE = 0.6
#: Seconds that a core takes to compile a training program or a long stage for the first time; only plans use it.
COMPILING = 12.0
#: Share of the machine's matrix-product peak that whole runs of small models have reached; only plans use it.
EXPECTED_EFFICIENCY = {"cpu": 0.25, "gpu": 0.05}


@dataclass(frozen=True)
class Chunk:
    """Runs of one compile key and length, executed together."""

    points: tuple[Point, ...]
    group: int
    stack: int
    devices: int
    seconds: float | None

    @property
    def label(self) -> str:
        """What tells the chunk apart: its arms."""
        return ", ".join(sorted({point.arm for point in self.points}))

    @property
    def steps(self) -> int:
        """Training steps, summed over runs."""
        return sum(point.experiment.steps for point in self.points)

    @property
    def bytes(self) -> int:
        """Predicted memory."""
        return sum(cost.footprint(point.experiment) for point in self.points)


@dataclass(frozen=True)
class Plan:
    """Chunks in the order of execution, and the grounds they stand on.

    ``stages`` are the long stages that the cache lacks, ``stage_seconds`` what they take and ``compile_seconds`` what
    compiling takes where nothing is compiled yet: predictions.
    """

    chunks: tuple[Chunk, ...]
    grounds: tuple[GroundConfig, ...]
    stages: int
    stage_seconds: float
    compile_seconds: float

    def describe(self) -> list[dict[str, Any]]:
        """Rows of the dry run's table, one a compile group and length."""
        tables: dict[tuple[int, int], list[Chunk]] = defaultdict(list)
        for chunk in self.chunks:
            tables[chunk.group, chunk.points[0].experiment.steps].append(chunk)
        return [
            {
                "group": group + 1,
                "arms": chunks[0].label,
                "steps": steps,
                "runs": sum(len(chunk.points) for chunk in chunks),
                "chunks": len(chunks),
                "stack x devices": f"{chunks[0].stack} x {chunks[0].devices}",
                "MB a chunk": round(max(chunk.bytes for chunk in chunks) / 1e6),
                "seconds": round(math.fsum(chunk.seconds or 0.0 for chunk in chunks)),
            }
            for (group, steps), chunks in sorted(tables.items())
        ]


def plan(points: Sequence[Point]) -> Plan:
    """Group points by compile key and length, longest first, and cut each group into chunks."""
    devices = jax.devices()
    # One CPU device computes a large product on every core.
    count = 1 if devices[0].platform == "cpu" else len(devices)
    peak = matrix_peak() * count * EXPECTED_EFFICIENCY.get(devices[0].platform, 0.05)
    groups: dict[Any, int] = {}
    members: dict[tuple[int, int], list[Point]] = defaultdict(list)
    for point in points:
        group = groups.setdefault(compile_key(point.experiment), len(groups))
        members[group, point.experiment.steps].append(point)
    chunks = []
    for (group, _), part in members.items():
        # Chunks of equal size: one compiled shape, and little padding.
        count = math.ceil(len(part) / (_most_lanes(part, devices[0]) * len(devices)))
        stack = math.ceil(len(part) / (count * len(devices)))
        size = stack * len(devices)
        for start in range(0, len(part), size):
            runs = tuple(part[start : start + size])
            seconds = math.fsum(cost.total_flops(run.experiment) for run in runs) / peak
            chunks.append(Chunk(runs, group, stack, len(devices), seconds))
    chunks.sort(key=lambda chunk: -chunk.points[0].experiment.steps)
    owners = {GroundConfig.of(point.experiment): point.experiment for point in points}
    lacking = _lacking_stages(owners)
    kinds: dict[Any, list[float]] = defaultdict(list)
    for name, owner, needed in lacking.values():
        kinds[name, jax.tree.structure(GroundConfig.of(owner))].append(needed)
    # Of each kind as many at a time as there are devices; the last of them may be fewer.
    waves = (math.ceil(len(own) / len(devices)) * max(own) for own in kinds.values())
    return Plan(
        tuple(chunks),
        tuple(owners),
        len(lacking),
        math.fsum(waves) * len(devices) / peak,
        COMPILING * (len(groups) + len(kinds)) / cores(),
    )


def _lacking_stages(
    owners: Mapping[GroundConfig, Experiment],
) -> dict[str, tuple[str, Experiment, float]]:
    """The long stages that are not cached, by address: name, an experiment that needs it, operations."""
    cache = Cache(cache_directory() / "stages")
    found: dict[str, tuple[str, Experiment, float]] = {}
    for ground, owner in owners.items():
        addresses = stages.fingerprints(ground)
        for name, needed in cost.stage_flops(owner).items():
            if addresses[name] not in found and not cache.holds(addresses[name]):
                found[addresses[name]] = name, owner, needed
    return found


def execute(
    plan: Plan, on_rows: Callable[[list[dict[str, Any]]], None], progress: Progress
) -> None:
    """Build what the runs stand on, then run chunk after chunk; ``on_rows`` gets each chunk's rows when it is done."""
    cache = Cache(cache_directory() / "stages")
    grounds = build_grounds(plan.grounds, cache, progress)
    with Programs(plan.chunks, grounds) as programs:
        for number, chunk in enumerate(plan.chunks):
            progress.stage(f"chunk {number + 1} of {len(plan.chunks)} ({chunk.label})")
            rows, diverged = run_chunk(chunk, grounds, progress, programs.of(number))
            on_rows(rows)
            progress.finished(len(chunk.points), diverged)


def build_grounds(
    configs: Iterable[GroundConfig], cache: Cache, progress: Progress
) -> dict[GroundConfig, Ground]:
    """Every ground by its config."""
    made = build_stages(configs, cache, progress)
    return {config: stages.assemble(parts) for config, parts in made.items()}


def build_stages(
    configs: Iterable[GroundConfig],
    cache: Cache,
    progress: Progress,
    wanted: Collection[str] = STAGE_NAMES,
) -> dict[GroundConfig, dict[str, PyTree]]:
    """What the ``wanted`` stages make, by config and stage; the stages before them must be wanted too. What the cache
    lacks is made stage by stage, many seeds at once."""
    names = {config: stages.fingerprints(config) for config in configs}
    made: dict[GroundConfig, dict[str, PyTree]] = {config: {} for config in names}
    for stage in STAGES:
        if stage.name not in wanted:
            continue
        found: dict[str, PyTree] = {}
        missing: dict[str, GroundConfig] = {}
        needed = [config for config in names if stage.needed(config)]
        for config in needed:
            address = names[config][stage.name]
            if address not in found and address not in missing:
                result = cache.load(address)
                if result is None:
                    missing[address] = config
                else:
                    found[address] = result
        if missing:
            progress.stage(f"building {stage.name} for {len(missing)} worlds")
        for batch in _batches(missing):
            make_room()
            owners = [missing[address] for address in batch]
            inputs = _stacked([(config, made[config]) for config in owners])
            results = spread(stage.make)(*inputs)
            for address, result in zip(batch, _unstacked(results, len(batch)), strict=True):
                cache.save(address, result)
                found[address] = result
        for config, addresses in names.items():
            result = found[addresses[stage.name]] if config in needed else None
            made[config][stage.name] = result
            stages.check(config, stage.name, result)
    return made


class Programs:
    """The training and measuring programs of chunks, compiled ahead of need in threads, a core each: XLA leaves Python
    free meanwhile. A program is kept while the next chunks need it."""

    def __init__(self, chunks: Sequence[Chunk], grounds: Mapping[GroundConfig, Ground]) -> None:
        self._chunks, self._grounds = chunks, grounds
        self._pool = ThreadPoolExecutor(cores())
        self._made: dict[Any, Future[Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def of(self, number: int) -> tuple[Any, Any]:
        """Those of chunk ``number``, when they are compiled; those of as many chunks behind it as there are cores are
        begun."""
        make_room()
        coming = self._chunks[number : number + 1 + cores()]
        wanted = {key: part for chunk in coming for key, part in self._asked(chunk).items()}
        for key, (program, arguments) in wanted.items():
            if key not in self._made:
                self._made[key] = self._pool.submit(_compile, program, arguments)
        self._made = {key: self._made[key] for key in wanted}
        train_on, measure = (self._made[key].result() for key in self._asked(coming[0]))
        return train_on, measure

    def _asked(self, chunk: Chunk) -> dict[Any, tuple[Any, tuple[PyTree, ...]]]:
        """Programs and the shapes of their arguments, by what tells compiled programs apart."""
        config, supply, yardstick, seed = _shapes(_lanes(chunk, self._grounds), chunk)
        state = jax.eval_shape(spread(_start), config, supply)
        state = jax.tree.map(_placed, state)
        count = jax.ShapeDtypeStruct((), np.int32)
        asked = (
            (_training_program(), (state, config, supply, seed, count, count)),
            (_measuring_program(), (state.policy, yardstick, seed, count)),
        )
        return {
            (id(part[0]), jax.tree.structure(part[1]), *jax.tree.leaves(part[1])): part
            for part in asked
        }


def _compile(program: Any, arguments: tuple[PyTree, ...]) -> Any:
    return program.lower(*arguments).compile()


def _lanes(chunk: Chunk, grounds: Mapping[GroundConfig, Ground]) -> list[tuple[PyTree, ...]]:
    """What each run of a chunk is made of: training, supply, yardstick, seed."""
    experiments = [point.experiment for point in chunk.points]
    owned = [grounds[GroundConfig.of(e)] for e in experiments]
    return [
        (e.train, ground.supply(e.teacher), ground.yardstick(e.evaluation), e.seed)
        for e, ground in zip(experiments, owned, strict=True)
    ]


def run_chunk(
    chunk: Chunk,
    grounds: dict[GroundConfig, Ground],
    progress: Progress,
    programs: tuple[Any, Any] | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """Train and evaluate the runs of a chunk, with its compiled programs if there are any yet; their rows, and how many
    diverged."""
    make_room()
    experiments = [point.experiment for point in chunk.points]
    lanes = _stacked(_lanes(chunk, grounds), chunk.stack * chunk.devices)
    config, supply, yardstick, seed = jax.device_put(lanes, _over_runs())
    every = experiments[0].steps // experiments[0].evaluation.points
    train_on, measure = programs or (_training_program(), _measuring_program())
    state = spread(_start)(config, supply)
    measured = []
    for index in range(experiments[0].evaluation.points + 1):
        if index:
            clock = map(np.int32, ((index - 1) * every, every))
            state = train_on(state, config, supply, seed, *clock)
            progress.advance(every * len(experiments))
        found = measure(state.policy, yardstick, seed, np.int32(index)) | _learning(state)
        measured.append(jax.device_get(found))
    diverged = jax.device_get(state.diverged_step)
    rows = [
        _row(chunk, lane, index, every * index, measured[index], diverged, facts)
        for lane, facts in enumerate(grounds[GroundConfig.of(e)].facts for e in experiments)
        for index in range(len(measured))
    ]
    return rows, int(np.sum(diverged[: len(experiments)] >= 0))


def compile_key(experiment: Experiment) -> tuple[Any, ...]:
    """What must agree for two runs to share a compiled program: everything static but how long anything is trained."""
    e = experiment
    structure = jax.tree.structure((e.train, e.evaluation, e.task, e.model, e.proxy_model))
    return structure, e.tabular, e.data.pairs, e.proxy.pairwise


@functools.cache
def mesh() -> Mesh:
    """All devices in a row, one axis of runs."""
    return jax.make_mesh((jax.device_count(),), ("runs",), axis_types=(AxisType.Auto,))


def _over_runs() -> NamedSharding:
    """One stack of lanes after the other on the devices."""
    return NamedSharding(mesh(), PartitionSpec("runs"))


@functools.cache
def spread(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Compile a function of one lane into one of stacked lanes, spread over the devices."""
    return compiled(function, shared=0, donate=())


def compiled(function: Callable[..., PyTree], shared: int, donate: tuple[int, ...]) -> Any:
    """``jit(shard_map(stack(function)))``; the last ``shared`` arguments are the same for all lanes."""

    def stacked(*arguments: PyTree) -> PyTree:
        split = len(arguments) - shared
        lanes, common = arguments[:split], arguments[split:]
        if jax.default_backend() == "cpu":
            return jax.lax.map(lambda lane: function(*lane, *common), lanes)
        return jax.vmap(lambda *lane: function(*lane, *common))(*lanes)

    def sharded(*arguments: PyTree) -> PyTree:
        over, same = PartitionSpec("runs"), PartitionSpec()
        specs = (over,) * (len(arguments) - shared) + (same,) * shared
        body = jax.shard_map(stacked, mesh=mesh(), in_specs=specs, out_specs=over, check_vma=False)
        return body(*arguments)

    return jax.jit(sharded, donate_argnums=donate)


def _start(config: TrainConfig, supply: Supply) -> train.TrainState:
    return train.init(config, supply)


def _train_on(
    state: train.TrainState,
    config: TrainConfig,
    supply: Supply,
    seed: Array,
    start: Array,
    steps: Array,
) -> train.TrainState:
    """One lane's training from one evaluation to the next."""
    return train.advance(config, supply, state, _key(seed), start, steps)


def _measure(policy: Policy, yardstick: Yardstick, seed: Array, index: Array) -> dict[str, Array]:
    """One lane's evaluation. Apart from training it is one program for all sources and losses."""
    key = jax.random.fold_in(stream(_key(seed), Stream.EVALUATION), index)
    return metrics.evaluate(policy, yardstick, key).columns


def _key(seed: Array) -> PRNGKeyArray:
    return stream(jax.random.key(seed), Stream.TRAINING)


def _learning(state: train.TrainState) -> dict[str, Array]:
    """What training says of itself since the last evaluation, and what it has consumed in all."""
    ledger = state.ledger
    return {
        "train_loss": state.loss,
        "gradient_norm": state.gradient_norm,
        "pairs_seen": ledger.pairs,
        "distinct_pairs": ledger.distinct,
        "labels_bought": ledger.labels,
        "judgements": ledger.judgements,
        "tokens_sampled": ledger.tokens,
    }


@functools.cache
def _training_program() -> Any:
    return compiled(_train_on, shared=2, donate=(0,))


@functools.cache
def _measuring_program() -> Any:
    return compiled(_measure, shared=1, donate=())


def _row(
    chunk: Chunk,
    lane: int,
    index: int,
    step: int,
    measured: dict[str, np.ndarray],
    diverged: np.ndarray,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """One row of the long table."""
    point = chunk.points[lane]
    return {
        "run": point.run,
        "evaluation": index,
        "step": step,
        "diverged_step": int(diverged[lane]),
        "prompts": point.experiment.evaluation.prompts,
        "stack": chunk.stack,
        "devices": chunk.devices,
        **{name: float(values[lane]) for name, values in measured.items()},
        **{f"{FACTS}{name}": float(value) for name, value in facts.items()},
    }


def _batches(owners: Mapping[str, GroundConfig]) -> Iterator[list[str]]:
    """Addresses whose configs are of one structure, as many at a time as there are devices."""
    alike: dict[Any, list[str]] = defaultdict(list)
    for address, config in owners.items():
        alike[jax.tree.structure(config)].append(address)
    size = jax.device_count()
    for addresses in alike.values():
        yield from (addresses[start : start + size] for start in range(0, len(addresses), size))


def _stacked(lanes: Sequence[tuple[PyTree, ...]], size: int | None = None) -> tuple[PyTree, ...]:
    """Stack lanes along a new first axis; the last lane is repeated until the devices divide them."""
    devices = jax.device_count()
    wanted = size or math.ceil(len(lanes) / devices) * devices
    padded = [*lanes, *[lanes[-1]] * (wanted - len(lanes))]
    return jax.tree.map(lambda *leaves: np.stack([_array(x) for x in leaves]), *padded)


def _array(leaf: Any) -> np.ndarray:
    """A leaf as jax would hold it: 32-bit numbers."""
    array = np.asarray(leaf)
    narrow = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}
    return array.astype(narrow.get(array.dtype, array.dtype))


def _shapes(lanes: Sequence[tuple[PyTree, ...]], chunk: Chunk) -> tuple[PyTree, ...]:
    """Shapes of the stacked lanes of a chunk, of which all lanes have those of the first."""
    stack = (chunk.stack * chunk.devices,)
    arrays = jax.tree.map(_array, lanes[0])
    return jax.tree.map(lambda x: _placed(jax.ShapeDtypeStruct(stack + x.shape, x.dtype)), arrays)


def _placed(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=_over_runs())


def _unstacked(stacked: PyTree, count: int) -> list[PyTree]:
    """The first ``count`` lanes, on the host."""
    host = jax.device_get(stacked)
    return [jax.tree.map(lambda x, i=i: x[i], host) for i in range(count)]


def _most_lanes(points: Sequence[Point], device: Any) -> int:
    """Lanes per device that its memory allows."""
    if device.platform == "cpu":
        return CPU_STACK
    limit = (device.memory_stats() or {}).get("bytes_limit", 8e9) * MEMORY_SHARE
    return max(1, min(GPU_STACK, int(limit // cost.footprint(points[0].experiment))))


def matrix_peak() -> float:
    """Measured float32 matrix-product rate of one device, in operations a second: the best of a few products."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((size, size))
    _product(a).block_until_ready()
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        _product(a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


@jax.jit
def _product(a: Array) -> Array:
    return a @ a

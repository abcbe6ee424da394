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
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec
from jaxtyping import Array, PRNGKeyArray, PyTree

from sweeps.progress import Progress
from sweeps.runtime import cache_directory, make_room
from sweeps.store import FACTS
from sweeps.study import Point
from testbed import cost, metrics, stages, train
from testbed.experiment import EvaluationConfig, Experiment
from testbed.stages import STAGES, Cache, Ground, GroundConfig
from testbed.streams import Stream, stream
from testbed.train import TrainConfig

#: Every stage of a ground, in order.
STAGE_NAMES = tuple(stage.name for stage in STAGES)
#: Most lanes per device. On a CPU stacking gains nothing, and a chunk is what a crash can lose.
CPU_STACK = 1
GPU_STACK = 1024
#: Share of a device's memory that a chunk may plan with.
MEMORY_SHARE = 0.6
#: Share of the matrix-product peak that whole runs of small models have reached; only plans use it.
EXPECTED_EFFICIENCY = {"cpu": 0.35, "gpu": 0.05}


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
    """Chunks in the order of execution, and the grounds they stand on."""

    chunks: tuple[Chunk, ...]
    grounds: tuple[GroundConfig, ...]

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
    peak = matrix_peak() * len(devices) * EXPECTED_EFFICIENCY.get(devices[0].platform, 0.05)
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
    grounds = dict.fromkeys(GroundConfig.of(point.experiment) for point in points)
    return Plan(tuple(chunks), tuple(grounds))


def execute(
    plan: Plan, on_rows: Callable[[list[dict[str, Any]]], None], progress: Progress
) -> None:
    """Build what the runs stand on, then run chunk after chunk; ``on_rows`` gets each chunk's rows when it is done."""
    cache = Cache(cache_directory() / "stages")
    grounds = build_grounds(plan.grounds, cache, progress)
    for number, chunk in enumerate(plan.chunks, start=1):
        progress.stage(f"chunk {number} of {len(plan.chunks)} ({chunk.label})")
        rows, diverged = run_chunk(chunk, grounds, progress)
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


def run_chunk(
    chunk: Chunk, grounds: dict[GroundConfig, Ground], progress: Progress
) -> tuple[list[dict[str, Any]], int]:
    """Train and evaluate the runs of a chunk; their rows, and how many diverged."""
    make_room()
    experiments = [point.experiment for point in chunk.points]
    owned = [grounds[GroundConfig.of(e)] for e in experiments]
    lanes = [
        (e.train, e.evaluation, ground, e.seed)
        for e, ground in zip(experiments, owned, strict=True)
    ]
    config, evaluation, ground, seed = _stacked(lanes, chunk.stack * chunk.devices)
    every = experiments[0].steps // experiments[0].evaluation.points
    program = _period_program()
    state = spread(_start)(config, ground)
    measured = []
    for index in range(experiments[0].evaluation.points + 1):
        steps = every if index else 0
        clock = (max(0, index - 1) * every, steps, index)
        state, result = program(state, config, evaluation, ground, seed, *map(jnp.asarray, clock))
        measured.append(jax.device_get(result))
        progress.advance(steps * len(lanes))
    diverged = jax.device_get(state.diverged_step)
    rows = [
        _row(chunk, lane, index, every * index, measured[index], diverged, owned[lane])
        for lane in range(len(lanes))
        for index in range(len(measured))
    ]
    return rows, int(np.sum(diverged[: len(lanes)] >= 0))


def compile_key(experiment: Experiment) -> tuple[Any, ...]:
    """What must agree for two runs to share a compiled program: everything static but how long anything is trained."""
    e = experiment
    structure = jax.tree.structure((e.train, e.evaluation, e.task, e.model))
    return structure, e.tabular, e.data.pairs, e.proxy.pairwise


@functools.cache
def mesh() -> Mesh:
    """All devices in a row, one axis of runs."""
    return jax.make_mesh((jax.device_count(),), ("runs",), axis_types=(AxisType.Auto,))


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


def _start(config: TrainConfig, ground: Ground) -> train.TrainState:
    return train.init(config, ground.supply())


def _period(
    state: train.TrainState,
    config: TrainConfig,
    evaluation: EvaluationConfig,
    ground: Ground,
    seed: Array,
    start: Array,
    steps: Array,
    index: Array,
) -> tuple[train.TrainState, dict[str, Array]]:
    """One lane's evaluation period: train, then measure."""
    key: PRNGKeyArray = stream(jax.random.key(seed), Stream.TRAINING)
    state = train.advance(config, ground.supply(), state, key, start, steps)
    measured = metrics.evaluate(
        evaluation,
        state.policy,
        ground.sft,
        ground.data,
        ground.golden,
        ground.proxy,
        ground.opponent,
        jax.random.fold_in(stream(key, Stream.EVALUATION), index),
    )
    ledger = state.ledger
    learning = {
        "train_loss": state.loss,
        "gradient_norm": state.gradient_norm,
        "pairs_seen": ledger.pairs,
        "distinct_pairs": ledger.distinct,
        "labels_bought": ledger.labels,
        "judgements": ledger.judgements,
        "tokens_sampled": ledger.tokens,
    }
    return state, vars(measured) | learning


@functools.cache
def _period_program() -> Any:
    return compiled(_period, shared=3, donate=(0,))


def _row(
    chunk: Chunk,
    lane: int,
    index: int,
    step: int,
    measured: dict[str, np.ndarray],
    diverged: np.ndarray,
    ground: Ground,
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
        **{f"{FACTS}{name}": float(value) for name, value in ground.facts.items()},
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

"""Plans: runs grouped by the program that they compile to, and cut into chunks.

A *chunk* is computed, stored and, on a cluster, sent as one. A chunk has a number of slots: ``rows`` worlds at a time
with ``lanes`` runs of each. When the run in a slot is done, the slot takes the next run of its world.
"""

import functools
import itertools
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax

from sweeps.population.compile_key import compile_key, measured_part, rhythm
from sweeps.population.devices import Machine
from sweeps.population.memory import refuse_too_large
from sweeps.runtime import cache_directory, cores
from sweeps.store import files
from sweeps.study import Point
from testbed.cache import Cache
from testbed.config.canonical_form import read, shared_text
from testbed.errors import InvalidInput
from testbed.estimates import flops as cost
from testbed.estimates.memory import Footprint, footprint
from testbed.experiment import Experiment
from testbed.stages import stages
from testbed.stages.world_config import WorldConfig

#: Intended duration of a chunk in seconds, which a crash can lose, and the variable that changes the duration.
CHUNK_SECONDS, CHUNK_VARIABLE = 30.0, "TESTBED_CHUNK_SECONDS"
#: If an evaluation interval takes less than this many seconds, a CPU gets several runs per call: each call costs the
#: host a few ms.
ROUND_SECONDS = 0.05
#: Most runs of a chunk; most slots of a device that computes them side by side; most slots of a CPU device.
MOST_RUNS, MOST_LANES, CPU_LANES = 2048, 1024, 64
#: Seconds that a core takes to compile a training program or a long stage for the first time. Only plans use this
#: number.
COMPILING = 12.0
#: Shares of the machine's matrix-product peak that whole runs have reached: at width 64, from which the share grows
#: with the root of the width, and at most. Only plans use these numbers.
EXPECTED_EFFICIENCY = {"cpu": (0.25, 0.65), "gpu": (0.05, 0.4)}


class Layout(NamedTuple):
    """Slots of a chunk: the number of worlds at a time, over all devices, and the number of runs of each."""

    rows: int
    lanes: int

    @property
    def slots(self) -> int:
        """Number of runs at a time."""
        return self.rows * self.lanes

    def halved(self, devices: int) -> "Layout | None":
        """A layout with about half as many slots, fewer lanes first; None if each device has one slot already."""
        if self.lanes > 1:
            return Layout(self.rows, math.ceil(self.lanes / 2))
        if self.rows > devices:
            return Layout(math.ceil(self.rows / devices / 2) * devices, 1)
        return None


@dataclass(frozen=True)
class Chunk:
    """Runs with one compile key and one `rhythm` of evaluations, executed together.

    ``owners`` holds each run's index into ``worlds``, the world configs. ``seconds`` is the predicted time,
    ``longest`` the number of operations of the longest run. Chunks of an earlier ``wave`` come first, see `waves`.
    """

    points: tuple[Point, ...]
    worlds: tuple[WorldConfig, ...]
    owners: tuple[int, ...]
    layout: Layout
    group: int
    devices: int
    stacks: bool
    seconds: float | None
    longest: float = 0.0
    wave: int = 0

    @property
    def label(self) -> str:
        """A short name of the chunk: its arms."""
        return ", ".join(sorted({point.arm for point in self.points}))

    @property
    def steps(self) -> int:
        """Training steps, summed over runs."""
        return sum(point.experiment.steps for point in self.points)

    @property
    def stack(self) -> int:
        """Number of slots of each device."""
        return self.layout.slots // self.devices

    @property
    def bytes(self) -> int:
        """Predicted memory, over all devices."""
        part = footprint(self.points[0].experiment)
        return self.devices * _memory(part, self.layout, self.devices, self.stacks)


@dataclass(frozen=True)
class Plan:
    """Chunks in the order of execution, and the configs of the worlds that they need.

    ``stages`` are the long stages that the cache lacks. Two predictions: ``stage_seconds`` is the time of these stages,
    ``compile_seconds`` the time of compiling, if nothing is compiled yet or as far as is known what is compiled.
    """

    chunks: tuple[Chunk, ...]
    worlds: tuple[WorldConfig, ...]
    stages: int
    stage_seconds: float
    compile_seconds: float

    def describe(self) -> list[dict[str, Any]]:
        """Rows of the dry run's table, one per compile group and length."""
        tables: dict[tuple[int, int], list[Chunk]] = defaultdict(list)
        for chunk in self.chunks:
            tables[chunk.group, max(point.experiment.steps for point in chunk.points)].append(chunk)
        return [
            {
                "group": group + 1,
                "arms": ", ".join(sorted({chunk.label for chunk in chunks})),
                "steps": steps,
                "runs": sum(len(chunk.points) for chunk in chunks),
                "chunks": len(chunks),
                "worlds x runs": f"{chunks[0].layout.rows} x {chunks[0].layout.lanes}",
                "devices": chunks[0].devices,
                "MB a chunk": round(max(chunk.bytes for chunk in chunks) / 1e6),
                "seconds": round(math.fsum(chunk.seconds or 0.0 for chunk in chunks)),
            }
            for (group, steps), chunks in sorted(tables.items())
        ]


class _Member(NamedTuple):
    """The facts about a run that plans use: its point, the number of its world config, and predicted operations."""

    point: Point
    world: int
    flops: float


def plan(points: Sequence[Point], machine: Machine | None = None) -> Plan:
    """Group points by compile key and rhythm of evaluations, and cut each group into chunks: wave after wave of seeds
    (`waves`), in each the longest runs first.

    ``machine`` is the host that will run the chunks, by default this one. Raises `InvalidInput` if the machine's memory
    is far too small for one run per device, or if this host's cache cannot be written.
    """
    if machine is None:
        files.require_writable_cache()
        machine = Machine.here()
    register = _Register()
    groups: dict[tuple[int, Any], list[_Member]] = defaultdict(list)
    for point in points:
        e = point.experiment
        group = register.group(e)
        member = _Member(point, register.world(e), register.flops(e, group))
        groups[group, rhythm(e)].append(member)
    wave_of = waves({point.seed for point in points}, machine)
    chunks = [
        chunk
        for (group, _), members in groups.items()
        for chunk in _cut(members, group, wave_of, register, machine)
    ]
    # The sort is stable: chunks of a group stay together, so that a chunk's programs are compiled already.
    chunks.sort(key=lambda chunk: (chunk.wave, -chunk.longest))
    lacking = _lacking_stages(register.owners)
    kinds: dict[Any, list[float]] = defaultdict(list)
    for name, owner, needed in lacking.values():
        seconds = needed / _rate(machine, owner)
        kinds[name, jax.tree.structure(WorldConfig.of(owner))].append(seconds)
    # As many stages of a kind run at a time as there are devices; the last batch may be smaller.
    times = (math.ceil(len(each) / machine.devices) * max(each) for each in kinds.values())
    return Plan(
        tuple(chunks),
        register.worlds,
        len(lacking),
        math.fsum(times) * machine.devices,
        COMPILING * (len(register.groups) + len(kinds)) / cores(),
    )


def waves(seeds: Iterable[int], machine: Machine) -> dict[int, int]:
    """The wave of every seed: all runs of the first seeds come first, so that they can be compared long before the rest
    is done; every wave doubles the number of seeds.

    A wave has a multiple of as many seeds as there are devices; what is left over joins the last wave. Devices that
    compute runs side by side get all seeds at once: the number of worlds is a part of their programs' shapes.
    """
    ordered = sorted(seeds)
    if machine.stacks:
        return dict.fromkeys(ordered, 0)
    found, end, number = {}, machine.devices, 0
    for index, seed in enumerate(ordered):
        if index >= end and len(ordered) - index >= machine.devices:
            number, end = number + 1, 2 * end
        found[seed] = number
    return found


def _rate(machine: Machine, experiment: Experiment) -> float:
    """Operations a second that a machine is expected to reach on an experiment."""
    least, most = EXPECTED_EFFICIENCY.get(machine.platform, (0.05, 0.05))
    return machine.peak * min(most, least * math.sqrt(experiment.shape.width / 64))


def chunk_seconds() -> float:
    """Intended duration of a chunk in seconds. Raises `InvalidInput` if the user's number cannot be read."""
    text = os.environ.get(CHUNK_VARIABLE, "")
    try:
        chosen = float(text) if text else CHUNK_SECONDS
    except ValueError:
        chosen = math.nan
    if not 0 <= chosen < math.inf:
        raise InvalidInput(f"{CHUNK_VARIABLE} must be a number of seconds, got '{text}'")
    return chosen


class _Once:
    """A function of an object, computed once per object: 10^5 experiments share most of their parts."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._known: dict[int, tuple[Any, Any]] = {}

    def __call__(self, thing: Any) -> Any:
        if id(thing) not in self._known:
            # The object is stored too: its `id` is unique only while the object exists.
            self._known[id(thing)] = self._function(thing), thing
        return self._known[id(thing)][0]


def _text(part: Any) -> str:
    """A part of a config, a module or a number, as text. Two texts are equal if the addresses of stages are."""
    return shared_text(part) if isinstance(part, eqx.Module) else repr(part)


class _Register:
    """Groups, world configs and costs of experiments, numbered in order of appearance."""

    def __init__(self) -> None:
        self.groups: dict[Any, int] = {}
        self.owners: list[Experiment] = []
        self._worlds: dict[Any, int] = {}
        self._costs: dict[Any, tuple[cost.Flops, Any]] = {}
        self._structure, self._compiled = _Once(jax.tree.structure), _Once(measured_part)

    @functools.cached_property
    def worlds(self) -> tuple[WorldConfig, ...]:
        """Every world config; call this after all experiments were registered."""
        return tuple(map(WorldConfig.of, self.owners))

    def group(self, experiment: Experiment) -> int:
        """Number of the experiment's compile key."""
        key = compile_key(experiment, self._structure, self._compiled)
        return self.groups.setdefault(key, len(self.groups))

    def world(self, experiment: Experiment) -> int:
        """Number of the experiment's world config."""
        key = tuple(map(_text, WorldConfig.parts(experiment)))
        if key not in self._worlds:
            self._worlds[key] = len(self.owners)
            self.owners.append(experiment)
        return self._worlds[key]

    def flops(self, experiment: Experiment, group: int) -> float:
        """Predicted operations of the whole run."""
        source, points = read(experiment, "source"), read(read(experiment, "evaluation"), "points")
        key = (group, id(source))
        if key not in self._costs:
            self._costs[key] = cost.flops(experiment), source
        return cost.total(self._costs[key][0], read(experiment, "steps"), points)


def _cut(
    members: Sequence[_Member],
    group: int,
    wave_of: Mapping[int, int],
    register: _Register,
    machine: Machine,
) -> Iterator[Chunk]:
    """Cut a group into chunks of one wave each. The worlds of a chunk have about equally many runs, which keeps the
    slots busy. The longest runs come first, so that the chunk does not end with one long run in a single slot."""
    members = sorted(members, key=lambda member: -member.flops)
    rate = _rate(machine, members[0].point.experiment)
    layout = _layout(members, machine, rate)
    mean = math.fsum(member.flops for member in members) / len(members) / rate
    most = layout.slots * math.ceil(chunk_seconds() / max(mean * layout.slots, 1e-9))
    most = max(layout.slots, min(most, MOST_RUNS // layout.slots * layout.slots))
    in_waves: dict[int, list[_Member]] = defaultdict(list)
    for member in members:
        in_waves[wave_of[member.point.seed]].append(member)
    for wave, ours in in_waves.items():
        ordered = list(_interleaved(ours, layout.rows))
        # Chunks have equal sizes: no last chunk leaves most slots empty.
        count = math.ceil(len(ordered) / most)
        size = math.ceil(len(ordered) / count / layout.slots) * layout.slots
        for part in _batched(ordered, size):
            yield _chunk(part, group, wave, layout, register, machine, rate)


def _chunk(
    members: Sequence[_Member],
    group: int,
    wave: int,
    layout: Layout,
    register: _Register,
    machine: Machine,
    rate: float,
) -> Chunk:
    """The chunk of these runs."""
    worlds = dict.fromkeys(member.world for member in members)
    place = {number: index for index, number in enumerate(worlds)}
    return Chunk(
        points=tuple(member.point for member in members),
        worlds=tuple(register.worlds[number] for number in worlds),
        owners=tuple(place[member.world] for member in members),
        layout=layout,
        group=group,
        devices=machine.devices,
        stacks=machine.stacks,
        seconds=math.fsum(member.flops for member in members) / rate,
        longest=max(member.flops for member in members),
        wave=wave,
    )


def _layout(members: Sequence[_Member], machine: Machine, rate: float) -> Layout:
    """The slots that memory allows and the devices can use."""
    counts = Counter(member.world for member in members)
    needs = footprint(members[0].point.experiment)
    most = max(counts.values())
    if machine.stacks:
        rows = min(math.ceil(len(counts) / machine.devices), MOST_LANES)
        lanes = min(most, MOST_LANES // rows)
    else:
        first = members[0]
        evaluations = first.point.experiment.evaluation.points
        seconds = first.flops / evaluations / (rate / machine.devices)
        # If there are fewer worlds than devices, each world is on several devices.
        copies = math.ceil(machine.devices / len(counts))
        useful = max(1, math.ceil(min(ROUND_SECONDS, chunk_seconds()) / seconds))
        rows, lanes = 1, min(math.ceil(most / copies), useful, CPU_LANES)
    layout: Layout | None = Layout(rows * machine.devices, lanes)
    while _memory(needs, layout, machine.devices, machine.stacks) > machine.memory:
        smaller = layout.halved(machine.devices)
        if smaller is None:
            # The run may still fit: the forecast is rough, and the device itself reports missing memory.
            refuse_too_large(members[0].point, machine)
            break
        layout = smaller
    return layout


def _memory(needs: Footprint, layout: Layout, devices: int, stacks: bool) -> int:
    """Predicted bytes on each device: worlds, runs, and working memory of the runs that are computed side by side."""
    rows, lanes = layout.rows // devices, layout.slots // devices
    return rows * needs.world + lanes * needs.run + (lanes if stacks else 1) * needs.work


def _interleaved(members: Sequence[_Member], rows: int) -> Iterator[_Member]:
    """Take as many worlds at a time as there are rows, and one run of each in turn; worlds with most runs come
    first."""
    worlds: dict[int, list[_Member]] = defaultdict(list)
    for member in members:
        worlds[member.world].append(member)
    ordered = sorted(worlds.values(), key=lambda runs: -len(runs))
    for together in _batched(ordered, rows):
        for turn in itertools.zip_longest(*together):
            yield from (member for member in turn if member is not None)


def _batched(things: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (things[start : start + size] for start in range(0, len(things), size))


def _lacking_stages(owners: Iterable[Experiment]) -> dict[str, tuple[str, Experiment, float]]:
    """The long stages that are not cached, by address: name, an experiment that needs the stage, operations."""
    cache = Cache(cache_directory() / "stages")
    lacking: dict[str, tuple[str, Experiment, float]] = {}
    for owner in owners:
        addresses = stages.fingerprints(WorldConfig.of(owner))
        for name, needed in cost.stage_flops(owner).items():
            if addresses[name] not in lacking and not cache.holds(addresses[name]):
                lacking[addresses[name]] = name, owner, needed
    return lacking

"""The programs of stages, traced and compiled in threads before the stages are built.

The shapes of a stage's inputs follow from the config and from the shapes of earlier results, which tracing gives. So
all programs that are missing begin to compile at once, on all cores, while the first stages are built.
"""

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from threading import Semaphore
from typing import Any, NamedTuple, Self
from weakref import WeakValueDictionary

import jax
from jaxtyping import PyTree

from sweeps.population import devices, executable_cache
from testbed.cache import Cache
from testbed.policies import shared_weights
from testbed.stages import stages
from testbed.stages.stages import STAGES, Stage
from testbed.stages.world_config import WorldArtifacts, WorldConfig

#: Most programs that are compiled, or on their way, before the stage that needs them.
AHEAD = 16


class Kind(NamedTuple):
    """Results of a stage with one kind have equal shapes and are made by one program: the stage's name, and the
    structure of everything in a config that the result depends on."""

    stage: str
    structure: Any


def kind_of(stage: Stage, config: WorldConfig) -> Kind:
    """The kind of a stage's result for a config."""
    return Kind(stage.name, jax.tree.structure(config.only(stages.reached(stage.name))))


class _Unknown(Exception):
    """The shapes of a result are known only once it is made."""


class StagePrograms:
    """The programs of stages. While the object is entered, those that are expected compile in the threads of ``pool``;
    another thread traces one after the other. At most `AHEAD` programs are ready that no stage has used yet: compiled
    programs take memory maps, of which a process has a limited number."""

    def __init__(self, cache: Cache, pool: Executor) -> None:
        self._cache, self._pool = cache, pool
        # Expected programs in order: futures of tracing, whose results are futures of compiling.
        self._expected: dict[Kind, Future[Future[Any]]] = {}
        # Kinds that share another kind's program and results.
        self._same: dict[Kind, Kind] = {}
        # Programs on their way by the shapes of their arguments, as long as they are expected.
        self._compiling: WeakValueDictionary[Any, Future[Any]] = WeakValueDictionary()
        # Shapes of one world's result.
        self._known: dict[Kind, PyTree] = {}
        # The latest program that was not expected, and what it was made for.
        self._latest: tuple[Any, Any] = None, None

    def __enter__(self) -> Self:
        self._tracer, self._room, self._left = ThreadPoolExecutor(1), Semaphore(AHEAD), False
        return self

    def __exit__(self, *_: object) -> None:
        self._left = True
        self._tracer.shutdown(wait=False, cancel_futures=True)
        for program in list(self._compiling.values()):
            program.cancel()
        for kind in list(self._expected):
            self._let_go(kind)
        self._same, self._known = {}, {}

    def expect(
        self,
        missing: Sequence[tuple[Stage, Mapping[str, WorldConfig]]],
        then: Callable[["_Shapes"], object] | None = None,
    ) -> None:
        """Begin to trace and compile the programs of these stages, in this order, for the kinds of these configs. Call
        ``then`` afterwards, in the same thread."""
        makers: dict[str, Kind] = {}
        for stage, configs in missing:
            for address, config in configs.items():
                kind = kind_of(stage, config)
                # Stages with equal inputs and code share their results.
                maker = makers.setdefault(address, kind)
                if maker != kind:
                    self._same[kind] = maker
                elif not stage.host and kind not in self._expected:
                    self._expected[kind] = self._tracer.submit(self._begin, stage, config)
        if then is not None:
            self._tracer.submit(then, _Shapes(self))

    def of(self, stage: Stage, config: WorldConfig, shapes: tuple[PyTree, ...]) -> Any:
        """A stage's program for a config, and for arguments of these shapes if it was not expected. Programs that were
        expected before this one are let go: stages are built in the order in which they are expected."""
        kind = kind_of(stage, config)
        if kind in self._expected:
            for earlier in itertools.takewhile(lambda one: one != kind, list(self._expected)):
                self._let_go(earlier)
            with contextlib.suppress(_Unknown):
                return self._expected[kind].result().result()
        key = _key(stage, shapes)
        if self._latest[0] != key:
            compiled = executable_cache.compiled(stage.name, _program(stage), shapes)
            self._latest = key, compiled
        return self._latest[1]

    def _begin(self, stage: Stage, config: WorldConfig) -> Future[Any]:
        """Trace a stage's program, and let a thread compile it."""
        self._room.acquire()
        if self._left:
            raise _Unknown(stage.name)
        given = arguments_of(stage, config, self.shapes)
        begun = executable_cache.begin(stage.name, _program(stage), given)
        self._known[kind_of(stage, config)] = one_row(begun.results)
        key = _key(stage, given)
        program = self._compiling.get(key) or self._pool.submit(begun.finish)
        self._compiling[key] = program
        return program

    def _let_go(self, kind: Kind) -> None:
        """Forget a program that was expected, and leave its room to the next."""
        self._expected.pop(kind).cancel()
        self._room.release()

    def shapes(self, name: str, config: WorldConfig) -> PyTree:
        """Shapes of a stage's result; None if the config does not need the stage. Raises `_Unknown` if they are known
        only once the result is made."""
        stage = BY_NAME[name]
        if not stage.needed(config):
            return None
        kind = kind_of(stage, config)
        kind = self._same.get(kind, kind)
        if kind not in self._known:
            result = self._cache.load(stages.fingerprints(config)[name])
            if result is None:
                raise _Unknown(name)
            self._known[kind] = devices.alone(result)
        return self._known[kind]


def arguments_of(
    stage: Stage, config: WorldConfig, shapes_of: Callable[[str, WorldConfig], PyTree]
) -> tuple[PyTree, ...]:
    """Shapes of the arguments of a stage's program; ``shapes_of`` gives those of an earlier stage's result."""
    inputs = stage.own(config), {name: shapes_of(name, config) for name in stage.after}
    weights = devices.shapes_of(devices.everywhere(shared_weights.missing(inputs)))
    return weights, *(devices.shapes(part, jax.device_count()) for part in inputs)


def one_row(results: PyTree) -> PyTree:
    """Shapes of one world's result, from those of all rows."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), results)


class _Shapes:
    """World artifacts by config, with shapes in place of arrays."""

    def __init__(self, programs: StagePrograms) -> None:
        self._programs = programs

    def __getitem__(self, config: WorldConfig) -> WorldArtifacts:
        made = {name: self._programs.shapes(name, config) for name in BY_NAME}
        return stages.assemble(made)


#: Every stage by name, in order.
BY_NAME = {stage.name: stage for stage in STAGES}


def _key(stage: Stage, shapes: tuple[PyTree, ...]) -> tuple[Any, ...]:
    """What tells the programs of stages apart in this process."""
    return stage.name, jax.tree.structure(shapes), *jax.tree.leaves(shapes)


def _program(stage: Stage) -> Any:
    """The jitted function of a stage, for rows of worlds."""
    return devices.spread(stage.make)

"""Builds the world artifacts of runs, or finds them in the cache: stage by stage, as many worlds at a time as there are
devices.

Results are stored on disk and read when they are needed, in a few milliseconds, so that memory does not grow with the
number of worlds. Results do not contain the weights of checkpoints (`testbed.policies.shared_weights`). The programs of
all stages are compiled in threads from the beginning (`sweeps.population.stage_programs`).
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import jax
from jaxtyping import PyTree

from sweeps.console import profile
from sweeps.console.profile import Part
from sweeps.console.progress import Progress
from sweeps.population import devices
from sweeps.population.stage_programs import BY_NAME, StagePrograms, kind_of
from sweeps.runtime import cores, make_room
from testbed.cache import Cache
from testbed.policies import shared_weights
from testbed.stages import stages
from testbed.stages.stages import STAGES, Stage
from testbed.stages.world_config import WorldArtifacts, WorldConfig

#: Every stage of a world, in order.
STAGE_NAMES = tuple(BY_NAME)


@runtime_checkable
class WorldSource(Protocol):
    """A source of world artifacts by config: `WorldBuilder`, or a mapping with artifacts that are made already."""

    def __getitem__(self, config: WorldConfig, /) -> WorldArtifacts:
        """The world artifacts of a config."""
        ...


class WorldBuilder:
    """The world artifacts of any number of configs, by config. Programs compile in the threads of ``pool``, by default
    one per core."""

    def __init__(self, cache: Cache, progress: Progress, pool: Executor | None = None) -> None:
        self._cache, self._progress = cache, progress
        self._programs = StagePrograms(cache, pool or ThreadPoolExecutor(cores()))

    def prepare(
        self,
        configs: Iterable[WorldConfig],
        wanted: Collection[str] = STAGE_NAMES,
        meanwhile: Callable[[WorldSource], object] | None = None,
    ) -> None:
        """Make the results of the ``wanted`` stages that the cache lacks for some configs. The stages that these stages
        depend on must be wanted too.

        If there is anything to make, ``meanwhile`` is called in a thread with a source of world artifacts that have
        shapes in place of arrays.

        Raises `InvalidInput` if data are not what was asked for."""
        names = {config: stages.fingerprints(config) for config in configs}
        chosen = [stage for stage in STAGES if stage.name in wanted]
        with self._programs as programs:
            expected = False
            for stage in chosen:
                missing = self._missing(stage, names)
                if missing and not (stage.host or expected):
                    lacking = [(one, self._missing(one, names)) for one in chosen]
                    programs.expect(lacking, meanwhile)
                    expected = True
                if missing:
                    self._progress.stage(f"building {stage.name} for {len(missing)} worlds")
                for batch in _batches(stage, missing):
                    with profile.part(Part.STAGE, stage.name):
                        self._make(stage, {address: missing[address] for address in batch})

    def _missing(
        self, stage: Stage, names: Mapping[WorldConfig, Mapping[str, str]]
    ) -> dict[str, WorldConfig]:
        """The configs for which a stage has to run, by the address of the result, each address once."""
        missing: dict[str, WorldConfig] = {}
        for config, addresses in names.items():
            address = addresses[stage.name]
            if stage.needed(config) and not self._cache.holds(address):
                missing.setdefault(address, config)
        return missing

    def __getitem__(self, config: WorldConfig) -> WorldArtifacts:
        """The world artifacts of a config; parts that the cache has lost are made again."""
        return stages.assemble(self.made(config))

    def made(self, config: WorldConfig, wanted: Collection[str] = STAGE_NAMES) -> dict[str, PyTree]:
        """The results of the ``wanted`` stages for a config; None for stages that the config does not need."""
        addresses = stages.fingerprints(config)
        return {
            name: self._result(config, name, addresses) for name in STAGE_NAMES if name in wanted
        }

    def _result(self, config: WorldConfig, name: str, addresses: Mapping[str, str]) -> PyTree:
        stage, address = BY_NAME[name], addresses[name]
        if not stage.needed(config):
            return None
        result = self._cache.load(address)
        return self._make(stage, {address: config})[0] if result is None else result

    def _make(self, stage: Stage, owners: Mapping[str, WorldConfig]) -> list[PyTree]:
        """A stage's results for at most as many configs as there are devices."""
        make_room()
        inputs = [(config, self.made(config, stage.after)) for config in owners.values()]
        if stage.host:
            results = [shared_weights.left_out(stage.make(*given)) for given in inputs]
        else:
            own = [(stage.own(config), made) for config, made in inputs]
            rows = devices.place(devices.stacked(own, jax.device_count()))
            given = (devices.everywhere(shared_weights.missing(inputs)), *rows)
            (config, _), *_ = inputs
            with profile.part(Part.WAIT, stage.name):
                program = self._programs.of(stage, config, devices.shapes_of(given))
            made = jax.device_get(program(*given))
            results = [jax.tree.map(lambda x, i=i: x[i], made) for i in range(len(owners))]
        for (address, config), result in zip(owners.items(), results, strict=True):
            stages.check(config, stage.name, result)
            self._cache.save(address, result)
        return results


def _batches(stage: Stage, owners: Mapping[str, WorldConfig]) -> Iterator[list[str]]:
    """Addresses of results that one program makes, as many at a time as there are devices."""
    alike: dict[object, list[str]] = defaultdict(list)
    for address, config in owners.items():
        alike[kind_of(stage, config)].append(address)
    size = jax.device_count()
    for addresses in alike.values():
        yield from (addresses[start : start + size] for start in range(0, len(addresses), size))

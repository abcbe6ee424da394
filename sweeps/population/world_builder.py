"""Builds the world artifacts of runs, or finds them in the cache: stage by stage, as many worlds at a time as there are
devices.

Results are stored on disk and read when they are needed, in a few milliseconds, so that memory does not grow with the
number of worlds. Results do not contain the weights of checkpoints (`testbed.policies.shared_weights`).
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import PyTree

from sweeps.console.progress import Progress
from sweeps.population import devices, executable_cache
from sweeps.runtime import make_room
from testbed.cache import Cache
from testbed.policies import shared_weights
from testbed.stages import stages
from testbed.stages.stages import STAGES, Stage
from testbed.stages.world_config import WorldArtifacts, WorldConfig

#: Every stage of a world, in order.
STAGE_NAMES = tuple(stage.name for stage in STAGES)
_BY_NAME = {stage.name: stage for stage in STAGES}


@runtime_checkable
class WorldSource(Protocol):
    """A source of world artifacts by config: `WorldBuilder`, or a mapping with artifacts that are made already."""

    def __getitem__(self, config: WorldConfig, /) -> WorldArtifacts:
        """The world artifacts of a config."""
        ...


class WorldBuilder:
    """The world artifacts of any number of configs, by config."""

    def __init__(self, cache: Cache, progress: Progress) -> None:
        self._cache, self._progress = cache, progress
        self._latest: tuple[Any, Any] = None, None

    def prepare(
        self, configs: Iterable[WorldConfig], wanted: Collection[str] = STAGE_NAMES
    ) -> None:
        """Make the results of the ``wanted`` stages that the cache lacks for some configs. The stages that these stages
        depend on must be wanted too.

        Raises `InvalidInput` if data are not what was asked for."""
        names = {config: stages.fingerprints(config) for config in configs}
        for stage in STAGES:
            if stage.name not in wanted:
                continue
            missing: dict[str, WorldConfig] = {}
            for config, addresses in names.items():
                address = addresses[stage.name]
                if stage.needed(config) and not self._cache.holds(address):
                    missing.setdefault(address, config)
            if missing:
                self._progress.stage(f"building {stage.name} for {len(missing)} worlds")
            for batch in _batches(missing):
                self._make(stage, {address: missing[address] for address in batch})

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
        stage, address = _BY_NAME[name], addresses[name]
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
            rows = devices.place(devices.stacked(inputs, jax.device_count()))
            given = (devices.everywhere(shared_weights.missing(inputs)), *rows)
            made = jax.device_get(self._program(stage, devices.shapes_of(given))(*given))
            results = [jax.tree.map(lambda x, i=i: x[i], made) for i in range(len(owners))]
        for (address, config), result in zip(owners.items(), results, strict=True):
            stages.check(config, stage.name, result)
            self._cache.save(address, result)
        return results

    def _program(self, stage: Stage, shapes: tuple[PyTree, ...]) -> Any:
        """A stage's compiled program. The latest is kept, because batches of one structure follow each other."""
        leaves, structure = jax.tree.flatten(shapes)
        key = stage.name, structure, tuple(leaves)
        if self._latest[0] != key:
            make = devices.spread(stage.make)
            self._latest = key, executable_cache.compiled(stage.name, make, shapes)
        return self._latest[1]


def _batches(owners: Mapping[str, WorldConfig]) -> Iterator[list[str]]:
    """Addresses whose configs have one structure, as many at a time as there are devices."""
    alike: dict[object, list[str]] = defaultdict(list)
    for address, config in owners.items():
        alike[jax.tree.structure(config)].append(address)
    size = jax.device_count()
    for addresses in alike.values():
        yield from (addresses[start : start + size] for start in range(0, len(addresses), size))

"""Which programs a plan has to compile, and for how long, before anything is traced."""

import math
from collections.abc import Iterator

import jax
from jaxtyping import PyTree

from sweeps.population import compile_times, devices, executable_cache, programs
from sweeps.population.plan import COMPILING, Plan
from sweeps.population.stage_programs import BY_NAME, arguments_of, one_row
from sweeps.runtime import cores
from testbed.cache import Cache
from testbed.stages import stages
from testbed.stages.stages import Stage
from testbed.stages.world_config import WorldConfig


def compile_seconds(plan: Plan, cache: Cache) -> float:
    """Seconds of compiling before a plan's last program is ready, all cores at work: of each program that is not
    stored, the time that it took last, or `COMPILING` if it is new. One world of each structure stands for all, the
    last one: worlds that are added come last."""
    lacking = _lacking(plan, cache)
    known = compile_times.seconds()
    return math.fsum(known.get(name, COMPILING) for name in lacking) / cores()


def _lacking(plan: Plan, cache: Cache) -> Iterator[str]:
    """Names of the programs that must be compiled, each as often as there are programs with this name."""
    walks: dict[object, _Walk] = {}
    for config in plan.worlds:
        walks[jax.tree.structure(config)] = _Walk(config, cache)
    for walk in walks.values():
        yield from walk.lacking
    for chunk in {(chunk.group, chunk.layout): chunk for chunk in plan.chunks}.values():
        walk = walks[jax.tree.structure(chunk.worlds[0])]
        if walk.results is None:
            yield from programs.names(chunk)
        else:
            yield from programs.lacking(chunk, stages.assemble(walk.results))


class _Walk:
    """One world's stages in order: ``lacking`` are the names of programs that are not stored; ``results`` are the
    shapes of all results, None if they cannot be known without tracing."""

    def __init__(self, config: WorldConfig, cache: Cache) -> None:
        self.lacking: list[str] = []
        by_address: dict[str, PyTree] = {}
        made: dict[str, PyTree] = {}
        for name, address in stages.fingerprints(config).items():
            stage = BY_NAME[name]
            if not stage.needed(config):
                made[name] = None
                continue
            if address not in by_address:
                by_address[address] = self._result(stage, config, made, cache.load(address))
            made[name] = by_address[address]
        self.results = None if any(one is _UNKNOWN for one in made.values()) else made

    def _result(
        self, stage: Stage, config: WorldConfig, made: dict[str, PyTree], stored: PyTree
    ) -> PyTree:
        """Shapes of a stage's result, or `_UNKNOWN`."""
        if stored is not None:
            return devices.alone(stored)
        if stage.host:
            return _UNKNOWN
        if not any(made[name] is _UNKNOWN for name in stage.after):
            given = arguments_of(stage, config, lambda name, _: made[name])
            results = executable_cache.stored(stage.name, given)
            if results is not None:
                return one_row(results)
        self.lacking.append(stage.name)
        return _UNKNOWN


_UNKNOWN = object()

"""Executes a plan on this host: builds the world artifacts of thousands of runs, then runs chunk after chunk
(`sweeps.population.chunk_runner`)."""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import Self

from sweeps.console.progress import Progress
from sweeps.population import devices
from sweeps.population import plan as planning
from sweeps.population.chunk_runner import Outcome, run_chunk
from sweeps.population.compile_key import compile_key
from sweeps.population.devices import Machine, OutOfMemory
from sweeps.population.engine import Spent
from sweeps.population.foresight import compile_seconds
from sweeps.population.plan import Chunk, Layout, Plan
from sweeps.population.programs import Programs
from sweeps.population.world_builder import WorldBuilder, WorldSource
from sweeps.runtime import cache_directory, cores
from sweeps.store.parquet import Rows
from sweeps.study import Point
from testbed.cache import Cache
from testbed.errors import InvalidInput

__all__ = ["Outcome", "compile_key", "execute", "plan", "run_chunk"]


def plan(points: Sequence[Point], machine: Machine | None = None) -> Plan:
    """`sweeps.population.plan.plan`, with the compiling that is left for this host, whose compiled programs are
    known."""
    made = planning.plan(points, machine)
    return replace(made, compile_seconds=compile_seconds(made, _stages()))


def _stages() -> Cache:
    return Cache(cache_directory() / "stages")


def execute(plan: Plan, on_rows: Callable[[Rows], None], progress: Progress) -> Spent:
    """Wave after wave of seeds, build the world artifacts of the runs, then run chunk after chunk; ``on_rows`` gets
    each chunk's rows when the chunk is done.

    Raises `InvalidInput` if a single run does not fit into memory.
    """
    start, stage_seconds, wave = time.monotonic(), 0.0, -1
    beside: list[Chunk] = []
    # One pool for all programs: they are compiled in the order in which they are needed.
    pool = ThreadPoolExecutor(cores())
    worlds = WorldBuilder(_stages(), progress, pool)
    with Host(worlds, progress, pool) as host:
        for number, chunk in enumerate(plan.chunks):
            if chunk.wave != wave:
                wave, clock = chunk.wave, time.monotonic()
                beside = [one for one in plan.chunks[number:] if one.wave == wave]
                needed = itertools.chain.from_iterable(one.worlds for one in beside)
                begin = functools.partial(host.begin, beside)
                worlds.prepare(dict.fromkeys(needed), meanwhile=begin)
                stage_seconds += time.monotonic() - clock
            progress.stage(f"chunk {number + 1} of {len(plan.chunks)} ({chunk.label})")
            outcome = host.run(beside)
            on_rows(outcome.rows)
            beside = beside[1:]
            progress.finished(len(chunk.points), outcome.diverged)
    host.spent.stage_seconds = stage_seconds
    host.spent.run_seconds = time.monotonic() - start - stage_seconds
    return host.spent


class Host:
    """The devices of this process, which run chunk after chunk; ``spent`` is the cost so far.

    If a device has too little memory for a chunk, this chunk and similar ones start again with half as many slots.
    """

    def __init__(
        self, worlds: WorldSource, progress: Progress, pool: Executor | None = None
    ) -> None:
        self.spent = Spent()
        self._worlds, self._progress = worlds, progress
        self._programs = Programs(worlds, pool)
        self._smaller: dict[tuple[int, Layout], Layout] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._programs.__exit__(*error)

    def begin(self, chunks: Sequence[Chunk], worlds: WorldSource) -> None:
        """Let the programs of the first chunks compile before their worlds are built; see `Programs.begin`."""
        self._programs.begin(chunks, worlds)

    def run(self, chunks: Sequence[Chunk]) -> "Outcome":
        """Run the first chunk and return its result. Compilation for the chunks behind it starts meanwhile. Raises
        `InvalidInput` if a single run does not fit into memory."""
        while True:
            chunk = self._fitting(chunks[0])
            try:
                made = self._programs.of(map(self._fitting, chunks))
                outcome = run_chunk(chunk, self._worlds, self._progress, made)
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
        """The chunk with as many slots as fit into memory, as far as this is known."""
        while (chunk.group, chunk.layout) in self._smaller:
            chunk = replace(chunk, layout=self._smaller[chunk.group, chunk.layout])
        return chunk


def _smaller(chunk: Chunk, problem: OutOfMemory) -> Layout:
    layout = chunk.layout.halved(chunk.devices)
    if layout is None:
        raise InvalidInput(
            f"a device has too little memory for one run of {chunk.label} ({problem}): make the model, batch_size or "
            f"evaluation.prompts smaller, or raise {devices.LIMIT}"
        ) from problem
    return layout

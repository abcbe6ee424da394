"""The driver of a plan on a Ray cluster: connects to the cluster, and gives chunk after chunk to the workers.

Ray starts the workers, reports lost workers and transports their messages. The driver distributes the work: an item of
the `Queue` goes to a worker, and back to the queue if that worker is lost. Workers build the worlds; a world is sent to
workers with other caches. Rows come back to the driver, and only the driver writes the store: no shared file system is
needed, and a chunk that was computed twice counts once.
"""

import contextlib
import logging
import math
import os
import re
import shutil
import socket
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import jax

from sweeps import runtime
from sweeps.cluster.queue import ATTEMPTS, Item, Queue
from sweeps.cluster.workers import PATIENCE, SILENCE, Failed, Told, WorkerHandle, Workers, names
from sweeps.console.progress import Progress
from sweeps.population import devices
from sweeps.population import plan as planning
from sweeps.population.chunk_runner import Outcome
from sweeps.population.engine import Spent
from sweeps.population.plan import Chunk, Plan
from sweeps.store.store import Rows
from sweeps.study import Point
from testbed.errors import InvalidInput, Unfinished, said
from testbed.stages import stages
from testbed.stages.world_config import WorldConfig

#: Port of Ray's client server, through which a process outside of a Ray cluster connects.
CLIENT_PORT = 10001
#: Packages that the driver sends to the workers, whichever versions their hosts have.
_SENT = ("testbed", "envs", "sweeps")
#: Number of failures that a message describes.
_SPELT_OUT = 10


class Cluster:
    """A `sweeps.population.engine.Engine`. Connects when there is something to plan, and releases the cluster after the
    work.

    ``address`` is ``ray`` for a new Ray on this machine, ``ray://auto`` for the cluster that this host belongs to (or
    that RAY_ADDRESS names), ``ray://HOST:PORT`` for the client server of another cluster. ``count`` workers share a
    host; ``patience`` and ``silence`` are those of `Workers`.

    Raises `InvalidInput` if Ray is not installed or the address is invalid.
    """

    def __init__(
        self, address: str, count: int = 1, patience: float = PATIENCE, silence: float = SILENCE
    ) -> None:
        if count < 1:
            raise InvalidInput(f"--workers must be at least 1, got {count}")
        self._address, self._options = _checked(address), (count, patience, silence)
        self._ray = _ray()
        self.workers: Workers | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def plan(self, points: list[Point]) -> Plan:
        """Group points and cut them into chunks that fit a worker; predicted times are for all workers together.

        Raises `InvalidInput` if the cluster cannot be reached, `Unfinished` if it has no room for a worker.
        """
        if self.workers is None:
            self._connect()
            self.workers = Workers(self._ray, *self._options)
        made = planning.plan(points, self.workers.machine())
        count = len(self.workers.handles)
        chunks = [replace(one, seconds=one.seconds and one.seconds / count) for one in made.chunks]
        return replace(made, chunks=tuple(chunks), stage_seconds=made.stage_seconds / count)

    def execute(self, plan: Plan, on_rows: Callable[[Rows], None], progress: Progress) -> Spent:
        """Build worlds and run chunks on the workers; ``on_rows`` gets each chunk's rows as they come.

        Raises `Unfinished` at the end if chunks were given up, at once if no worker is left or the cluster is lost, and
        `InvalidInput` at once if a config cannot be used.
        """
        if self.workers is None:
            raise RuntimeError("a plan is executed by the cluster that made it")
        try:
            return _Execution(plan, self.workers, on_rows, progress).complete()
        except self._lost as problem:
            raise Unfinished(
                f"the cluster was lost ({said(problem)}): when it is there again, the same command goes on"
            ) from problem
        finally:
            self.close()

    def close(self) -> None:
        """Release the workers and the cluster."""
        workers, self.workers = self.workers, None
        if workers is not None:
            # The workers of a lost cluster cannot be stopped.
            with contextlib.suppress(*self._lost):
                workers.close()
            self._ray.shutdown()

    @property
    def _lost(self) -> tuple[type[Exception], ...]:
        """The exceptions that Ray raises when the head of the cluster is gone."""
        return ConnectionError, self._ray.exceptions.RaySystemError

    def _connect(self) -> None:
        """Connect to the cluster. Raises `InvalidInput` if there is no cluster."""
        options, limit = {}, os.environ.get(devices.LIMIT)
        if self._address == "local":
            options = {"num_cpus": runtime.cores(), "include_dashboard": False}
        try:
            with warnings.catch_warnings(), tempfile.TemporaryDirectory() as directory:
                # The packages lie side by side, as here: the addresses of stages depend on the code of two of them.
                for name in _SENT:
                    source = Path(__file__).parents[2] / name
                    unread = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(source, Path(directory) / name, ignore=unread)
                variables = {devices.LIMIT: limit} if limit else {}
                # A Ray that this process starts is forked and replaced at once; jax cannot know this and warns.
                warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called")
                warnings.filterwarnings("ignore", message="Ray Client connection timed out")
                self._ray.init(
                    self._address,
                    runtime_env={"working_dir": directory, "env_vars": variables},
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **options,
                )
        except (ConnectionError, TimeoutError, RuntimeError, ValueError) as problem:
            text = str(problem).strip().splitlines() or [type(problem).__name__]
            address = f"ray://{self._address.removeprefix('ray://')}"
            raise InvalidInput(
                f"--cluster {address} cannot be reached: {text[0][:200]} (if it has token authentication, "
                "RAY_AUTH_MODE and RAY_AUTH_TOKEN must be set here as they are there)"
            ) from problem


def _checked(address: str) -> str:
    """Ray's form of the address. An address where no server listens is refused: Ray itself would try for minutes."""
    parts = re.fullmatch(r"ray(?:://([^:]+)(?::(\d+))?)?", address)
    if parts is None:
        raise InvalidInput(f"--cluster must be ray, ray://auto or ray://HOST:PORT, got '{address}'")
    host, port = parts.groups()
    if host is None:
        return "local"
    ray_address = f"ray://{host}:{port or CLIENT_PORT}"
    why = f"on the head of the cluster, `ray start --head` starts a server for clients at port {CLIENT_PORT}"
    if address == "ray://auto":
        ray_address, named = "auto", os.environ.get("RAY_ADDRESS", "")
        host, _, port = named.removeprefix("ray://").partition(":")
        if not port.isdigit():
            return ray_address
        why = f"RAY_ADDRESS names {named}: is it the address that `ray start --head` printed?"
    try:
        socket.create_connection((host, int(port or CLIENT_PORT)), timeout=10.0).close()
    except (OSError, OverflowError) as problem:
        raise InvalidInput(f"--cluster {address} cannot be reached ({problem}): {why}") from problem
    return ray_address


def _ray() -> Any:
    """Ray's module. Raises `InvalidInput` if Ray is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without this, `uv run` here would upload the working directory and start a `uv run` for every worker.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as problem:
        raise InvalidInput(
            "--cluster needs Ray, which is not installed: run `uv sync --extra cluster`"
        ) from problem
    return ray


class _Execution:
    """The execution of one plan by the workers."""

    def __init__(
        self, plan: Plan, workers: Workers, on_rows: Callable[[Rows], None], progress: Progress
    ) -> None:
        self._workers, self._on_rows, self._progress = workers, on_rows, progress
        size = max((one.about.machine.devices for one in workers.ready), default=1)
        self._queue = Queue(_items(plan, size, max(1, len(workers.handles))))
        self._chunks = len(plan.chunks)
        #: Whether worlds are sent to other workers, and references to the sent worlds.
        self._send = False
        self._sent: dict[WorldConfig, Any] = {}
        #: For each world, the number of unfinished chunks that need it.
        self._wanted = Counter(config for chunk in plan.chunks for config in chunk.worlds)
        self._spent = Spent()

    def complete(self) -> Spent:
        """Do all the work, except items that are given up."""
        start = before = time.monotonic()
        worked = 0.0
        while not self._queue.over:
            self._workers.start()
            for worker in self._workers.ready:
                if worker.item is None:
                    self._give(worker)
            for worker, event in self._workers.events():
                self._hear(worker, event)
            self._progress.stage(self._picture())
            now = time.monotonic()
            worked += len(self._workers.ready) * (now - before)
            before = now
        if self._queue.failures:
            raise self._complaint()
        # Workers build and run at the same time: the elapsed time is split in proportion to the workers' times.
        seconds, spent = before - start, self._spent
        part = seconds / max(worked, 1e-9)
        spent.stage_seconds = min(seconds, spent.stage_seconds * part)
        spent.run_seconds = seconds - spent.stage_seconds
        spent.busy_seconds = min(spent.run_seconds, spent.busy_seconds * part)
        return spent

    def _give(self, worker: WorkerHandle) -> None:
        """Give the next item to an idle worker, if there is an item."""
        ready = self._workers.ready
        others = {other.kind for other in ready if other.item}
        hosts = worker.node, {other.node for other in ready}
        item = self._queue.next(worker.kind, others, *hosts)
        if item is None:
            return
        self._queue.begin(item)
        if isinstance(item.content, Chunk):
            coming = self._queue.next(item.kind, others, *hosts)
            chunks = [one.content for one in (item, coming) if one and _is_chunk(one)]
            needed = [config for chunk in chunks for config in chunk.worlds]
            sent = {config: self._sent[config] for config in needed if config in self._sent}
            worker.give(item, worker.actor.run.remote(item.number, chunks, sent))
            return
        # As soon as caches differ, the worlds that one host makes are sent to all.
        self._send |= len({one.about.cache for one in ready}) > 1
        build = worker.actor.build.options(num_returns=1 + len(item.content))
        done, *worlds = build.remote(item.number, item.content, self._send)
        worker.give(item, done)
        if self._send:
            self._sent |= dict(zip(item.content, worlds, strict=True))

    def _hear(self, worker: WorkerHandle, event: Any) -> None:
        """Handle a message of a worker. A worker without an item has only just started, or was counted as lost."""
        item = worker.item
        if item is None:
            return
        if isinstance(event, Told):
            if event.number == item.number:
                self._progress.advance(event.steps - worker.told.steps)
                worker.told = event
            return
        worker.item = None
        if isinstance(event, Failed):
            self._progress.advance(-worker.told.steps)
            self._queue.fail(item, event.error, worker.node, event.with_host)
            return
        if _is_chunk(item):
            self._store(item.content, *event)
            self._progress.advance(item.content.steps - worker.told.steps)
        else:
            self._spent.stage_seconds += time.monotonic() - worker.given
        self._queue.finish(item)

    def _store(self, chunk: Chunk, outcome: Outcome, spent: Spent) -> None:
        self._on_rows(outcome.rows)
        self._progress.finished(len(chunk.points), outcome.diverged)
        self._spent.busy_seconds += spent.busy_seconds
        self._spent.bytes = max(self._spent.bytes, spent.bytes)
        self._spent.shrunk += spent.shrunk
        self._release(chunk)

    def _release(self, chunk: Chunk) -> None:
        """Release worlds that no unfinished chunk needs: worlds that were sent use the memory of the cluster."""
        self._wanted -= Counter(chunk.worlds)
        for config in chunk.worlds:
            if not self._wanted[config]:
                self._sent.pop(config, None)

    def _picture(self) -> str:
        """The present work in one line."""
        workers, failures = self._workers, self._queue.failures
        parts = [
            f"{one.name}: {(not _is_chunk(one.item) and one.told.text) or one.item.label}"
            for one in workers.handles
            if one.item
        ]
        starting = len(workers.handles) - len(workers.ready)
        rest = [
            names(parts),
            f"{starting} workers starting" if starting else "",
            f"lost: {names(workers.lost)}" if workers.lost else "",
            f"{len(failures)} given up" if failures else "",
        ]
        return "; ".join(filter(None, rest)) or "waiting"

    def _complaint(self) -> Unfinished:
        """The error that names the chunks that were given up, and the reasons."""
        failed = [failure for failure in self._queue.failures if _is_chunk(failure.item)]
        lines = [
            f"{len(failed)} of {self._chunks} chunks failed {ATTEMPTS} times, the others are saved; the same command "
            "tries them again"
        ]
        for item, error in failed[:_SPELT_OUT]:
            lines.append(f"{item.label}, {len(item.content.points)} runs: {error}")
        if len(failed) > _SPELT_OUT:
            lines.append(f"and {len(failed) - _SPELT_OUT} more")
        runs = [point.run for item, _ in failed for point in item.content.points]
        return Unfinished("\n  ".join(lines), runs)


def _is_chunk(item: Item) -> bool:
    return isinstance(item.content, Chunk)


def _items(plan: Plan, devices: int, workers: int) -> Iterator[Item]:
    """Worlds to build, in the order in which chunks need them, then the chunks. Worlds of ``plan.worlds`` that no
    chunk needs are not built."""
    needed = dict.fromkeys(config for chunk in plan.chunks for config in chunk.worlds)
    batches = list(_batches(needed, devices, workers))
    number_of = {config: number for number, (_, batch) in enumerate(batches) for config in batch}
    for number, (kind, batch) in enumerate(batches):
        yield Item(number, f"worlds {number + 1} of {len(batches)}", batch, ("worlds", kind))
    for place, chunk in enumerate(plan.chunks):
        label = f"chunk {place + 1} of {len(plan.chunks)} ({chunk.label})"
        needs = frozenset(number_of[config] for config in chunk.worlds)
        kind = chunk.group, chunk.layout
        yield Item(len(batches) + place, label, chunk, kind, needs)


def _batches(
    configs: Iterable[WorldConfig], devices: int, workers: int
) -> Iterator[tuple[Any, Sequence[WorldConfig]]]:
    """Split worlds into batches, each for one worker: worlds that share long stages stay together. A batch has as many
    worlds of one structure as a worker has devices, or fewer if some workers would otherwise get none."""
    families: dict[str, list[WorldConfig]] = defaultdict(list)
    for config in configs:
        families[stages.fingerprints(config)["texts"]].append(config)
    alike: dict[Any, list[list[WorldConfig]]] = defaultdict(list)
    for family in families.values():
        alike[frozenset(map(jax.tree.structure, family))].append(family)
    for kind, group in alike.items():
        size = max(1, min(devices, math.ceil(len(group) / workers)))
        for start in range(0, len(group), size):
            together = group[start : start + size]
            yield kind, [config for family in together for config in family]

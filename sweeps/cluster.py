"""The execution of a plan on a Ray cluster: one worker a host, which takes chunk after chunk.

Ray starts the workers, says when one is lost and carries what they send. Who does what is decided here: an item of
`sweeps.work` goes to a worker, and back to the queue when its worker is lost. Worlds are built by the workers, and sent
to those that have other caches. Rows come back to this process, which alone writes the store: no shared file system is
needed, and a chunk that was done twice counts once.
"""

import contextlib
import dataclasses
import logging
import math
import os
import shutil
import socket
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import jax

from sweeps import runtime
from sweeps.console.progress import Progress
from sweeps.crew import PATIENCE, SILENCE, Crew, Hand, Lost, names
from sweeps.population import devices
from sweeps.population import plan as planning
from sweeps.population.engine import Spent
from sweeps.population.plan import Chunk, Plan
from sweeps.store.store import Rows
from sweeps.study import Point
from sweeps.work import ATTEMPTS, Item, Work
from sweeps.worker import About, Done, Problem, Told
from testbed.errors import InvalidInput, Unfinished, said
from testbed.stages import stages
from testbed.stages.world_config import GroundConfig

#: Port of the server by which a process outside of a Ray cluster reaches it.
CLIENT_PORT = 10001
#: Packages that workers get from this process, whatever their hosts have.
_SENT = ("testbed", "envs", "sweeps")
#: Failures that a message spells out.
_SPELT_OUT = 10


class Cluster:
    """A `sweeps.runner.Engine`. Connects when there is something to plan, and lets the cluster go when that is done.

    ``address`` is ``ray`` for a Ray of its own on this machine, ``ray://auto`` for the cluster that this host belongs
    to (or that RAY_ADDRESS names), ``ray://HOST:PORT`` for the client server of any other. ``workers`` share a host;
    ``patience`` and ``silence`` are those of `Crew`.

    Raises `InvalidInput` if Ray is not installed or the address is none.
    """

    def __init__(
        self,
        address: str,
        workers: int = 1,
        patience: float = PATIENCE,
        silence: float = SILENCE,
    ) -> None:
        if workers < 1:
            raise InvalidInput(f"--workers must be at least 1, got {workers}")
        self._address, self._crew = _checked(address), (workers, patience, silence)
        self._ray = _ray()
        self.crew: Crew | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def plan(self, points: list[Point]) -> Plan:
        """Group points and cut them into chunks that fit a worker; predicted times are those of all workers together.

        Raises `InvalidInput` if the cluster cannot be reached, `Unfinished` if it has no room for a worker.
        """
        if self.crew is None:
            self._connect()
            self.crew = Crew(self._ray, *self._crew)
        made = planning.plan(points, self.crew.machine())
        count = len(self.crew.hands)
        chunks = (
            dataclasses.replace(chunk, seconds=chunk.seconds and chunk.seconds / count)
            for chunk in made.chunks
        )
        seconds = made.stage_seconds / count
        return dataclasses.replace(made, chunks=tuple(chunks), stage_seconds=seconds)

    def execute(self, plan: Plan, on_rows: Callable[[Rows], None], progress: Progress) -> Spent:
        """Build worlds and run chunks on the workers; ``on_rows`` gets each chunk's rows as they come.

        Raises `Unfinished` at the end if chunks were given up, at once if no worker is left or the cluster is lost, and
        `InvalidInput` at once if a config cannot be used.
        """
        if self.crew is None:
            raise RuntimeError("a plan is executed by the cluster that made it")
        try:
            return _Sweep(plan, self.crew, on_rows, progress).complete()
        except self._lost as problem:
            raise Unfinished(
                f"the cluster was lost ({said(problem)}): when it is there again, the same command goes on"
            ) from problem
        finally:
            self.close()

    def close(self) -> None:
        """Let the workers and the cluster go."""
        crew, self.crew = self.crew, None
        if crew is not None:
            # One that was lost needs no farewell.
            with contextlib.suppress(*self._lost):
                crew.close()
            self._ray.shutdown()

    @property
    def _lost(self) -> tuple[type[Exception], ...]:
        """What Ray raises when its head is gone."""
        return ConnectionError, self._ray.exceptions.RaySystemError

    def _connect(self) -> None:
        """Raises `InvalidInput` if there is no cluster."""
        own = {"num_cpus": runtime.cores(), "include_dashboard": False}
        limit = os.environ.get(devices.LIMIT)
        try:
            with warnings.catch_warnings(), tempfile.TemporaryDirectory() as directory:
                # Side by side, as they are here: the addresses of stages depend on the code of two of them.
                for name in _SENT:
                    source = Path(__file__).parent.parent / name
                    unread = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(source, Path(directory) / name, ignore=unread)
                environment = {
                    "working_dir": directory,
                    "env_vars": {devices.LIMIT: limit} if limit else {},
                }
                # A Ray of our own is forked and at once replaced, which jax cannot know.
                warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called")
                warnings.filterwarnings("ignore", message="Ray Client connection timed out")
                self._ray.init(
                    self._address,
                    runtime_env=environment,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **(own if self._address == "local" else {}),
                )
        except (ConnectionError, TimeoutError, RuntimeError, ValueError) as problem:
            said = str(problem).strip().splitlines() or [type(problem).__name__]
            where = self._address if self._address.startswith("ray:") else f"ray://{self._address}"
            raise InvalidInput(
                f"--cluster {where} cannot be reached: {said[0][:200]} (if it has token authentication, RAY_AUTH_MODE "
                "and RAY_AUTH_TOKEN must be set here as they are there)"
            ) from problem


def _checked(address: str) -> str:
    """What Ray calls the address."""
    scheme, _, rest = address.partition("://")
    if scheme != "ray" or (not rest and address != "ray"):
        raise InvalidInput(f"--cluster must be ray, ray://auto or ray://HOST:PORT, got '{address}'")
    if not rest:
        return "local"
    if rest == "auto":
        named = os.environ.get("RAY_ADDRESS", "")
        host, _, port = named.removeprefix("ray://").partition(":")
        if port.isdigit():
            why = f"RAY_ADDRESS names {named}: is it the address that `ray start --head` printed?"
            _require_reachable(address, host, port, why)
        return "auto"
    host, _, port = rest.partition(":")
    port = port or str(CLIENT_PORT)
    if not host or not port.isdigit():
        raise InvalidInput(f"--cluster must be ray, ray://auto or ray://HOST:PORT, got '{address}'")
    why = f"on the head of the cluster, `ray start --head` starts a server for clients at port {CLIENT_PORT}"
    _require_reachable(address, host, port, why)
    return f"ray://{host}:{port}"


def _require_reachable(address: str, host: str, port: str, why: str) -> None:
    """Refuse an address where nobody listens. Ray itself would try for minutes."""
    try:
        socket.create_connection((host, int(port)), timeout=10.0).close()
    except (OSError, OverflowError) as problem:
        raise InvalidInput(f"--cluster {address} cannot be reached ({problem}): {why}") from problem


def _ray() -> Any:
    """The engine. Raises `InvalidInput` if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Else `uv run` here would mean an upload of the working directory and a `uv run` for every worker.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as problem:
        raise InvalidInput(
            "--cluster needs Ray, which is not installed: run `uv sync --extra cluster`"
        ) from problem
    return ray


class _Sweep:
    """One plan on its way through the workers."""

    def __init__(
        self, plan: Plan, crew: Crew, on_rows: Callable[[Rows], None], progress: Progress
    ) -> None:
        self._crew, self._on_rows, self._progress = crew, on_rows, progress
        size = max((hand.about.devices for hand in crew.hands if hand.about), default=1)
        self._items = _items(plan, size, max(1, len(crew.hands)))
        self._work = Work(self._items)
        self._send = False
        self._sent: dict[GroundConfig, Any] = {}
        #: How many chunks that are not done yet stand on each world.
        self._wanted = Counter(config for chunk in plan.chunks for config in chunk.grounds)
        self._spent = Spent()

    def complete(self) -> Spent:
        """Do everything, bar what is given up."""
        clock = before = time.monotonic()
        worked = 0.0
        while not self._work.over:
            self._crew.muster()
            for hand in self._crew.ready:
                if hand.item is None:
                    self._give(hand)
            for hand, event in self._crew.events():
                self._hear(hand, event)
            self._progress.stage(self._picture())
            now = time.monotonic()
            worked += len(self._crew.ready) * (now - before)
            before = now
        if self._work.failures:
            raise Unfinished(self._complaint(), self._given_up())
        self._share_out(before - clock, worked)
        return self._spent

    def _share_out(self, seconds: float, worked: float) -> None:
        """Of the time that it took, what went into stages and what devices were computing: the shares that these have
        of the time of all workers, who do both side by side."""
        spent, part = self._spent, seconds / max(worked, 1e-9)
        spent.stage_seconds = min(seconds, spent.stage_seconds * part)
        spent.run_seconds = seconds - spent.stage_seconds
        spent.busy_seconds = min(spent.run_seconds, spent.busy_seconds * part)

    def _give(self, hand: Hand) -> None:
        """The next item for an idle worker, if there is one."""
        others = {other.kind for other in self._crew.hands if other.item and other is not hand}
        where = hand.place.node, {other.place.node for other in self._crew.ready}
        item = self._work.next(hand.kind, others, *where)
        if item is None:
            return
        self._work.begin(item)
        if _is_chunk(item):
            coming = self._work.next(item.kind, others, *where)
            ahead = [coming.content] if coming and _is_chunk(coming) else []
            needed = [*item.content.grounds, *(chunk.grounds[0] for chunk in ahead)]
            sent = {config: self._sent[config] for config in needed if config in self._sent}
            self._crew.give(hand, item, "run", 1, [item.content, *ahead], sent)
            return
        # Once caches differ, what one host makes goes to all.
        self._send |= len({one.about.cache for one in self._crew.ready if one.about}) > 1
        configs = item.content
        _, *made = self._crew.give(hand, item, "build", 1 + len(configs), configs, self._send)
        if self._send:
            self._sent |= dict(zip(configs, made, strict=True))

    def _hear(self, hand: Hand, event: Any) -> None:
        """Take in what a worker says."""
        item = hand.item
        if isinstance(event, Told):
            before = hand.steps
            hand.told = event
            self._progress.advance(hand.steps - before)
        elif isinstance(event, Lost):
            error = f"the worker on {hand.name} was lost: {event.error}"
            self._failed(hand, error, event.with_host)
            self._crew.dismiss(hand, event.error)
        elif isinstance(event, Problem):
            if event.invalid:
                raise InvalidInput(event.error)
            self._failed(hand, event.error)
        elif isinstance(event, Done) and item:
            if _is_chunk(item):
                self._store(hand, item.content, event)
                self._release(item.content)
            else:
                self._spent.stage_seconds += time.monotonic() - hand.given
            self._work.finish(item)
            hand.item = None
        else:
            assert isinstance(event, About)

    def _store(self, hand: Hand, chunk: Chunk, done: Done) -> None:
        self._on_rows(done.rows)
        self._progress.advance(chunk.steps - hand.steps)
        self._progress.finished(len(chunk.points), done.diverged)
        self._spent.busy_seconds += done.seconds
        self._spent.bytes = max(self._spent.bytes, done.bytes)
        self._spent.shrunk += done.shrunk

    def _release(self, chunk: Chunk) -> None:
        """Let worlds go that no further chunk stands on: those that were sent lie in the memory of the cluster."""
        self._wanted -= Counter(chunk.grounds)
        for config in chunk.grounds:
            if not self._wanted[config]:
                self._sent.pop(config, None)

    def _failed(self, hand: Hand, error: str, with_host: bool = False) -> None:
        """Its item, if it had one, goes back to the queue or is given up; its steps do not count."""
        if hand.item:
            self._progress.advance(-hand.steps)
            put = self._work.lose if with_host else self._work.fail
            put(hand.item, error, hand.place.node)
            hand.item = None

    def _picture(self) -> str:
        """What goes on, in a line."""
        crew, parts = self._crew, []
        for hand in crew.hands:
            if hand.item:
                telling = hand.told.number == hand.item.number and not _is_chunk(hand.item)
                text = (telling and hand.told.text) or hand.item.label
                parts.append(f"{hand.name}: {text}")
        starting = len(crew.hands) - len(crew.ready)
        rest = [
            names(parts),
            f"{starting} workers starting" if starting else "",
            f"lost: {names(crew.lost)}" if crew.lost else "",
            f"{len(self._work.failures)} given up" if self._work.failures else "",
        ]
        return "; ".join(filter(None, rest)) or "waiting"

    def _given_up(self) -> list[str]:
        contents = [failure.item.content for failure in self._work.failures]
        chunks = [content for content in contents if isinstance(content, Chunk)]
        return [point.run for chunk in chunks for point in chunk.points]

    def _complaint(self) -> str:
        failed = [failure for failure in self._work.failures if _is_chunk(failure.item)]
        chunks = sum(map(_is_chunk, self._items))
        lines = [
            f"{failure.item.label}, {len(failure.item.content.points)} runs: {failure.error}"
            for failure in failed[:_SPELT_OUT]
        ]
        if len(failed) > _SPELT_OUT:
            lines.append(f"and {len(failed) - _SPELT_OUT} more")
        return "\n  ".join(
            [
                f"{len(failed)} of {chunks} chunks failed {ATTEMPTS} times, the others are saved; the same command "
                "tries them again",
                *lines,
            ]
        )


def _is_chunk(item: Item) -> bool:
    return isinstance(item.content, Chunk)


def _items(plan: Plan, devices: int, workers: int) -> list[Item]:
    """Worlds to build, those first that are needed first, then chunks. What ``plan.grounds`` has and no chunk needs is
    not built."""
    needed = dict.fromkeys(config for chunk in plan.chunks for config in chunk.grounds)
    items, where = [], {}
    batches = list(_batches(needed, devices, workers))
    for number, (kind, batch) in enumerate(batches):
        label = f"worlds {number + 1} of {len(batches)}"
        items.append(Item(number, label, tuple(batch), ("worlds", kind)))
        where |= dict.fromkeys(batch, number)
    for place, chunk in enumerate(plan.chunks):
        label = f"chunk {place + 1} of {len(plan.chunks)} ({chunk.label})"
        needs = frozenset(where[config] for config in chunk.grounds)
        kind = (chunk.group, chunk.layout)
        items.append(Item(len(batches) + place, label, chunk, kind, needs))
    return items


def _batches(
    configs: Iterable[GroundConfig], devices: int, workers: int
) -> Iterator[tuple[Any, Sequence[GroundConfig]]]:
    """Worlds for a worker each: those that share long stages together, and as many alike as it has devices, or fewer
    where workers would be left without."""
    families: dict[str, list[GroundConfig]] = defaultdict(list)
    for config in configs:
        families[stages.fingerprints(config)["world"]].append(config)
    alike: dict[Any, list[list[GroundConfig]]] = defaultdict(list)
    for family in families.values():
        alike[frozenset(map(jax.tree.structure, family))].append(family)
    for kind, own in alike.items():
        size = max(1, min(devices, math.ceil(len(own) / workers)))
        for start in range(0, len(own), size):
            together = own[start : start + size]
            yield kind, [config for family in together for config in family]

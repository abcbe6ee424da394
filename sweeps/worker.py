"""A process of a cluster that owns some of its devices: builds worlds, and takes chunks through them.

`sweeps.cluster` starts it as an actor. What computes is imported when the process is set up for it, not before.
"""

import contextlib
import dataclasses
import math
import os
import socket
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sweeps import runtime, user_files
from sweeps.user_files import UserFile
from testbed.errors import InvalidInput

if TYPE_CHECKING:
    from sweeps.population.devices import Machine
    from sweeps.population.plan import Chunk
    from testbed.stages.world_config import Ground, GroundConfig

#: Seconds between two messages of a worker about its progress.
INTERVAL = 1.0


class About(NamedTuple):
    """What a worker says of itself: process, host, devices, the cache that it keeps stages in, versions."""

    pid: int
    host: str
    devices: int
    cache: str
    versions: dict[str, str]


class Told(NamedTuple):
    """How far a worker is: the number of its work, steps that it has done of it, and what it does now."""

    number: int
    steps: int
    text: str


class Done(NamedTuple):
    """What came of a piece of work: rows and diverged runs of a chunk, seconds that the devices were computing, the
    most bytes that a program has needed so far, how often the chunk was given fewer slots."""

    rows: Any = None
    diverged: int = 0
    seconds: float = 0.0
    bytes: int = 0
    shrunk: int = 0


class Problem(NamedTuple):
    """Why a piece of work came to nothing; ``invalid`` if its config cannot be used, whoever tries."""

    error: str
    invalid: bool


class Notes:
    """A progress display that keeps what it is told until somebody asks; used by two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told = Told(-1, 0, "")

    def begin(self, number: int) -> None:
        """From now on it is about other work."""
        with self._lock:
            self._told = Told(number, 0, "")

    def stage(self, text: str) -> None:
        """See `sweeps.console.progress.Progress`."""
        with self._lock:
            self._told = self._told._replace(text=text)

    def advance(self, run_steps: int) -> None:
        """See `sweeps.console.progress.Progress`."""
        with self._lock:
            self._told = self._told._replace(steps=self._told.steps + run_steps)

    def finished(self, runs: int, diverged: int) -> None:
        """See `sweeps.console.progress.Progress`: the rows tell."""

    def read(self) -> Told:
        """What was told so far of the present work."""
        with self._lock:
            return self._told


class Worker:
    """The actor. Its work is done one piece at a time; `told` may be asked meanwhile."""

    def __init__(self, cores: int, accelerated: bool) -> None:
        runtime.configure(cores)
        if not accelerated:
            runtime.leave_accelerators()
        self._notes = Notes()
        self._sent: _Sent | None = None
        self._host: Any = None

    def begin(self, files: Sequence[UserFile]) -> About | Problem:
        """Get ready: load users' files and the devices."""
        return _attempt(lambda: self._begin(files))

    def _begin(self, files: Sequence[UserFile]) -> About:
        user_files.receive(files)
        import jax

        from sweeps.population.host import Host
        from sweeps.population.world_builder import Grounds
        from sweeps.store import provenance
        from testbed.cache import Cache

        directory = runtime.cache_directory() / "stages"
        self._sent = _Sent(Grounds(Cache(directory), self._notes))
        self._host = Host(self._sent, self._notes)
        here = (os.getpid(), socket.gethostname(), jax.device_count())
        return About(*here, _identity(directory), provenance.versions())

    def machine(self) -> "Machine | Problem":
        """What a plan must know of it."""
        from sweeps.population.devices import Machine

        return _attempt(Machine.here)

    def told(self) -> Told:
        """How far it is, after a while."""
        time.sleep(INTERVAL)
        return self._notes.read()

    def build(self, number: int, configs: "Sequence[GroundConfig]", send: bool) -> list[Any]:
        """Make what some worlds lack in this worker's cache: `Done` or a `Problem`, then the worlds, to be sent to
        workers with other caches, or nothing in their place."""
        self._notes.begin(number)
        nothing = [None] * len(configs)
        assert self._sent is not None
        own = self._sent.own
        problem = _attempt(lambda: own.prepare(configs))
        if problem:
            return [problem, *nothing]
        made = _attempt(lambda: [own[config] for config in configs] if send else nothing)
        return [made, *nothing] if isinstance(made, Problem) else [Done(), *made]

    def run(
        self, number: int, chunks: "Sequence[Chunk]", sent: "Mapping[GroundConfig, Any]"
    ) -> Done | Problem:
        """Take the first of some chunks through the devices, and compile for the others meanwhile; ``sent`` refers to
        worlds that other workers have made."""
        self._notes.begin(number)
        return _attempt(lambda: self._run(chunks, sent))

    def _run(self, chunks: "Sequence[Chunk]", sent: "Mapping[GroundConfig, Any]") -> Done:
        assert self._sent is not None
        self._sent.refer(sent)
        before = self._host.spent.shrunk
        outcome = self._host.run([_fitted(chunk) for chunk in chunks])
        spent = self._host.spent
        found = (outcome.rows, outcome.diverged, outcome.seconds)
        return Done(*found, spent.bytes, spent.shrunk - before)


class _Sent:
    """Worlds that other workers have sent, or this worker's own where none was sent, or a host was lost with it."""

    def __init__(self, own: Any) -> None:
        self.own = own
        self._references: Mapping[GroundConfig, Any] = {}

    def refer(self, references: "Mapping[GroundConfig, Any]") -> None:
        """What was sent for the present work."""
        self._references = references

    def __getitem__(self, config: "GroundConfig") -> "Ground":
        reference = self._references.get(config)
        if reference is not None:
            import ray
            import ray.exceptions

            try:
                found: Any = ray.get(reference, timeout=60.0)
                if found is not None:
                    return found
            except ray.exceptions.RayError:
                pass  # lost with its host: made again
        return self.own[config]


def _fitted(chunk: "Chunk") -> "Chunk":
    """The chunk for the devices here, which may be more or fewer than those it was planned for."""
    import jax

    here = jax.device_count()
    if here == chunk.devices:
        return chunk
    layout = chunk.layout._replace(rows=math.ceil(chunk.layout.rows / here) * here)
    return dataclasses.replace(chunk, layout=layout, devices=here)


def _attempt(function: Callable[[], Any]) -> Any:
    """What the function returns, or the `Problem` that it raises."""
    try:
        return function()
    except InvalidInput as problem:
        return Problem(str(problem), invalid=True)
    except Exception as problem:
        return Problem(_described(problem), invalid=False)


def _described(problem: Exception) -> str:
    """An error in one line: its kind, what it says first, and the line of our own or the user's code it came from."""
    frames = traceback.extract_tb(problem.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    said = next((line for line in str(problem).splitlines() if line.strip()), "")
    where = f" ({Path(own[-1].filename).name}:{own[-1].lineno})"
    return f"{type(problem).__name__}: {said.strip()[:300]}{where}"


def _identity(directory: Path) -> str:
    """What tells this cache from others, also when hosts share it; written by whoever uses it first."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ".identity"
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=directory) as file:
            file.write(uuid.uuid4().hex)
            file.flush()
            with contextlib.suppress(FileExistsError):
                os.link(file.name, path)
    return path.read_text(encoding="utf-8")

"""The workers of a Ray cluster: the process that computes, and the driver's handles of all such processes.

Each host has one worker or more. Workers are started where there is room and replaced when they are lost. What computes
is imported in a worker's process when that process is set up for it, not before.
"""

import contextlib
import dataclasses
import itertools
import math
import os
import socket
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sweeps import runtime, user_files
from sweeps.cluster.queue import ATTEMPTS, Item
from sweeps.user_files import UserFile
from testbed.errors import InvalidInput, Unfinished, said

if TYPE_CHECKING:
    from sweeps.population.chunk_runner import Outcome
    from sweeps.population.devices import Machine
    from sweeps.population.engine import Spent
    from sweeps.population.plan import Chunk
    from testbed.stages.world_config import Ground, GroundConfig

#: Seconds between two messages of a worker about its progress.
INTERVAL = 1.0
#: Seconds without any worker after which the cluster is given up.
PATIENCE = 120.0
#: Seconds without a message from a worker that has work, after which it counts as hung.
SILENCE = 300.0


class About(NamedTuple):
    """What a worker says of itself: process id, identity of the cache that it keeps stages in, and devices."""

    pid: int
    cache: "tuple[int, int]"
    machine: "Machine"


class Told(NamedTuple):
    """How far a worker is: the number of its item, steps that it has done of it, and what it does now."""

    number: int
    steps: int
    text: str


#: Progress before any work.
NOTHING = Told(-1, 0, "")


class Notes:
    """A `sweeps.console.progress.Progress` that keeps what it is told until the driver asks. One thread writes: a
    reader in another thread sees a whole `Told`."""

    def __init__(self) -> None:
        self.told = NOTHING

    def begin(self, number: int) -> None:
        """The item of a number begins."""
        self.told = Told(number, 0, "")

    def stage(self, text: str) -> None:
        """See `Progress`."""
        self.told = self.told._replace(text=text)

    def advance(self, run_steps: int) -> None:
        """See `Progress`."""
        self.told = self.told._replace(steps=self.told.steps + run_steps)

    def finished(self, runs: int, diverged: int) -> None:
        """See `Progress`: the driver learns this from the rows."""


@contextlib.contextmanager
def described() -> Iterator[None]:
    """Errors as the driver reads them: `InvalidInput` is left alone, any other becomes an `Unfinished` of one line with
    the error's kind, the first line of its text, and the line of our own or the user's code that it came from."""
    try:
        yield
    except InvalidInput:
        raise
    except Exception as problem:
        frames = traceback.extract_tb(problem.__traceback__)
        own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
        text = next((line.strip() for line in str(problem).splitlines() if line.strip()), "")
        where = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
        raise Unfinished(f"{type(problem).__name__}: {text[:300]} ({where})") from None


class Worker:
    """The actor that computes on a host: builds worlds, and takes chunks through its devices. It does one item at a
    time; `told` may be asked meanwhile."""

    def __init__(self, cores: int, accelerated: bool) -> None:
        runtime.configure(cores)
        if not accelerated:
            runtime.leave_accelerators()
        self._notes = Notes()
        self._worlds: Any = None
        self._host: Any = None

    @described()
    def begin(self, files: Sequence[UserFile], versions: Mapping[str, str]) -> About:
        """Load users' files and the devices. Raises `InvalidInput` if libraries here have other versions than the
        driver's."""
        from sweeps.population.devices import Machine
        from sweeps.population.host import Host
        from sweeps.population.world_builder import Grounds
        from sweeps.store import provenance
        from testbed.cache import Cache

        for name, version in provenance.versions().items():
            if name != "python" and version != versions[name]:
                raise InvalidInput(
                    f"host {socket.gethostname()} has {name} {version}, the driver {versions[name]}: install the same "
                    "versions on every host"
                )
        user_files.receive(files)
        directory = runtime.cache_directory() / "stages"
        self._worlds = _Worlds(Grounds(Cache(directory), self._notes))
        self._host = Host(self._worlds, self._notes)
        return About(os.getpid(), _identity(directory), Machine.here())

    def told(self) -> Told:
        """How far the worker is, after a while."""
        time.sleep(INTERVAL)
        return self._notes.told

    @described()
    def build(self, number: int, configs: "Sequence[GroundConfig]", send: bool) -> list[Any]:
        """Make what some worlds lack in this worker's cache. Returns None, then the worlds, which Ray sends to workers
        with other caches, or None for each if they are not to be sent."""
        self._notes.begin(number)
        self._worlds.own.prepare(configs)
        return [None, *(self._worlds.own[config] if send else None for config in configs)]

    @described()
    def run(
        self, number: int, chunks: "Sequence[Chunk]", sent: "Mapping[GroundConfig, Any]"
    ) -> "tuple[Outcome, Spent]":
        """Take the first of some chunks through the devices, and compile for the others meanwhile; ``sent`` refers to
        worlds that other workers have made."""
        from sweeps.population.engine import Spent

        self._notes.begin(number)
        self._worlds.sent, self._host.spent = sent, Spent()
        return self._host.run([_fitted(chunk) for chunk in chunks]), self._host.spent


class _Worlds:
    """Worlds that other workers have sent; this worker's own where none was sent, or a host was lost with it."""

    def __init__(self, own: Any) -> None:
        self.own = own
        self.sent: Mapping[GroundConfig, Any] = {}

    def __getitem__(self, config: "GroundConfig") -> "Ground":
        import ray.exceptions

        with contextlib.suppress(ray.exceptions.RayError):
            if config in self.sent:
                return ray.get(self.sent[config], timeout=60.0)
        return self.own[config]


def _fitted(chunk: "Chunk") -> "Chunk":
    """The chunk for the devices of this process, which may be more or fewer than those it was planned for."""
    import jax

    count = jax.device_count()
    if count == chunk.devices:
        return chunk
    layout = chunk.layout._replace(rows=math.ceil(chunk.layout.rows / count) * count)
    return dataclasses.replace(chunk, layout=layout, devices=count)


def _identity(directory: Path) -> tuple[int, int]:
    """What tells this cache from others, also when hosts share it: inode and time of a file that is written once."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ".identity"
    with contextlib.suppress(FileExistsError):
        path.touch(exist_ok=False)
    return path.stat().st_ino, path.stat().st_mtime_ns


class Failed(NamedTuple):
    """An item came to nothing; ``with_host`` if the host was lost."""

    error: str
    with_host: bool = False


@dataclass(eq=False)
class Handle:
    """A worker as the driver sees it. The worker is starting until there is something ``about`` it, and idle without
    an item; ``work`` refers to the result of `Worker.begin` or of the item, ``talk`` to the next word on progress."""

    actor: Any
    node: str
    slot: int
    name: str
    work: Any = None
    about: Any = None
    item: Item | None = None
    talk: Any = None
    #: Kind of the latest item, and progress of the present one.
    kind: Any = None
    told: Told = NOTHING
    #: When the worker was given its item, and when it last said anything since.
    given: float = 0.0
    heard: float = 0.0

    def give(self, item: Item, work: Any) -> None:
        """The worker does an item from now on. Progress of an earlier attempt at the item counts no more."""
        self.item, self.kind, self.work, self.told = item, item.kind, work, NOTHING
        self.given = self.heard = time.monotonic()


class Workers:
    """The workers of a cluster. ``ray`` is the connected module, ``share`` the number of workers of a host.
    ``patience`` are the seconds without any worker, ``silence`` those without a word from one that has work, after
    which they are given up."""

    def __init__(
        self, ray: Any, share: int, patience: float = PATIENCE, silence: float = SILENCE
    ) -> None:
        from sweeps.store import provenance

        self.handles: list[Handle] = []
        self.lost: list[str] = []
        self._ray, self._share, self._patience, self._silence = ray, share, patience, silence
        self._actor = ray.remote(Worker)
        self._told = user_files.loaded(), provenance.versions()
        # Where any host has GPUs, only those that have get workers.
        self._kind = "GPU"
        if not self._hosts():
            self._kind = "CPU"
        self._failed: Counter[str] = Counter()
        self._error = ""
        self._seen = time.monotonic()

    @property
    def ready(self) -> list[Handle]:
        """Workers that have started."""
        return [worker for worker in self.handles if worker.about]

    def machine(self) -> "Machine":
        """What a plan must know of the hosts: the devices of the first worker that starts, which is waited for."""
        while not self.ready:
            self.start()
            list(self.events())
        return self.ready[0].about.machine

    def start(self) -> None:
        """Start workers where there is room. Raises `Unfinished` if there is none for long, or none can be started."""
        now, hosts = time.monotonic(), self._hosts()
        held = {(worker.node, worker.slot) for worker in self.handles}
        for host, slot in itertools.product(hosts, range(self._share)):
            node = host["NodeID"]
            if self._failed[node] < ATTEMPTS and (node, slot) not in held:
                self.handles.append(self._started(host, slot))
        # Without any host, one may still come.
        if hosts and not self.handles:
            raise Unfinished(f"no worker can be started on any host: {self._error}")
        if self.ready:
            self._seen = now
        if now - self._seen > self._patience:
            why = "its hosts do not begin any (are their CPUs or GPUs in use?)"
            if not self.handles:
                why = "it has no host with CPUs or GPUs left"
            raise Unfinished(
                f"the cluster has had no worker for {self._patience:.0f} seconds: {why}"
            )

    def events(self, timeout: float = 1.0) -> Iterator[tuple[Handle, Any]]:
        """What workers have to say: `About` when they start, `Told` now and then, what their items came to, or
        `Failed`. Waits if there is nothing. A worker that is lost, or has work and has long been silent, is forgotten
        before its `Failed` is told.

        Raises `InvalidInput` if a config or a host cannot be used.
        """
        for worker in self.handles:
            if worker.item and worker.talk is None:
                worker.talk = worker.actor.told.remote()
        asked = {
            reference: worker
            for worker in self.handles
            for reference in (worker.work, worker.talk)
            if reference is not None
        }
        if not asked:
            time.sleep(timeout)
            return
        self._ray.wait(list(asked), timeout=timeout)
        for reference in self._ray.wait(list(asked), num_returns=len(asked), timeout=0)[0]:
            if asked[reference] in self.handles:
                yield asked[reference], self._answer(asked[reference], reference)
        for worker in list(self.handles):
            if worker.item and time.monotonic() - worker.heard > self._silence:
                why = f"it has not said a word for {self._silence:.0f} seconds"
                yield worker, self.dismiss(worker, why)

    def _answer(self, worker: Handle, reference: Any) -> Any:
        """What a reference has brought. References are compared, not identified: a client of Ray copies them."""
        worker.heard = time.monotonic()
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as problem:
            cause = problem.cause or problem
            if isinstance(cause, InvalidInput):
                raise cause from None
            # Of another kind if the worker could not read its arguments, or not send its answer.
            kind = "" if isinstance(cause, Unfinished) else f"{type(cause).__name__}: "
            answer = Failed(f"{kind}{said(cause)[-300:]}")
        except self._ray.exceptions.RayError as problem:
            return self.dismiss(worker, _reason(problem))
        if reference == worker.talk:
            worker.talk = None
            return answer
        worker.work = None
        if worker.about is None:
            if isinstance(answer, Failed):
                return self.dismiss(worker, answer.error)
            worker.about = answer
            self._failed[worker.node] = 0
        return answer

    def dismiss(self, worker: Handle, error: str) -> Failed:
        """Forget a worker that is lost."""
        self.handles.remove(worker)
        self.lost.append(worker.name)
        if worker.about is None:
            self._failed[worker.node] += 1
            self._error = error
        self._ray.kill(worker.actor)
        with_host = all(host["NodeID"] != worker.node for host in self._hosts())
        return Failed(f"the worker on {worker.name} was lost: {error}", with_host)

    def close(self) -> None:
        """Let all workers go."""
        while self.handles:
            self._ray.kill(self.handles.pop().actor)

    def _hosts(self) -> list[dict[str, Any]]:
        """Hosts that may have workers, as Ray describes them."""
        nodes = self._ray.nodes()
        return [node for node in nodes if node["Alive"] and node["Resources"].get(self._kind)]

    def _started(self, host: Mapping[str, Any], slot: int) -> Handle:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        name, resources, share = host["NodeManagerHostname"], host["Resources"], self._share
        part = resources[self._kind] / share
        if self._kind == "GPU" and part < 1:
            raise InvalidInput(
                f"--workers {share} are more than the {resources['GPU']:.0f} GPUs of host {name}: each needs one at "
                "least"
            )
        # Ray shares whole processors, or parts of a single one.
        part = math.floor(part) or math.floor(part * 1000) / 1000
        actor = self._actor.options(
            max_concurrency=2,  # one thread works, one tells how far it is
            scheduling_strategy=NodeAffinitySchedulingStrategy(host["NodeID"], soft=False),
            **{"num_cpus": 0, f"num_{self._kind.lower()}s": part},
        ).remote(max(1, int(resources.get("CPU", 0) // share)), self._kind == "GPU")
        name = name if share == 1 else f"{name}/{slot + 1}"
        return Handle(actor, host["NodeID"], slot, name, actor.begin.remote(*self._told))


def _reason(problem: Exception) -> str:
    """Why a worker died, in Ray's words: what follows the names of the actor."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    why = next((line for line in lines if " because " in line), lines[0] if lines else "")
    return why.partition(" because ")[2][:200] or why[:200]


def names(several: Sequence[str], most: int = 4) -> str:
    """Some of many names."""
    shown = list(dict.fromkeys(several))
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more

"""The workers of a Ray cluster: the processes that compute, and the driver's handles of these processes.

Each host has at least one worker. Workers are started where there is room, and replaced when they are lost. A worker's
process imports the modules that compute when the process is set up, not before.
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
    from testbed.stages.world_config import WorldArtifacts, WorldConfig

#: Seconds between two progress messages of a worker.
INTERVAL = 1.0
#: Seconds without any worker after which the cluster is given up.
PATIENCE = 120.0
#: A worker that has work counts as hung after this many seconds without a message.
SILENCE = 300.0


class About(NamedTuple):
    """A worker's description of itself: process id, identity of the cache that holds its stages, and devices."""

    pid: int
    cache: "tuple[int, int]"
    machine: "Machine"


class Told(NamedTuple):
    """A worker's progress: the number of its item, the steps done of this item, and its present activity."""

    number: int
    steps: int
    text: str


#: The progress of a worker without work.
NOTHING = Told(-1, 0, "")


class Notes:
    """A `sweeps.console.progress.Progress` that keeps its latest state until the driver asks. One thread writes: a
    reader in another thread sees a whole `Told`."""

    def __init__(self) -> None:
        self.told = NOTHING

    def begin(self, number: int) -> None:
        """Begin the item with this number."""
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
    """Convert errors to the form that the driver reads: `InvalidInput` is unchanged, any other error becomes an
    `Unfinished` of one line with the error's kind, the first line of its text, and the line of the testbed's or the
    user's code that raised it."""
    try:
        yield
    except InvalidInput:
        raise
    except Exception as problem:
        frames = traceback.extract_tb(problem.__traceback__)
        ours = [frame for frame in frames if "site-packages" not in frame.filename] or frames
        text = next((line.strip() for line in str(problem).splitlines() if line.strip()), "")
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        raise Unfinished(f"{type(problem).__name__}: {text[:300]} ({where})") from None


class Worker:
    """The actor that computes on a host: builds worlds, and runs chunks on its devices. The worker does one item at a
    time; meanwhile `told` may be called."""

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
        driver's libraries."""
        from sweeps.population.devices import Machine
        from sweeps.population.host import Host
        from sweeps.population.world_builder import WorldBuilder
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
        self._worlds = _Worlds(WorldBuilder(Cache(directory), self._notes))
        self._host = Host(self._worlds, self._notes)
        return About(os.getpid(), _identity(directory), Machine.here())

    def told(self) -> Told:
        """The worker's progress, after a short wait."""
        time.sleep(INTERVAL)
        return self._notes.told

    @described()
    def build(self, number: int, configs: "Sequence[WorldConfig]", send: bool) -> list[Any]:
        """Make the artifacts of some worlds that this worker's cache lacks. Returns None, then one entry per world: the
        world, which Ray sends to workers with other caches, or None if worlds are not to be sent."""
        self._notes.begin(number)
        self._worlds.own.prepare(configs)
        return [None, *(self._worlds.own[config] if send else None for config in configs)]

    @described()
    def run(
        self, number: int, chunks: "Sequence[Chunk]", sent: "Mapping[WorldConfig, Any]"
    ) -> "tuple[Outcome, Spent]":
        """Run the first of some chunks on the devices, and compile for the others meanwhile; ``sent`` holds references
        to worlds that other workers have made."""
        from sweeps.population.engine import Spent

        self._notes.begin(number)
        self._worlds.sent, self._host.spent = sent, Spent()
        return self._host.run([_fitted(chunk) for chunk in chunks]), self._host.spent


class _Worlds:
    """Worlds that other workers sent; or this worker's own, if no world was sent or the sent one was lost with a
    host."""

    def __init__(self, own: Any) -> None:
        self.own = own
        self.sent: Mapping[WorldConfig, Any] = {}

    def __getitem__(self, config: "WorldConfig") -> "WorldArtifacts":
        import ray.exceptions

        with contextlib.suppress(ray.exceptions.RayError):
            if config in self.sent:
                return ray.get(self.sent[config], timeout=60.0)
        return self.own[config]


def _fitted(chunk: "Chunk") -> "Chunk":
    """The chunk for the devices of this process, whose number may differ from the number in the plan."""
    import jax

    count = jax.device_count()
    if count == chunk.devices:
        return chunk
    layout = chunk.layout._replace(rows=math.ceil(chunk.layout.rows / count) * count)
    return dataclasses.replace(chunk, layout=layout, devices=count)


def _identity(directory: Path) -> tuple[int, int]:
    """The identity of this cache, also if hosts share it: inode and time of a file that is written once."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ".identity"
    with contextlib.suppress(FileExistsError):
        path.touch(exist_ok=False)
    return path.stat().st_ino, path.stat().st_mtime_ns


class Failed(NamedTuple):
    """An item has failed; ``with_host`` if the host was lost."""

    error: str
    with_host: bool = False


@dataclass(eq=False)
class WorkerHandle:
    """The driver's view of a worker. The worker is starting as long as ``about`` is None, and idle without an item.
    ``work`` refers to the result of `Worker.begin` or of the item, ``talk`` to the next progress message."""

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
    #: When the worker received its item, and when its latest message arrived.
    given: float = 0.0
    heard: float = 0.0

    def give(self, item: Item, work: Any) -> None:
        """Record that the worker has received an item. Progress of an earlier attempt at the item no longer counts."""
        self.item, self.kind, self.work, self.told = item, item.kind, work, NOTHING
        self.given = self.heard = time.monotonic()


class Workers:
    """The workers of a cluster. ``ray`` is the connected module, ``share`` the number of workers per host. The cluster
    is given up after ``patience`` seconds without any worker, a worker with work after ``silence`` seconds without a
    message."""

    def __init__(
        self, ray: Any, share: int, patience: float = PATIENCE, silence: float = SILENCE
    ) -> None:
        from sweeps.store import provenance

        self.handles: list[WorkerHandle] = []
        self.lost: list[str] = []
        self._ray, self._share, self._patience, self._silence = ray, share, patience, silence
        self._actor = ray.remote(Worker)
        self._told = user_files.loaded(), provenance.versions()
        # If any host has GPUs, only hosts with GPUs get workers.
        self._kind = "GPU"
        if not self._hosts():
            self._kind = "CPU"
        self._failed: Counter[str] = Counter()
        self._error = ""
        self._seen = time.monotonic()

    @property
    def ready(self) -> list[WorkerHandle]:
        """Workers that have started."""
        return [worker for worker in self.handles if worker.about]

    def machine(self) -> "Machine":
        """The properties of the hosts that a plan needs: the devices of the first worker that starts. Waits for it."""
        while not self.ready:
            self.start()
            list(self.events())
        return self.ready[0].about.machine

    def start(self) -> None:
        """Start workers where there is room. Raises `Unfinished` if there is no room for a long time, or if no worker
        can be started."""
        now, hosts = time.monotonic(), self._hosts()
        held = {(worker.node, worker.slot) for worker in self.handles}
        for host, slot in itertools.product(hosts, range(self._share)):
            node = host["NodeID"]
            if self._failed[node] < ATTEMPTS and (node, slot) not in held:
                self.handles.append(self._started(host, slot))
        # If there is no host yet, a host may still join.
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

    def events(self, timeout: float = 1.0) -> Iterator[tuple[WorkerHandle, Any]]:
        """Messages of workers: `About` when they start, `Told` from time to time, the results of their items, or
        `Failed`. Waits if there is no message. A worker that is lost, or has work and was silent for too long, is
        forgotten before its `Failed` is returned.

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

    def _answer(self, worker: WorkerHandle, reference: Any) -> Any:
        """The result behind a reference. References are compared by equality: a client of Ray copies them."""
        worker.heard = time.monotonic()
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as problem:
            cause = problem.cause or problem
            if isinstance(cause, InvalidInput):
                raise cause from None
            # Other kinds of errors occur if the worker could not read its arguments, or could not send its answer.
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

    def dismiss(self, worker: WorkerHandle, error: str) -> Failed:
        """Forget a worker that is lost, and stop its process."""
        self.handles.remove(worker)
        self.lost.append(worker.name)
        if worker.about is None:
            self._failed[worker.node] += 1
            self._error = error
        self._ray.kill(worker.actor)
        with_host = all(host["NodeID"] != worker.node for host in self._hosts())
        return Failed(f"the worker on {worker.name} was lost: {error}", with_host)

    def close(self) -> None:
        """Stop all workers."""
        while self.handles:
            self._ray.kill(self.handles.pop().actor)

    def _hosts(self) -> list[dict[str, Any]]:
        """Hosts that may have workers, in Ray's description."""
        nodes = self._ray.nodes()
        return [node for node in nodes if node["Alive"] and node["Resources"].get(self._kind)]

    def _started(self, host: Mapping[str, Any], slot: int) -> WorkerHandle:
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
            max_concurrency=2,  # one thread works, the other reports progress
            scheduling_strategy=NodeAffinitySchedulingStrategy(host["NodeID"], soft=False),
            **{"num_cpus": 0, f"num_{self._kind.lower()}s": part},
        ).remote(max(1, int(resources.get("CPU", 0) // share)), self._kind == "GPU")
        name = name if share == 1 else f"{name}/{slot + 1}"
        return WorkerHandle(actor, host["NodeID"], slot, name, actor.begin.remote(*self._told))


def _reason(problem: Exception) -> str:
    """Ray's reason why a worker died: the text after the names of the actor."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    why = next((line for line in lines if " because " in line), lines[0] if lines else "")
    return why.partition(" because ")[2][:200] or why[:200]


def names(several: Sequence[str], most: int = 4) -> str:
    """The first of many names, at most ``most``, as one text."""
    shown = list(dict.fromkeys(several))
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more

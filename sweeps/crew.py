"""The workers of a Ray cluster: one or more a host, started where there is room, replaced when they are lost."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sweeps import user_files
from sweeps.population.devices import Machine
from sweeps.store import provenance
from sweeps.work import ATTEMPTS, Item
from sweeps.worker import About, Problem, Told, Worker
from testbed.errors import InvalidInput, Unfinished

#: Seconds between two looks for hosts that have room for a worker.
LOOK = 2.0
#: Seconds without any worker after which it is given up.
PATIENCE = 120.0
#: What has been told of no work.
NOTHING = Told(-1, 0, "")
#: Seconds without a word from a worker that should tell every second how far it is, after which it counts as hung.
SILENCE = 300.0
#: Threads of a worker: one works, one answers how far it is.
_THREADS = 2


class Place(NamedTuple):
    """Where a worker runs: a host by Ray's name for it, and which of the host's workers it is."""

    node: str
    slot: int


class Lost(NamedTuple):
    """A worker has died, alone or with its host."""

    error: str
    with_host: bool = False


@dataclass(eq=False)
class Hand:
    """A worker as its driver sees it: it is starting until it has said what it is, and idle without an item."""

    actor: Any
    place: Place
    name: str
    start: Any
    about: About | None = None
    item: Item | None = None
    #: Kind of the latest item; reference to what comes of the present one; to what is told of it.
    kind: Any = None
    work: Any = None
    talk: Any = None
    told: Told = NOTHING
    #: When it was given its item, and when it last said anything since.
    given: float = 0.0
    heard: float = 0.0

    @property
    def steps(self) -> int:
        """Steps that it has told of its present item."""
        return self.told.steps if self.item and self.told.number == self.item.number else 0


class Crew:
    """The workers of a cluster. ``ray`` is the engine, connected; ``share`` workers share a host. ``patience`` are the
    seconds without any worker, ``silence`` those without a word from one that works, after which they are given up."""

    def __init__(
        self, ray: Any, share: int, patience: float = PATIENCE, silence: float = SILENCE
    ) -> None:
        self.hands: list[Hand] = []
        self.lost: list[str] = []
        self._ray, self._share, self._patience, self._silence = ray, share, patience, silence
        self._actor = ray.remote(Worker)
        self._files = user_files.loaded()
        self._versions = provenance.versions()
        self._accelerated = any(_count(node, "GPU") for node in self._nodes())
        self._failed: Counter[str] = Counter()
        self._error = ""
        self._look = self._seen = time.monotonic()

    @property
    def ready(self) -> list[Hand]:
        """Workers that have started."""
        return [hand for hand in self.hands if hand.about]

    def muster(self) -> None:
        """Start workers where there is room. Raises `Unfinished` if there is none for long, or none can be started."""
        now = time.monotonic()
        if self.ready:
            self._seen = now
        if now >= self._look:
            self._look = now + LOOK
            held = {hand.place for hand in self.hands}
            nodes = self._nodes()
            for node in nodes:
                if self._failed[node["NodeID"]] < ATTEMPTS:
                    places = (Place(node["NodeID"], slot) for slot in range(self._share))
                    free = (place for place in places if place not in held)
                    self.hands += [self._start(node, place) for place in free]
            # Without any host, one may still come.
            if nodes and not self.hands:
                raise Unfinished(f"no worker can be started on any host: {self._error}")
        if now - self._seen > self._patience:
            raise Unfinished(
                f"the cluster has had no worker for {self._patience:.0f} seconds: {self._absence()}"
            )

    def _absence(self) -> str:
        if self.hands:
            return "its hosts do not begin any (are their CPUs or GPUs in use?)"
        return "it has no host with CPUs or GPUs left"

    def machine(self) -> Machine:
        """What a plan must know of the hosts: one of them, when it has started. Raises `Unfinished` if workers cannot
        tell."""
        error = ""
        for _ in range(ATTEMPTS):
            while not self.ready:
                self.muster()
                for hand, event in self.events():
                    if isinstance(event, Lost):
                        self.dismiss(hand, event.error)
            hand = self.ready[0]
            try:
                found = self._ray.get(hand.actor.machine.remote(), timeout=self._silence)
            except self._ray.exceptions.RayError as problem:
                error = _reason(problem)
                self.dismiss(hand, error)
                continue
            if isinstance(found, Problem):
                raise _raised(found)
            return found
        raise Unfinished(f"no worker can tell what its host has: {error}")

    def give(self, hand: Hand, item: Item, method: str, returns: int, *arguments: Any) -> list[Any]:
        """Let an idle worker do an item: references to what the method returns, the first of which is waited for."""
        call = getattr(hand.actor, method).options(num_returns=returns)
        found = call.remote(item.number, *arguments)
        references = found if returns > 1 else [found]
        hand.item, hand.kind, hand.work = item, item.kind, references[0]
        # What was told of the same item at an earlier attempt holds no more.
        hand.told, hand.given = NOTHING, time.monotonic()
        hand.heard = hand.given
        hand.talk = hand.talk or hand.actor.told.remote()
        return references

    def events(self, timeout: float = 1.0) -> Iterator[tuple[Hand, Any]]:
        """What workers have to say: `About` when they start, `Told` now and then, `Lost` at their end, and what has
        come of their items. Waits if there is nothing. One that works and has long been silent counts as lost."""
        asked = {
            reference: hand
            for hand in self.hands
            for reference in (hand.start, hand.work, hand.talk)
            if reference is not None
        }
        if not asked:
            time.sleep(timeout)
            return
        ready, _ = self._ray.wait(list(asked), timeout=timeout)
        if ready:
            ready, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=0)
        for reference in ready:
            hand = asked[reference]
            hand.heard = time.monotonic()
            if hand in self.hands:
                yield from ((hand, event) for event in self._heard(hand, reference))
        now = time.monotonic()
        for hand in [hand for hand in self.hands if hand.item]:
            if now - hand.heard > self._silence:
                yield hand, Lost(f"it has not said a word for {self._silence:.0f} seconds")

    def _heard(self, hand: Hand, reference: Any) -> list[Any]:
        """What a reference has brought. References are compared, not identified: a client of Ray copies them."""
        errors = self._ray.exceptions
        try:
            found = self._ray.get(reference)
        except errors.RayTaskError as problem:
            # It could not read its arguments, or not send its answer.
            said = str(problem.cause or problem).strip().splitlines() or [""]
            found = Problem(f"{type(problem.cause).__name__}: {said[-1][:300]}", invalid=False)
        except errors.RayError as problem:
            return [Lost(_reason(problem), with_host=self._gone(hand.place.node))]
        if reference == hand.start:
            return self._started(hand, found)
        if reference == hand.talk:
            hand.talk = None if hand.item is None else hand.actor.told.remote()
            return [found] if isinstance(found, Told) else []
        hand.work = None
        return [found]

    def _started(self, hand: Hand, found: About | Problem) -> list[Any]:
        if isinstance(found, Problem):
            if found.invalid:
                raise _raised(found)
            return [Lost(found.error)]
        for name, version in found.versions.items():
            if name != "python" and version != self._versions[name]:
                raise InvalidInput(
                    f"host {found.host} has {name} {version}, this process {self._versions[name]}: "
                    "install the same versions on every host"
                )
        hand.about, hand.start = found, None
        self._failed[hand.place.node] = 0
        return [found]

    def dismiss(self, hand: Hand, error: str) -> None:
        """Forget a worker that is lost."""
        self.hands.remove(hand)
        self.lost.append(hand.name)
        if hand.about is None:
            self._failed[hand.place.node] += 1
            self._error = error
        self._look = time.monotonic()
        self._ray.kill(hand.actor)

    def close(self) -> None:
        """Let all workers go."""
        while self.hands:
            self._ray.kill(self.hands.pop().actor)

    def _gone(self, node: str) -> bool:
        return not any(one["NodeID"] == node and one["Alive"] for one in self._ray.nodes())

    def _nodes(self) -> list[dict[str, Any]]:
        """Hosts that may have workers: where any has GPUs, those that have."""
        kind = "GPU" if getattr(self, "_accelerated", False) else "CPU"
        nodes = self._ray.nodes()
        return [
            node
            for node in nodes
            if node["Alive"] and (_count(node, kind) or (kind == "CPU" and _count(node, "GPU")))
        ]

    def _start(self, node: dict[str, Any], place: Place) -> Hand:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        host, cpus, gpus = node["NodeManagerHostname"], _count(node, "CPU"), _count(node, "GPU")
        cores = max(1, int(cpus // self._share))
        if self._accelerated and gpus < self._share:
            raise InvalidInput(
                f"--workers {self._share} are more than the {gpus:.0f} GPUs of host {host}: each needs one at least"
            )
        part = cpus / self._share
        needs = (
            {"num_cpus": 0, "num_gpus": gpus // self._share}
            if self._accelerated
            # Ray shares whole processors, or parts of a single one.
            else {"num_cpus": math.floor(part) or math.floor(part * 1000) / 1000}
        )
        actor = self._actor.options(
            max_concurrency=_THREADS,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
            **needs,
        ).remote(cores, self._accelerated)
        name = host if self._share == 1 else f"{host}/{place.slot + 1}"
        return Hand(actor, place, name, actor.begin.remote(self._files))


def _count(node: dict[str, Any], kind: str) -> float:
    return node["Resources"].get(kind, 0.0)


def _raised(problem: Problem) -> Exception:
    return InvalidInput(problem.error) if problem.invalid else Unfinished(problem.error)


def _reason(problem: Exception) -> str:
    """Why a worker died, in Ray's words: what follows the names of the actor."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    why = next((line for line in lines if " because " in line), lines[0] if lines else "")
    return why.partition(" because ")[2][:200] or why[:200]


def names(hands: Sequence[str], most: int = 4) -> str:
    """Some of many names."""
    shown = list(dict.fromkeys(hands))
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more

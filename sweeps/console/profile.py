"""Where the time of a command goes, part by part, as wall time and as CPU seconds.

The thread that opens a `recording` is in one part at any moment, so its parts add up to the wall time. Other threads
trace and compile programs beside it. At every border between parts, in any thread, the time since the border before is
booked under what all threads were doing, so nothing is counted twice and what ran beside what is known. CPU seconds are
the whole process's, XLA's threads included. Without an open recording `part` does nothing.
"""

import contextlib
import enum
import json
import math
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

FILE = "profile.json"


class Part(enum.Enum):
    """The parts of a command. `HOST` is the time of the recording's thread that has no other name."""

    IMPORT = "imports"
    PLAN = "plan"
    WAIT = "waiting for programs"
    TRACE = "tracing"
    COMPILE = "compiling"
    READ = "reading programs"
    STAGE = "stages"
    TRAIN = "training"
    MEASURE = "evaluation"
    STORE = "store"
    FIT = "curve fits"
    REPORT = "report"
    HOST = "host"


#: The parts that make programs, in whichever thread.
PROGRAMS = (Part.TRACE, Part.COMPILE, Part.READ)
#: jax's events: it says when each begins and when it ends.
_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": Part.TRACE,
    "/jax/core/compile/jaxpr_to_mlir_module_duration": Part.TRACE,
    "/jax/core/compile/backend_compile_duration": Part.COMPILE,
}


class Doing(NamedTuple):
    """What a thread does: a part, and of what (a stage, the arms of a chunk, a program)."""

    part: Part
    what: str = ""


class Together(NamedTuple):
    """What the recording's thread did, and what other threads did beside it."""

    main: Doing
    beside: frozenset[Doing]


class Clocks(NamedTuple):
    """Wall and CPU seconds since an arbitrary point."""

    wall: float
    cpu: float


def clocks() -> Clocks:
    """The present wall time, and the CPU seconds of this process, all threads together."""
    return Clocks(time.monotonic(), time.process_time())


class Recording:
    """The time that a command has taken so far. ``age`` is the number of seconds before now at which the command began;
    these seconds are imports."""

    def __init__(self, age: float = 0.0, clock: Callable[[], Clocks] = clocks) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._main = threading.get_ident()
        self._stacks: dict[int, list[Doing]] = {self._main: [Doing(Part.HOST)]}
        self._last = clock()
        self._seconds: dict[Together, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._times: Counter[Doing] = Counter()
        if age:
            imports = Together(Doing(Part.IMPORT), frozenset())
            self._seconds[imports] = [age, self._last.cpu]

    def enter(self, doing: Doing) -> None:
        """Begin something in this thread, inside of what it does already."""
        with self._lock:
            self._book()
            self._stacks.setdefault(threading.get_ident(), []).append(doing)
            self._times[doing] += 1

    def leave(self) -> None:
        """End what this thread has begun last."""
        with self._lock:
            self._book()
            self._stacks[threading.get_ident()].pop()

    def innermost(self) -> Doing | None:
        """What this thread does now."""
        stack = self._stacks.get(threading.get_ident())
        return stack[-1] if stack else None

    def _book(self) -> None:
        now = self._clock()
        beside = frozenset(
            stack[-1] for thread, stack in self._stacks.items() if stack and thread != self._main
        )
        spent = self._seconds[Together(self._stacks[self._main][-1], beside)]
        for place in range(2):
            spent[place] += now[place] - self._last[place]
        self._last = now

    def described(self) -> dict[str, Any]:
        """The record as JSON-able data; see `shape`."""
        with self._lock:
            self._book()
            booked = [(one, wall, cpu) for one, (wall, cpu) in self._seconds.items()]
            times = dict(self._times)
        return {
            "wall_seconds": _rounded(math.fsum(wall for _, wall, _ in booked)),
            "cpu_seconds": _rounded(math.fsum(cpu for _, _, cpu in booked)),
            "cores": _cores(),
            "unhidden_seconds": _rounded(
                math.fsum(wall for one, wall, _ in booked if _waits(one.main))
            ),
            "parts": _parts(booked, times),
            "programs": _programs(booked),
        }


Booked = list[tuple[Together, float, float]]


def _parts(booked: Booked, times: dict[Doing, int]) -> list[dict[str, Any]]:
    """What the recording's thread did, in order of first appearance by part: wall and CPU seconds, and how many of the
    wall seconds other threads worked on programs beside it."""
    rows: dict[Doing, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for together, wall, cpu in booked:
        main = together.main
        # The recording's thread makes few programs itself; their names are in the list of programs.
        row = rows[Doing(main.part) if main.part in PROGRAMS else main]
        row[0] += wall
        row[1] += cpu
        row[2] += wall if together.beside else 0.0
    order = list(Part)
    return [
        {
            "part": doing.part.value,
            "what": doing.what,
            "times": times.get(doing, 0),
            "seconds": _rounded(wall),
            "cpu_seconds": _rounded(cpu),
            "beside_programs": _rounded(beside),
        }
        for doing, (wall, cpu, beside) in sorted(
            rows.items(), key=lambda row: (order.index(row[0].part), -row[1][0])
        )
        if wall >= 0.0005 or cpu >= 0.0005
    ]


def _programs(booked: Booked) -> list[dict[str, Any]]:
    """The programs by name: wall seconds in which a thread traced, compiled or read each, and how many of all these the
    recording's thread did nothing else than wait. The longest comes first."""
    rows: dict[str, dict[str, float]] = defaultdict(
        lambda: {**{part.value: 0.0 for part in PROGRAMS}, "waited": 0.0}
    )
    for together, wall, _ in booked:
        for doing in {together.main, *together.beside}:
            if doing.part in PROGRAMS:
                rows[doing.what][doing.part.value] += wall
                rows[doing.what]["waited"] += wall if _waits(together.main) else 0.0
    whole = sorted(rows.items(), key=lambda row: -sum(row[1][part.value] for part in PROGRAMS))
    return [
        {"name": name, **{key.split()[0]: _rounded(value) for key, value in row.items()}}
        for name, row in whole
    ]


def _waits(doing: Doing) -> bool:
    """Whether the recording's thread can do nothing else, because a program is missing."""
    return doing.part is Part.WAIT or doing.part in PROGRAMS


def _rounded(seconds: float) -> float:
    return round(seconds, 3)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


#: The recording that is open in this process, at most one.
_open: list[Recording] = []
_listening: list[bool] = []
_NOTHING = contextlib.nullcontext()


@contextlib.contextmanager
def recording(age: float = 0.0) -> Iterator[Recording]:
    """Record this process until the end; see `Recording`. Inside another recording: that one goes on."""
    if _open:
        yield _open[0]
        return
    _open.append(Recording(age))
    try:
        yield _open[0]
    finally:
        _open.clear()


def active() -> bool:
    """Whether a recording is open."""
    return bool(_open)


def part(part: Part, what: str = "") -> contextlib.AbstractContextManager[None]:
    """What this thread does inside of the context."""
    return _spent(_open[0], Doing(part, what)) if _open else _NOTHING


@contextlib.contextmanager
def _spent(record: Recording, doing: Doing) -> Iterator[None]:
    record.enter(doing)
    try:
        yield
    finally:
        record.leave()


def listen() -> None:
    """Let jax tell an open recording when it traces and compiles: small programs have no part of their own. A program
    that is traced inside of a part of `PROGRAMS` keeps that part's name."""
    import jax

    if not _open or _listening:
        return
    _listening.append(True)
    jax.monitoring.register_scalar_listener(_began)
    jax.monitoring.register_event_duration_secs_listener(_ended)


def _began(event: str, value: float, **facts: Any) -> None:
    if _open and event in _EVENTS:
        outer = _open[0].innermost()
        known = outer is not None and outer.part in PROGRAMS
        # Compiling is told as "jit(name)", tracing as "name".
        name = str(facts.get("fun_name", "")).removeprefix("jit(").removesuffix(")")
        what = outer.what if known and outer else name
        _open[0].enter(Doing(_EVENTS[event], what))


def _ended(event: str, duration_secs: float, **facts: Any) -> None:
    if _open and event in _EVENTS:
        doing = _open[0].innermost()
        if doing is not None and doing.part is _EVENTS[event]:
            _open[0].leave()


def process_age() -> float:
    """Seconds since this process began; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):
        stat = Path("/proc/self/stat").read_text(encoding="utf-8")
        begun = int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - begun)
    return 0.0


def write(directory: Path) -> Path | None:
    """Write the open recording, as far as it has come, into a results directory; None if none is open."""
    if not _open:
        return None
    path = directory / FILE
    temporary = path.with_name(f".{FILE}.tmp")
    temporary.write_text(json.dumps(_open[0].described(), indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return path

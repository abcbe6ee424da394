"""Compiled programs on disk, found without tracing.

jax looks up its compilation cache only after a function was traced. Tracing takes Python seconds for each program of a
study, however often the program has run. This module finds a program by everything that tracing depends on: the code of
these packages, libraries, machine, settings, and the static parts, types and shapes of the arguments. A function that
uses other code, for example a user's own loss, is always traced, because no check can tell whether all the code that it
uses is unchanged. The traced text is looked up too: another version of the code that traces to the same text does not
compile again.

All files are kept beside jax's cache, ``jax_compilation_cache_dir``, and only while that cache is on. Reading a program
runs code from its file; therefore each program is signed (`sweeps.population.signed_files`). No other file is kept in a
form that could run.
"""

import contextlib
import functools
import hashlib
import io
import pickle
import threading
import time
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import serialize_executable
from jaxtyping import PyTree

from sweeps.console import activity, profile
from sweeps.console.profile import Part
from sweeps.population import compile_times
from sweeps.population.signed_files import SignedFiles
from sweeps.store import provenance
from testbed import numerics
from testbed.cache import Cache
from testbed.errors import InvalidInput, Unfinished

#: Packages whose code is part of an address: by its text, or by its version.
_OURS = {"testbed", "envs", "sweeps"}
_VERSIONED = {"jax", "jaxlib", "jaxtyping", "equinox", "optax", "numpy", "ml_dtypes"}
_STANDARD = {"builtins", "collections", "copyreg", "dataclasses", "enum", "functools", "types"}
_KNOWN = _OURS | _VERSIONED | _STANDARD
#: Exceptions that are raised for objects that cannot be converted to bytes.
_NO_BYTES = (pickle.PicklingError, AttributeError, TypeError, ValueError, RuntimeError)


class _Traced(NamedTuple):
    """The stored facts about a traced function: the address of its program, and the shapes of its results."""

    program: str
    results: PyTree


class Begun(NamedTuple):
    """A program that was traced, now or by an earlier process.

    ``results`` are the shapes of its results, without shardings; ``finish`` reads or compiles the program, once.
    """

    results: PyTree
    finish: Callable[[], Any]


def compiled(name: str, program: Any, arguments: tuple[PyTree, ...]) -> Any:
    """Compile a jitted function for arguments of given shapes (`jax.ShapeDtypeStruct`, with shardings that use all
    devices). Return the program that an earlier process stored, or a new one.

    ``name`` must be unique per function; two closures of the same function need different names.
    """
    return begin(name, program, arguments).finish()


def begin(name: str, program: Any, arguments: tuple[PyTree, ...]) -> Begun:
    """The first part of `compiled`, which holds Python's lock: trace the function, or find what an earlier process has
    traced."""
    files, address, known = _entry("program", name, arguments)

    def trace() -> Begun:
        return _traced(name, program, arguments, address)

    if files is None or not isinstance(known, _Traced):
        return trace()
    place, results = known

    def read_again() -> Any:
        with profile.part(Part.READ, name):
            executable = files.program(place, arguments, jax.tree.structure(results))
        return trace().finish() if executable is None else executable

    return Begun(results, read_again)


def stored(name: str, arguments: tuple[PyTree, ...]) -> PyTree | None:
    """Shapes of the results of a program that an earlier process has stored, so that `compiled` would not compile; None
    if there is none. Nothing is traced."""
    files, _, known = _entry("program", name, arguments)
    holds = files and isinstance(known, _Traced) and files.programs.holds(known.program)
    return known.results if holds else None


def worked_out_before(name: str, by: PyTree) -> Any:
    """A result that `worked_out` has stored, or None."""
    return _entry("shapes", name, by).value


class _Entry(NamedTuple):
    """The stored files, the address of what is asked for, and its value: None where there is none."""

    files: "_Files | None"
    address: str | None
    value: Any


def _entry(kind: str, name: str, by: PyTree) -> _Entry:
    files = _files()
    address = _address(kind, name, by) if files else None
    return _Entry(files, address, files.cache.load(address) if files and address else None)


def _traced(name: str, program: Any, arguments: tuple[PyTree, ...], address: str | None) -> Begun:
    start = time.monotonic()
    with profile.part(Part.TRACE, name), activity.beside(f"tracing {name}"):
        lowered = program.lower(*arguments)
    seconds = time.monotonic() - start
    results = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), lowered.out_info)

    def finish() -> Any:
        place, executable = _read_or_compiled(name, lowered, arguments, seconds)
        files = _files()
        if files and address and place:
            files.save(address, _Traced(place, results))
        return executable

    return Begun(results, finish)


def _read_or_compiled(
    name: str, lowered: Any, arguments: tuple[PyTree, ...], seconds: float
) -> tuple[str | None, Any]:
    """The program of a traced function, from a file if an earlier process has compiled the same text, and its address,
    None if it cannot be stored. ``seconds`` is how long tracing took."""
    files, read = _files(), _read(lowered)
    # A program without results, whose structure is all static, fails after XLA has serialised it.
    if files is None or read is None or not jax.tree.leaves(lowered.out_info):
        return None, _compiled(name, lowered, seconds)
    signature = [jax.tree.leaves(part) for part in (lowered.in_avals, lowered.out_info)]
    loaded_with = repr((_machine(), read, lowered.donate_argnums, signature))
    with profile.part(Part.READ, name):
        place = _digest(loaded_with, lowered.as_text())
        executable = files.program(place, arguments, lowered.out_tree)
    if executable is None:
        with _FRESH:
            executable = _compiled(name, lowered, seconds)
        # XLA cannot serialise a program that was read from jax's cache: the serialised program would fail.
        if _FRESH.count:
            files.save_program(place, executable)
    return place, executable


def _compiled(name: str, lowered: Any, seconds: float) -> Any:
    start = time.monotonic()
    with profile.part(Part.COMPILE, name), activity.beside(compile_times.said(name)):
        executable = lowered.compile()
    compile_times.note(name, seconds + time.monotonic() - start)
    return executable


def worked_out(name: str, by: PyTree, work_out: Callable[[], Any]) -> Any:
    """Call ``work_out``, which derives a result from shapes by tracing, or read the stored result. ``by`` is everything
    that the result depends on, with shapes in place of arrays. ``name`` as for `compiled`."""
    files, address, result = _entry("shapes", name, by)
    if result is None:
        with profile.part(Part.TRACE, name):
            result = work_out()
        if files and address:
            files.save(address, result)
    return result


class _Files(NamedTuple):
    """The stored files, by address. A file that is damaged in any way is made again; only the time for this is lost."""

    cache: Cache
    programs: SignedFiles

    def save(self, address: str, content: PyTree) -> None:
        """Store a result of tracing, if it can be stored and the disk accepts the file."""
        with contextlib.suppress(Unfinished, InvalidInput):
            self.cache.save(address, content)

    def save_program(self, address: str, program: Any) -> None:
        """Store a compiled program, if it can be converted to bytes and the disk accepts the file."""
        with contextlib.suppress(Unfinished, OSError, *_NO_BYTES):
            content = serialize_executable.serialize(program)[0]
            self.programs.save(address, zlib.compress(content, 1))

    def program(self, address: str, arguments: tuple[PyTree, ...], results: Any) -> Any:
        """The program at an address, ready to be called; None if there is none, or if the file is damaged or was made
        elsewhere."""
        content = self.programs.load(address)
        if content is None:
            return None
        given = jax.tree.structure((arguments, {}))
        try:
            content = zlib.decompress(content)
            return serialize_executable.deserialize_and_load(content, given, results)
        except Exception:  # for example, a program of another build of XLA
            self.programs.remove(address)
            return None


def _files() -> _Files | None:
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    directory, enabled = (jax.config.values[name] for name in names)
    if not directory or not enabled or jax.process_count() > 1:
        return None
    folder, key = Path(directory) / "programs", Path(directory) / "programs.key"
    return _Files(Cache(folder), SignedFiles(folder, key, ".program"))


class _Fresh(threading.local):
    """Counts the programs that this thread has compiled, not read from jax's cache, since the object was entered."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        self.count = 0

    def __exit__(self, *_: object) -> None:
        """Exit without a reset: the count stays."""

    def __call__(self, event: str, **_: Any) -> None:
        """Receive an event from jax."""
        asked, found = "compile_requests_use_cache", "cache_hits"
        self.count += (event == _EVENTS + asked) - (event == _EVENTS + found)


_EVENTS = "/jax/compilation_cache/"
_FRESH = _Fresh()
jax.monitoring.register_event_listener(_FRESH)


def _address(kind: str, name: str, arguments: PyTree) -> str | None:
    """The address of an entry; None if the arguments do not determine everything that the entry depends on."""
    shapes = jax.tree.map(lambda x: f"{x.dtype}{x.shape}{getattr(x, 'sharding', None)}", arguments)
    content = io.BytesIO()
    try:
        _Speller(content).dump(shapes)
    except (_Foreign, *_NO_BYTES):
        return None
    return _digest(kind, name, _source(), repr(_machine()), content.getvalue())


def _read(lowered: Any) -> list[int] | None:
    """Numbers of the arguments that a program reads; None if this version of jax does not report them. The program's
    text names only these arguments, so that two programs with the same text may read different ones."""
    try:
        return sorted(lowered._lowering.compile_args["kept_var_idx"])
    except (AttributeError, KeyError):
        return None


def _digest(*parts: str | bytes) -> str:
    each = (part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in each)).hexdigest()


class _Foreign(Exception):
    """The function uses code of other packages or of the user."""


class _Speller(pickle.Pickler):
    """Converts a pytree with its static parts to bytes, in the same way in every process: the bytes do not depend on
    which objects were seen before."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.fast = True

    def reducer_override(self, thing: Any) -> Any:
        """Refuse classes and functions whose code is not part of the address."""
        named = isinstance(thing, type | types.FunctionType | types.BuiltinFunctionType)
        if named and (thing.__module__ or "").partition(".")[0] not in _KNOWN:
            raise _Foreign(thing)
        return NotImplemented


def _machine() -> tuple[Any, ...]:
    """Everything that programs depend on besides the traced text."""
    device = jax.devices()[0]
    # The place of jax's own cache makes no difference to a program.
    settings = {
        name: str(value) for name, value in sorted(jax.config.values.items()) if "cache" not in name
    }
    return (
        jax.default_backend(),
        (device.platform, device.device_kind, device.client.platform_version),
        jax.device_count(),
        numerics.flags(),
        settings,
        *_host(),
    )


@functools.cache
def _source() -> str:
    return provenance.source_hash()


@functools.cache
def _host() -> tuple[Any, ...]:
    """Versions, and the capabilities of the processor, if the system reports them."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    able = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return tuple(provenance.versions().items()), able

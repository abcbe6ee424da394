"""Compiled programs on disk, found without tracing them.

jax's cache of compilations is asked only after a function has been traced, which takes Python seconds for each of a
study's programs, however often it has run. Here a program is found by all that tracing depends on: the code of these
packages, libraries, machine, settings, and the static parts, types and shapes of its arguments. Where code of others
takes part, a user's own loss for one, it is always traced: nobody could tell whether all that it uses is still the
same. What tracing gives is looked up too, so that another version of the code which gives the same compiles nothing.

All is kept beside jax's cache, ``jax_compilation_cache_dir``, and only while that is on. Reading a program runs code of
its file, so each is signed (`sweeps.population.signed_files`); nothing else is kept in a form that could run.
"""

import contextlib
import functools
import hashlib
import io
import pickle
import threading
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import serialize_executable
from jaxtyping import PyTree

from sweeps.population.signed_files import SignedFiles
from sweeps.store import provenance
from testbed import numerics
from testbed.cache import Cache
from testbed.errors import InvalidInput, Unfinished

#: Packages whose code an address accounts for: by its text, or by its version.
_OURS = {"testbed", "envs", "sweeps"}
_VERSIONED = {"jax", "jaxlib", "jaxtyping", "equinox", "optax", "numpy", "ml_dtypes"}
_STANDARD = {"builtins", "collections", "copyreg", "dataclasses", "enum", "functools", "types"}
_KNOWN = _OURS | _VERSIONED | _STANDARD
#: What is raised for things that have no bytes.
_NO_BYTES = (pickle.PicklingError, AttributeError, TypeError, ValueError, RuntimeError)


class _Traced(NamedTuple):
    """What is kept of a function that was traced: where its program is, and the structure of its results, as a pytree
    with 0 for each leaf."""

    program: str
    results: PyTree


def compiled(name: str, program: Any, arguments: tuple[PyTree, ...]) -> Any:
    """A jitted function compiled for arguments of certain shapes (`jax.ShapeDtypeStruct`, with shardings that take all
    devices): the program that an earlier process has kept, or a new one.

    ``name`` stands for the function: no two may have the same, and no two closures of one.
    """
    files = _files()
    if files is None:
        return program.lower(*arguments).compile()
    address = _address("program", name, arguments)
    known = files.cache.load(address) if address else None
    if isinstance(known, _Traced):
        found = files.program(known.program, arguments, jax.tree.structure(known.results))
        if found is not None:
            return found
    lowered = program.lower(*arguments)
    read = _read(lowered)
    # A program without results, whose structure is all static, does not run any more once XLA has written it down.
    if read is None or not jax.tree.leaves(lowered.out_info):
        return lowered.compile()
    signature = [jax.tree.leaves(part) for part in (lowered.in_avals, lowered.out_info)]
    loaded_with = repr((_machine(), read, lowered.donate_argnums, signature))
    place = _digest(loaded_with, lowered.as_text())
    found = files.program(place, arguments, lowered.out_tree)
    if found is None:
        with _FRESH:
            found = lowered.compile()
        # XLA cannot write a program down that it has read from jax's cache: what comes out does not run.
        if _FRESH.count:
            files.save_program(place, found)
    if address:
        structure = lowered.out_tree
        results = jax.tree.unflatten(structure, [0] * structure.num_leaves)
        files.save(address, _Traced(place, results))
    return found


def worked_out(name: str, by: PyTree, work_out: Callable[[], Any]) -> Any:
    """What ``work_out`` finds of shapes, by tracing; ``by`` is all that it depends on, shapes for arrays. ``name`` as
    for `compiled`."""
    files = _files()
    address = _address("shapes", name, by) if files else None
    found = files.cache.load(address) if files and address else None
    if found is None:
        found = work_out()
        if files and address:
            files.save(address, found)
    return found


class _Files(NamedTuple):
    """What is kept, by address. Whatever is wrong with it costs nothing but the time to make it anew."""

    cache: Cache
    programs: SignedFiles

    def save(self, address: str, content: PyTree) -> None:
        """Keep what was found by tracing, if it has a file and the disk takes that."""
        with contextlib.suppress(Unfinished, InvalidInput):
            self.cache.save(address, content)

    def save_program(self, address: str, program: Any) -> None:
        """Keep a compiled program, if it has bytes and the disk takes them."""
        with contextlib.suppress(Unfinished, OSError, *_NO_BYTES):
            content = serialize_executable.serialize(program)[0]
            self.programs.save(address, zlib.compress(content, 1))

    def program(self, address: str, arguments: tuple[PyTree, ...], results: Any) -> Any:
        """The program at an address, ready to be called; None for nothing, and for what is damaged or from
        elsewhere."""
        content = self.programs.load(address)
        if content is None:
            return None
        given = jax.tree.structure((arguments, {}))
        try:
            content = zlib.decompress(content)
            return serialize_executable.deserialize_and_load(content, given, results)
        except Exception:  # of another build of XLA, for one
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
    """Counts what this thread has compiled since it was last entered, and not found in jax's cache."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        self.count = 0

    def __exit__(self, *_: object) -> None:
        """The count stays."""

    def __call__(self, event: str, **_: Any) -> None:
        """Told of events by jax."""
        asked, found = "compile_requests_use_cache", "cache_hits"
        self.count += (event == _EVENTS + asked) - (event == _EVENTS + found)


_EVENTS = "/jax/compilation_cache/"
_FRESH = _Fresh()
jax.monitoring.register_event_listener(_FRESH)


def _address(kind: str, name: str, arguments: PyTree) -> str | None:
    """What something is found by; None where its arguments do not say all that it depends on."""
    shapes = jax.tree.map(lambda x: f"{x.dtype}{x.shape}{getattr(x, 'sharding', None)}", arguments)
    content = io.BytesIO()
    try:
        _Speller(content).dump(shapes)
    except (_Foreign, *_NO_BYTES):
        return None
    return _digest(kind, name, _source(), repr(_machine()), content.getvalue())


def _read(lowered: Any) -> list[int] | None:
    """Which arguments a program reads. Its text has those alone, so that two programs with the same text may read
    different ones. None if this version of jax does not tell."""
    try:
        return sorted(lowered._lowering.compile_args["kept_var_idx"])
    except (AttributeError, KeyError):
        return None


def _digest(*parts: str | bytes) -> str:
    each = (part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in each)).hexdigest()


class _Foreign(Exception):
    """Code of others takes part."""


class _Speller(pickle.Pickler):
    """Spells a pytree with its static parts, the same way in every process: nothing is named by where it was seen
    before."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.fast = True

    def reducer_override(self, thing: Any) -> Any:
        """Refuses classes and functions that the address does not account for."""
        named = isinstance(thing, type | types.FunctionType | types.BuiltinFunctionType)
        if named and (thing.__module__ or "").partition(".")[0] not in _KNOWN:
            raise _Foreign(thing)
        return NotImplemented


def _machine() -> tuple[Any, ...]:
    """What programs depend on beside what is traced."""
    device = jax.devices()[0]
    # Where jax's own cache is makes no difference to a program.
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
    """Versions, and what the processor can do, where the system tells."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    able = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return tuple(provenance.versions().items()), able

"""Files that configs depend on beside their fields, by content: users' own code, and files that fields name.

Stages, programs and runs that depend on such a file carry its content in their address or name, so that an edited file
is never taken for what it was. Code of the testbed's own packages is accounted for elsewhere (`testbed.stages.stages`,
`sweeps.store.provenance`).

A class of a user's is followed through its file's imports, those inside functions included, to every file below the
folders of users' code (`testbed.config.code_files`), or of the package that the class was installed with. A file that
imports by names which only its run gives (``importlib.import_module(name)``, ``exec``) counts with every Python file
below its folder and all that is loaded from there. What a user's code reads by itself (a file of weights, say) is seen
if a field of the config names it, or if the class has a method ``content()`` that returns a text which changes with it.
"""

import dataclasses
import functools
import hashlib
import os
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx

from testbed.config.canonical_form import names_of, read, spell
from testbed.config.code_files import OURS, STUDY, followed, texts_of
from testbed.errors import InvalidInput, said

_MOST_WALKED = 100_000
#: Libraries whose classes configs and users' classes stand on; their versions count (`testbed.numerics`).
_LIBRARIES = {"abc", "builtins", "equinox", "jax", "jaxtyping", "optax", "typing", "collections"}


def sources(things: Iterable[Any]) -> list[str]:
    """What configs depend on beside their fields, hashed, in the order of the fields: nothing for configs of the
    testbed's own classes.

    A hash for each class of others' that the configs hold at any depth, and for its bases; for each file that a text
    field of such a class names; and for the text of ``content()`` of each module that has such a method; each with the
    place in the config. A class without a file, typed into a notebook for one, or one made inside a function, has a new
    hash in every process: nothing made with it before is taken for its own.
    """
    found = []
    for number, thing in enumerate(things):
        for place, part in _walk(thing):
            told = part.told()
            if told:
                found.append(_short(f"{number} {place} {told}".encode()))
    return found


def files(things: Iterable[Any]) -> dict[str, str]:
    """The files behind `sources`: path, relative to the folder of the user's code that holds it or as a field names it,
    and the beginning of the SHA-256 of its text; ``content`` of modules by what they are."""
    found: dict[str, str] = {}
    for thing in things:
        for _, part in _walk(thing):
            found |= part.files()
    return dict(sorted(found.items()))


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal; read again only if the file has changed. Raises `OSError`."""
    status = path.stat()
    return _file_hash(str(path), status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _file_hash(path: str, inode: int, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


class _Kind(NamedTuple):
    """A class of others' in a config; ``beside`` tells the fields that its constructor does not take."""

    kind: type
    beside: str

    def told(self) -> str:
        """What identifies the class: its name, its code and that of its bases."""
        return f"{_hash(self.kind)} {self.beside}"

    def files(self) -> dict[str, str]:
        """The texts that count for it."""
        bases = filter(_is_foreign, self.kind.__mro__)
        texts = {name: text for base in bases for name, text in texts_of(base).items()}
        return {name: _short(text.encode()) for name, text in texts.items()}


class _Named(NamedTuple):
    """A text in a field of a class of others', which may be the path of a file."""

    text: str

    def told(self) -> str:
        """The file's content; empty if there is no such file."""
        return file_hash(Path(self.text)) if _is_file(self.text) else ""

    def files(self) -> dict[str, str]:
        """The file, if there is one."""
        told = self.told()
        return {self.text: told[:16]} if told else {}


class _Telling(NamedTuple):
    """A module with a method ``content()``."""

    module: Any

    def told(self) -> str:
        """What it says."""
        kind = type(self.module)
        try:
            # On the class: equinox makes a module of each method that it is asked for.
            found = kind.content(self.module)
        except (OSError, ValueError) as problem:
            if isinstance(problem, InvalidInput):
                raise
            raise InvalidInput(f"{kind.__name__}.content() fails: {said(problem)}") from problem
        if not isinstance(found, str):
            raise InvalidInput(
                f"{kind.__name__}.content() must return a text, got {type(found).__name__}"
            )
        return found

    def files(self) -> dict[str, str]:
        """What it says, by what the module is."""
        told = self.told()
        return {spell(self.module): _short(told.encode())} if told else {}


#: Parts of a config that depend on more than their fields, with their places.
_Parts = tuple[tuple[str, _Kind | _Named | _Telling], ...]
#: What modules inside of configs hold, by identity; the modules are kept, so that no other gets their identity. Modules
#: do not change, and thousands of configs share them.
_WALKED: dict[int, tuple[Any, _Parts]] = {}


def _walk(thing: Any) -> _Parts:
    if isinstance(thing, tuple | list):
        held = [(str(number), item) for number, item in enumerate(thing)]
        return _below(held)
    if not isinstance(thing, eqx.Module):
        return ()
    kind = type(thing)
    values = [(name, read(thing, name)) for name in names_of(kind)]
    found = _below(values)
    if _is_foreign(kind):
        texts = tuple(
            (place, _Named(text))
            for name, value in values
            for place, text in _texts_in(name, value)
        )
        beside = [
            f"{field.name}={read(thing, field.name)!r}"
            for field in dataclasses.fields(kind)
            if not field.init
        ]
        found = (("", _Kind(kind, ", ".join(beside))), *texts, *found)
    if callable(getattr(kind, "content", None)):
        found = (("", _Telling(thing)), *found)
    return found


def _below(values: Iterable[tuple[str, Any]]) -> _Parts:
    found: list[Any] = []
    for name, value in values:
        if isinstance(value, eqx.Module):
            known = _WALKED.get(id(value))
            if known is None:
                if len(_WALKED) >= _MOST_WALKED:
                    _WALKED.clear()
                known = _WALKED[id(value)] = value, _walk(value)
            parts = known[1]
        elif type(value) is tuple or type(value) is list:
            parts = _walk(value)
        else:
            continue
        if parts:
            found += [(f"{name}.{place}", part) for place, part in parts]
    return tuple(found)


def _texts_in(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """The texts in a field, those inside tuples included."""
    if isinstance(value, str) and value:
        yield place, value
    elif isinstance(value, tuple | list):
        for number, item in enumerate(value):
            yield from _texts_in(f"{place}.{number}", item)


def _is_foreign(kind: type) -> bool:
    """Whether a class is neither the testbed's own nor of the libraries that it stands on."""
    package = kind.__module__.partition(".")[0]
    return package not in OURS and package not in _LIBRARIES


def _is_file(text: str) -> bool:
    try:
        return os.path.isfile(text)
    except ValueError:  # a NUL byte
        return False


#: Hashes of classes, with the modules that they were read from as these were loaded then.
_HASHES: dict[type, tuple[list[tuple[str, Any]], str]] = {}


def _hash(kind: type) -> str:
    """Of a class, its bases and their code. Made again once one of the modules was loaded again."""
    known = _HASHES.get(kind)
    if known and all(_spec(sys.modules.get(name)) is spec for name, spec in known[0]):
        return known[1]
    bases = list(filter(_is_foreign, kind.__mro__))
    texts = [texts_of(base) for base in bases]
    if not all(texts) or any("<locals>" in base.__qualname__ for base in bases):
        # Typed into a notebook, or made by a function that was given who knows what: found again by nobody.
        found = known[1] if known else uuid.uuid4().hex
    else:
        names = [(_portable(base.__module__), base.__qualname__) for base in bases]
        found = _short(repr((names, [sorted(text.items()) for text in texts])).encode())
    modules = {
        name for base in bases if (m := sys.modules.get(base.__module__)) for name in followed(m)
    }
    specs = [(name, _spec(sys.modules.get(name))) for name in sorted(modules)]
    _HASHES[kind] = specs, found
    return found


def _spec(module: Any) -> Any:
    """What is another one once a module was loaded again."""
    return getattr(module, "__spec__", None)


def _portable(module: str) -> str:
    """A module's name; that of a study file has its content in it, which counts by itself."""
    return STUDY if module.startswith(STUDY) else module

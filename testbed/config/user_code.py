"""Hashes of files that configs depend on beside their fields: users' own code, and files that fields name.

The address or name of a stage, program or run that depends on such a file includes the file's content, so that an
edited file is never mistaken for its earlier version. Code of the testbed's own packages is accounted for elsewhere
(`testbed.stages.stages`, `sweeps.store.provenance`).

For a class of a user, the imports of its file, including those inside functions, are followed to every file below the
folders of users' code (`testbed.config.code_files`), or inside the package that the class was installed with. If a file
imports by names that are known only when it runs (``importlib.import_module(name)``, ``exec``), every Python file below
its folder counts, with all that is loaded from there. A file that a user's code reads by itself (a file of weights, for
example) counts if a field of the config names it, or if the class has a method ``content()`` that returns a text which
changes with the file.
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
from testbed.config.code_files import OURS, STUDY, followed, package_of, texts_of
from testbed.errors import InvalidInput, said

_MOST_WALKED = 100_000
#: Libraries that configs and users' classes are built on; their versions count (`testbed.numerics`).
_LIBRARIES = {"abc", "builtins", "equinox", "jax", "jaxtyping", "optax", "typing", "collections"}


def sources(things: Iterable[Any]) -> list[str]:
    """Hashes of everything that configs depend on beside their fields, in the order of the fields; empty for configs of
    the testbed's own classes.

    There is one hash for each user's class that the configs hold at any depth, its bases included; for each file that a
    text field of such a class names; and for the text of ``content()`` of each module that has such a method. Each hash
    covers the place in the config too. A class without a file, for example one typed into a notebook, or a class made
    inside a function has a new hash in every process: no earlier result is taken for a result of this class.
    """
    found = []
    for number, thing in enumerate(things):
        for place, part in _walk(thing):
            told = part.told()
            if told:
                found.append(_short(f"{number} {place} {told}".encode()))
    return found


def files(things: Iterable[Any]) -> dict[str, str]:
    """The files behind `sources`: a path, relative to the folder of the user's code that holds the file or as a field
    names it, mapped to the beginning of the SHA-256 of its text. Results of ``content()`` are listed under the text of
    their module."""
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
    """A user's class in a config; ``beside`` describes the fields that its constructor does not take."""

    kind: type
    beside: str

    def told(self) -> str:
        """What identifies the class: its name, its code and that of its bases."""
        return f"{_hash(self.kind)} {self.beside}"

    def files(self) -> dict[str, str]:
        """The texts that count for the class."""
        bases = filter(_is_foreign, self.kind.__mro__)
        texts = {name: text for base in bases for name, text in texts_of(base).items()}
        return {name: _short(text.encode()) for name, text in texts.items()}


class _Named(NamedTuple):
    """A text in a field of a user's class; the text may be the path of a file."""

    text: str

    def told(self) -> str:
        """A hash of the file's content; empty if there is no such file."""
        return file_hash(Path(self.text)) if _is_file(self.text) else ""

    def files(self) -> dict[str, str]:
        """The file, if there is one."""
        told = self.told()
        return {self.text: told[:16]} if told else {}


class _Telling(NamedTuple):
    """A module with a method ``content()``."""

    module: Any

    def told(self) -> str:
        """The text that ``content()`` returns."""
        kind = type(self.module)
        try:
            # Called on the class: on an instance, equinox makes a module of each method.
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
        """A hash of the text that ``content()`` returns, by the text of the module."""
        told = self.told()
        return {spell(self.module): _short(told.encode())} if told else {}


#: Parts of a config that depend on more than their fields, and their places in the config.
_Parts = tuple[tuple[str, _Kind | _Named | _Telling], ...]
#: Dependent parts inside modules of configs, by the module's identity. The modules are kept alive, so that no other
#: object gets their identity. Modules do not change, and thousands of configs share them.
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
    """Whether a class belongs neither to the testbed nor to the libraries that it is built on."""
    return package_of(kind.__module__) not in {*OURS, *_LIBRARIES}


def _is_file(text: str) -> bool:
    try:
        return os.path.isfile(text)
    except ValueError:  # a NUL byte in the text
        return False


#: Hashes of classes, with the modules they were read from and the module specs at that time.
_HASHES: dict[type, tuple[list[tuple[str, Any]], str]] = {}


def _hash(kind: type) -> str:
    """Hash of a class, its bases and their code; computed again once one of the modules has been loaded again."""
    known = _HASHES.get(kind)
    if known and all(_spec(sys.modules.get(name)) is spec for name, spec in known[0]):
        return known[1]
    bases = list(filter(_is_foreign, kind.__mro__))
    texts = [texts_of(base) for base in bases]
    if not all(texts) or any("<locals>" in base.__qualname__ for base in bases):
        # Typed into a notebook, or made by a function with unknown arguments: no other process can find it again.
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
    """A module's ``__spec__``, which is another object once the module has been loaded again."""
    return getattr(module, "__spec__", None)


def _portable(module: str) -> str:
    """A module's name. For a study file the prefix alone: the full name includes a hash of the content, which counts
    separately."""
    return STUDY if module.startswith(STUDY) else module

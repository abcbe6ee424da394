"""The code of classes that are not the testbed's own, by content: what is made with them is kept under it."""

import functools
import hashlib
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import equinox as eqx

from testbed.forms import names_of, read

_OURS = ("testbed", "envs")


def sources(things: Iterable[Any]) -> list[str]:
    """A hash for each class that configs hold, at any depth, and that is not of the packages `testbed` and `envs`: of
    its file, and of what that file uses of files beside it. Of a class without a file it is a new one in every process:
    nothing that was made with it before is taken for its own."""
    kinds = {kind for thing in things for kind in _kinds(thing)}
    return sorted({_hash(kind) for kind in kinds if kind.__module__.split(".")[0] not in _OURS})


def _kinds(thing: Any) -> Iterator[type]:
    if isinstance(thing, eqx.Module):
        yield type(thing)
        for name in names_of(type(thing)):
            yield from _kinds(read(thing, name))
    elif isinstance(thing, tuple | list):
        for item in thing:
            yield from _kinds(item)


@functools.cache
def _hash(kind: type) -> str:
    if _text(sys.modules[kind.__module__]) is None:
        # Typed into a notebook, say, and perhaps typed differently the next time: found again by nobody.
        return uuid.uuid4().hex
    found: dict[str, str] = {}
    _collect(sys.modules[kind.__module__], found)
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def _collect(module: ModuleType, found: dict[str, str]) -> None:
    """The text of a module, and of those in its folder that it has names of."""
    found[module.__name__] = _text(module) or module.__name__
    folder = _folder(module)
    for value in list(vars(module).values()):
        name = (
            value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        )
        beside = sys.modules.get(name) if isinstance(name, str) else None
        if beside and folder and _folder(beside) == folder and beside.__name__ not in found:
            _collect(beside, found)


def _folder(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve().parent if file else None


def _text(module: ModuleType) -> str | None:
    """As its loader has it, which need not be a file of this machine; None where there is no text."""
    loader = getattr(module, "__loader__", None)
    read_source = getattr(loader, "get_source", None)
    return read_source(module.__name__) if read_source else None

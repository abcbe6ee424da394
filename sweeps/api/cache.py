"""What the cache holds, and deleting what nobody has used for long."""

import contextlib
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.errors import InvalidInput
from testbed.paths import cache_directory

#: Each folder's content, and whether a command that lacks the content makes the same again.
KINDS = {
    "stages": ("parts of worlds", True),
    "xla": ("compiled programs", True),
    "catalogue": ("names that `testbed list` prints", True),
    "underway": ("runs that were interrupted", False),
    "policies": ("what language models have learnt", False),
    "llm": ("pretrained models and rated texts", False),
    "heads": ("rewards fitted to ratings", False),
}
#: Folders where earlier versions kept pickles. Nothing reads pickles any more: `forget` deletes them.
_ONCE_PICKLED = ("underway", "policies", "heads")
_DAY = 24 * 60 * 60
#: Seconds in which a file may still be on its way to its place.
_WRITING = 60.0


@dataclass(frozen=True)
class Kept:
    """A folder of the cache: how many files, how many bytes, and how many days ago the last of them was used (None if
    there is none). ``goes`` says whether `forget` takes from it."""

    folder: str
    what: str
    goes: bool
    files: int
    bytes: int
    unused_days: float | None

    def describe(self) -> dict[str, Any]:
        """As JSON-able data."""
        return vars(self).copy()

    def cells(self) -> dict[str, str]:
        """As a row of the command's table."""
        ago = self.unused_days
        return {
            "folder": self.folder,
            "what": self.what,
            "files": f"{self.files:,}",
            "MB": f"{self.bytes / 1e6:,.1f}",
            "last used": "never" if ago is None else "today" if ago < 1 else f"{ago:.0f} days ago",
            "can go": "yes" if self.goes else "no",
        }


def cached() -> list[Kept]:
    """The content of the cache, a row a folder: ``testbed cache``."""
    directory = cache_directory()
    found = {path.name for path in directory.glob("*/")}
    names = [*KINDS, *sorted(found - KINDS.keys())]
    return [_kept(name, _files(directory / name)) for name in names]


def forget(days: float) -> list[Kept]:
    """Delete files that have not been used for so many days and can be made again, or that an earlier version left in a
    form that nothing reads any more; return a row a folder of deleted files: ``testbed cache --forget``. A command
    that runs meanwhile makes again what it lacks. Raises `InvalidInput` below 0."""
    if not days >= 0:
        raise InvalidInput(f"--forget must be a number of days, 0 or more, got {days:g}")
    latest = time.time() - max(_WRITING, days * _DAY)
    gone = []
    for name, (_, goes) in KINDS.items():
        old = [file for file in _files(cache_directory() / name) if file.used <= latest]
        if not goes:
            pickled = name in _ONCE_PICKLED
            old = [file for file in old if pickled and file.path.suffix == ".pickle"]
        if goes or old:
            gone.append(_kept(name, list(_deleted(old))))
    return gone


@dataclass(frozen=True)
class _File:
    path: Path
    bytes: int
    used: float


def _files(directory: Path) -> list[_File]:
    """Files below a directory, without those that vanish meanwhile."""
    found = []
    for path in sorted(directory.rglob("*")):
        with contextlib.suppress(OSError):
            facts = path.stat()
            if stat.S_ISREG(facts.st_mode):
                # Stages and programs are touched when they are read; of what jax reads the file system may tell.
                used = max(facts.st_mtime, facts.st_atime)
                found.append(_File(path, facts.st_size, used))
    return found


def _deleted(files: Iterable[_File]) -> Iterator[_File]:
    for file in files:
        with contextlib.suppress(OSError):
            file.path.unlink()
            yield file


def _kept(folder: str, files: list[_File]) -> Kept:
    what, goes = KINDS.get(folder, ("something else", False))
    last = max((file.used for file in files), default=None)
    unused = None if last is None else max(0.0, (time.time() - last) / _DAY)
    return Kept(folder, what, goes, len(files), sum(file.bytes for file in files), unused)

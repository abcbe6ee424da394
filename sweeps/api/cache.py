"""Cache administration: list what the cache holds, and delete files that have not been used for a long time."""

import contextlib
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.errors import InvalidInput
from testbed.paths import cache_directory

#: Each folder's content, and whether a command that lacks the content makes it again.
KINDS = {
    "stages": ("parts of worlds", True),
    "xla": ("compiled programs", True),
    "catalogue": ("names that `testbed list` prints", True),
    "underway": ("runs that were interrupted", False),
    "policies": ("what language models have learnt", False),
    "llm": ("pretrained models and rated texts", False),
    "heads": ("rewards fitted to ratings", False),
}
#: Folders where earlier versions kept pickles. Pickles are never read any more: `forget` deletes them.
_ONCE_PICKLED = ("underway", "policies", "heads")
_DAY = 24 * 60 * 60
#: Files younger than this many seconds may still be in the course of being written.
_WRITING = 60.0


@dataclass(frozen=True)
class Kept:
    """A folder of the cache: the number of its files, their bytes, and how many days ago the most recently used file
    was used (None for an empty folder). ``goes`` says whether `forget` deletes from this folder."""

    folder: str
    what: str
    goes: bool
    files: int
    bytes: int
    unused_days: float | None

    def describe(self) -> dict[str, Any]:
        """The fields as JSON-able data."""
        return vars(self).copy()

    def cells(self) -> dict[str, str]:
        """The fields as a row of the command's table."""
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
    """The content of the cache, one row per folder: ``testbed cache``."""
    directory = cache_directory()
    present = {path.name for path in directory.glob("*/")}
    names = [*KINDS, *sorted(present - KINDS.keys())]
    return [_kept(name, _files(directory / name)) for name in names]


def forget(days: float) -> list[Kept]:
    """Delete files that were not used for ``days`` days and can be made again, and files of earlier versions in a form
    that is never read any more. Return one row per folder, with the deleted files: ``testbed cache --forget``. A
    command that runs meanwhile makes the files that it needs again. Raises `InvalidInput` if ``days`` is below 0."""
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
    """Files below a directory; files that vanish during the search are left out."""
    files = []
    for path in sorted(directory.rglob("*")):
        with contextlib.suppress(OSError):
            facts = path.stat()
            if stat.S_ISREG(facts.st_mode):
                # Reading a stage or a program updates its modification time; for jax's files only the access time
                # tells.
                used = max(facts.st_mtime, facts.st_atime)
                files.append(_File(path, facts.st_size, used))
    return files


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

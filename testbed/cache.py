"""Results on disk, named by content: stages of worlds, runs under way, policies.

Nothing in a file of the cache is run when the file is read (`testbed.serialisation.tree_files`), and a file that is
cut, changed or of another kind counts as missing.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from testbed.errors import Unfinished
from testbed.serialisation import tree_files
from testbed.serialisation.tree_structure import Damaged

SUFFIX = ".safetensors"


class Cache:
    """Pytrees on disk, named by content. Files are written aside and renamed, so none is ever half there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def holds(self, address: str) -> bool:
        """Whether there is a file at an address. It is not read: should it be damaged, `load` finds nothing."""
        return self._path(address).exists()

    def load(self, address: str) -> PyTree | None:
        """The result at an address, its arrays as numpy's; None if there is none, or one that cannot be read. A file
        that is read is touched: what is in use can be told from what is not. A damaged one is removed."""
        try:
            with self._path(address).open("rb") as file:
                result = tree_files.decode(file, address)
        except OSError:
            return None
        except Damaged:
            with contextlib.suppress(OSError):
                self.remove(address)
            return None
        with contextlib.suppress(OSError):
            os.utime(self._path(address))
        return result

    def save(self, address: str, result: PyTree) -> None:
        """Keep a result; arrays are stored as numpy's. Raises `Unfinished` if the disk refuses, and leaves nothing;
        `InvalidInput` for a result that has no file, one with a class defined inside a function for example."""
        write(self._path(address), tree_files.encode(jax.device_get(result), address))

    def remove(self, address: str) -> None:
        """Let a result go, if there is one."""
        self._path(address).unlink(missing_ok=True)

    def _path(self, address: str) -> Path:
        return self.directory / f"{address}{SUFFIX}"


def write(path: Path, parts: Iterable[Any]) -> None:
    """Write a file of the cache, all of it or none. Raises `Unfinished` if the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            try:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as problem:
        raise Unfinished(
            f"cache {path.parent} cannot be written ({problem.strerror or problem}): make room there, or set "
            "TESTBED_CACHE to another directory, and run the same command again"
        ) from problem

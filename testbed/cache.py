"""Cache on disk: results of stages, unfinished runs and policies, in files named by their content.

Reading a cache file never executes anything in it (`testbed.serialisation.tree_files`). A file that is truncated,
changed or of another kind counts as missing.
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
    """Pytrees on disk, named by content. A file is written under another name and then renamed, so it is never
    incomplete."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def holds(self, address: str) -> bool:
        """Whether there is a file at an address. The file is not read: if it is damaged, `load` returns None."""
        return self._path(address).exists()

    def load(self, address: str) -> PyTree | None:
        """The result at an address, with numpy arrays; None if there is no file or it cannot be read. Reading a file
        updates its time stamp, so that files in use can be told from unused ones. A damaged file is removed."""
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
        """Keep a result; arrays are stored as numpy's. Raises `Unfinished` if the disk refuses, and leaves no file;
        `InvalidInput` for a result that cannot be stored, for example one with a class defined inside a function."""
        write(self._path(address), tree_files.encode(jax.device_get(result), address))

    def remove(self, address: str) -> None:
        """Remove the result at an address, if there is one."""
        self._path(address).unlink(missing_ok=True)

    def _path(self, address: str) -> Path:
        return self.directory / f"{address}{SUFFIX}"


def write(path: Path, parts: Iterable[Any]) -> None:
    """Write a cache file completely or not at all. Raises `Unfinished` if the disk refuses."""
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

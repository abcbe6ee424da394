"""Results on disk, named by content: stages of worlds, runs under way, policies, programs."""

import contextlib
import os
import pickle
import tempfile
from pathlib import Path

import jax
from jaxtyping import PyTree

from testbed.errors import Unfinished


class Cache:
    """Stage results on disk, named by content. Files are written aside and renamed, so none is ever half there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def holds(self, address: str) -> bool:
        """Whether there is a result at an address."""
        return self._path(address).exists()

    def load(self, address: str) -> PyTree | None:
        """The result at an address, or None. Its file is touched: what is in use can be told from what is not."""
        try:
            with self._path(address).open("rb") as file:
                result = pickle.load(file)
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):
            os.utime(self._path(address))
        return result

    def save(self, address: str, result: PyTree) -> None:
        """Keep a result; arrays are stored as numpy's. Raises `Unfinished` if the disk refuses, and leaves nothing."""
        content = pickle.dumps(jax.device_get(result))
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.directory, delete=False) as file:
                try:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(file.name, self._path(address))
                except BaseException:
                    os.unlink(file.name)
                    raise
        except OSError as problem:
            raise Unfinished(
                f"cache {self.directory} cannot be written ({problem.strerror or problem}): make room there, or set "
                "TESTBED_CACHE to another directory, and run the same command again"
            ) from problem

    def remove(self, address: str) -> None:
        """Let a result go, if there is one."""
        self._path(address).unlink(missing_ok=True)

    def _path(self, address: str) -> Path:
        return self.directory / f"{address}.pickle"

"""Append-only results of a study in a directory: ``study.json`` and Parquet blocks.

One row per run and evaluation, one file per finished chunk of runs. Files are written under a
temporary name, flushed to disk and renamed, and are named by their content, so that a process
killed at any moment leaves whole blocks only. One process writes at a time; any number may read.
"""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sweeps import blocks, files
from sweeps import header as headers
from sweeps.blocks import COUNTS, FACTS, MEASURED, METRICS, TEXTS, Rows
from sweeps.header import SCHEMA
from testbed import config
from testbed.errors import InvalidInput

__all__ = ["COUNTS", "FACTS", "MEASURED", "METRICS", "SCHEMA", "TEXTS", "Rows", "Store"]
__all__ += ["read_stores", "study_directories"]

_OURS = {".lock", "study.json.tmp"}


class Store:
    """Results in one directory. `create_or_open` to write, `open` to read."""

    def __init__(self, directory: Path, header: dict[str, Any], lock: io.IOBase | None) -> None:
        self.directory = directory
        self.header = header
        self._lock = lock

    @classmethod
    def create_or_open(cls, directory: Path | str, header: Mapping[str, Any]) -> "Store":
        """A store to write to, begun or joined; the caller closes it (it is a context manager).

        ``header`` is `Selection.describe` and `provenance.session` in one. Joining takes the same
        study with the same base config; seeds, axes and arms may grow, and the claims stay those
        that were stored first. Raises `InvalidInput` if the directory is in use, unwritable, or
        holds anything else.
        """
        directory = Path(directory)
        header = config.jsonable(header)
        lock = files.lock(directory)
        try:
            if (directory / "study.json").exists():
                merged = headers.joined(directory, headers.read(directory), header)
            else:
                foreign = sorted({file.name for file in directory.iterdir()} - _OURS)
                if foreign:
                    raise InvalidInput(
                        f"output directory {directory} is neither empty nor a store of results "
                        f"(it holds {foreign[0]}): choose another --out"
                    )
                merged = {"schema": headers.SCHEMA, **header, "sessions": [headers.session(header)]}
            (directory / "blocks").mkdir(exist_ok=True)
            for left_over in (directory / "blocks").glob(".*.tmp"):
                left_over.unlink()
            headers.write(directory, merged)
        except OSError as problem:
            lock.close()
            raise files.unwritable(directory, problem) from problem
        except BaseException:
            lock.close()
            raise
        return cls(directory, merged, lock)

    @classmethod
    def open(cls, directory: Path | str) -> "Store":
        """A store to read. Raises `InvalidInput` if there is none, or one of another schema."""
        directory = Path(directory)
        if not (directory / "study.json").is_file():
            raise InvalidInput(
                f"{directory} holds no results (no study.json): give the --out of a `testbed run`"
            )
        return cls(directory, headers.read(directory), None)

    def close(self) -> None:
        """Let other processes write."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def note(self, **facts: Any) -> None:
        """Add facts, such as the seconds that it took, to what the header says of the present session."""
        if self._lock is None:
            raise ValueError("this store was opened to read")
        self.header["sessions"][-1] |= config.jsonable(facts)
        headers.write(self.directory, self.header)

    def append(self, rows: Rows) -> Path:
        """Write rows (see `sweeps.blocks`) as one block, whole or not at all. Returns its path.

        Raises `InvalidInput` if the disk refuses; nothing of the block is left then.
        """
        if self._lock is None:
            raise ValueError("this store was opened to read")
        data = blocks.encode(blocks.typed(rows))
        name = hashlib.sha256(data).hexdigest()[:16]
        path = self.directory / "blocks" / f"{name}.parquet"
        try:
            files.write(path, data, path.with_name(f".{name}.tmp"))
        except OSError as problem:
            raise files.unwritable(self.directory, problem) from problem
        return path

    def finished(self) -> set[str]:
        """Ids of the runs whose rows are stored."""
        return {run for _, run in self.held()}

    def held(self) -> set[tuple[str, str]]:
        """Of which arms which runs are stored."""
        pairs: set[tuple[str, str]] = set()
        for path in self._paths():
            columns = blocks.decode(path, ["arm", "run"])
            pairs.update(zip(*(columns.column(n).to_pylist() for n in ("arm", "run")), strict=True))
        return pairs

    def read(self) -> pd.DataFrame:
        """The long table: repeated rows once, in a fixed order.

        Swept paths that a block does not have as a column (an axis that was added later) are
        filled in from its configs.
        """
        paths = self._paths()
        return blocks.long(map(blocks.decode, paths), self.header.get("axes", {}))

    def _paths(self) -> list[Path]:
        return sorted((self.directory / "blocks").glob("[!.]*.parquet"))


def study_directories(directory: Path) -> list[Path]:
    """Where the studies of a results directory are: itself, or directories in it, by name."""
    if (directory / "study.json").is_file():
        return [directory]
    return sorted(path.parent for path in directory.glob("*/study.json"))


def read_stores(directory: Path) -> list[tuple[Store, pd.DataFrame]]:
    """The stores of a results directory that hold finished runs and can be read, by name, with their tables.

    Raises InvalidInput, with what is wrong with the first, if there are none.
    """
    found, problems = [], []
    for place in study_directories(directory) or [directory]:
        try:
            store = Store.open(place)
            table = store.read()
            if not table.empty:
                found.append((store, table))
        except InvalidInput as problem:
            problems.append(problem)
    if not found:
        finish = f"{directory} holds no finished run: run the study again to finish one"
        raise problems[0] if problems else InvalidInput(finish)
    return found

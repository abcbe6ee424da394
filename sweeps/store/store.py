"""Append-only results of a study in a directory: ``study.json`` and Parquet blocks.

One row per run and evaluation, one file per finished chunk of runs. Files are written under a
temporary name, flushed to disk and renamed, and are named by their content, so that a process
killed at any moment leaves whole blocks only. One process writes at a time; any number may read.
"""

import contextlib
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sweeps.runtime import cores
from sweeps.store import files, heartbeat, parquet
from sweeps.store import metadata as headers
from sweeps.store.metadata import SCHEMA
from sweeps.store.parquet import COUNTS, KNOWN, MEASURED, METRICS, TEXTS, Rows
from testbed.errors import InvalidInput
from testbed.metric_table import FACTS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COUNTS", "FACTS", "KNOWN", "MEASURED", "METRICS", "SCHEMA", "TEXTS", "Rows", "Store"]
__all__ += ["read_stores", "refuse_incomplete", "study_directories"]

_WHOLE = ("run", "arm", "task", "seed", "step", "evaluation", "diverged_step")
#: Blocks of fewer rows are merged until there are as many: 10^4 runs are then a few dozen files.
MERGED_ROWS = 32_768
#: Blocks of fewer bytes that an earlier session has left, if they are many, are merged too.
_SMALL_BYTES, _MANY = 2**20, 16
_OURS = {".lock", "study.json.tmp", headers.PLANNED, f"{headers.PLANNED}.tmp", heartbeat.FILE}


class Store:
    """Results in one directory. `create_or_open` to write, `open` to read."""

    def __init__(self, directory: Path, header: dict[str, Any], lock: io.IOBase | None) -> None:
        self.directory = directory
        self.header = header
        self._lock = lock
        self._small: dict[Path, pa.Table] = {}
        self._begun = False

    @classmethod
    def create_or_open(cls, directory: Path | str, header: Mapping[str, Any]) -> "Store":
        """A store to write to, begun or joined; the caller closes it (it is a context manager).

        ``header`` is `Selection.describe` and `provenance.session` in one. Joining takes the same
        study with the same base config; seeds, axes and arms may grow, and the claims stay those
        that were stored first. Raises `InvalidInput` if the directory is in use, unwritable, or
        holds anything else.
        """
        directory = Path(directory)
        header = _jsonable(header)
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
            headers.write_planned(directory, merged)
            headers.write(directory, merged)
            # Last: blocks without `study.json` would be somebody else's to the next session.
            (directory / "blocks").mkdir(exist_ok=True)
            files.settle(directory)
            for left_over in (directory / "blocks").glob(".*.tmp"):
                left_over.unlink()
        except OSError as problem:
            lock.close()
            raise files.unwritable(directory, problem) from problem
        except BaseException:
            lock.close()
            raise
        store = cls(directory, merged, lock)
        store._begun = len(merged["sessions"]) == 1
        try:
            store._merge_old()
        except BaseException:
            store.close()
            raise
        return store

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
        """Merge what is left to merge, and let other processes write."""
        if self._lock is not None:
            self.merge()
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def withdraw(self) -> None:
        """Take back a store that this process has begun and has stored nothing in."""
        if self._begun and not self._paths():
            for name in ("study.json", headers.PLANNED):
                (self.directory / name).unlink(missing_ok=True)
            (self.directory / "blocks").rmdir()

    def note(self, **facts: Any) -> None:
        """Add facts, such as the seconds that it took, to what the header says of the present session."""
        if self._lock is None:
            raise ValueError("this store was opened to read")
        self.header["sessions"][-1] |= _jsonable(facts)
        headers.write(self.directory, self.header)

    def append(self, rows: Rows) -> Path:
        """Write rows (see `sweeps.store.parquet`) as one block, whole or not at all. Returns its path.

        Blocks of few rows are merged now and then; see `merge`. Raises `InvalidInput` if the disk refuses; nothing of
        the block is left then.
        """
        if self._lock is None:
            raise ValueError("this store was opened to read")
        table = parquet.typed(rows)
        path = self._write(table)
        if len(table) < MERGED_ROWS:
            self._small[path] = table
            if sum(map(len, self._small.values())) >= MERGED_ROWS:
                self.merge()
        return path

    def merge(self) -> None:
        """Put the blocks of few rows that were appended into one: thousands of files take long to read.

        The merged block is on disk before the others go, so that a kill leaves rows twice at worst, which count once;
        who reads meanwhile finds them in one place or the other. If the disk refuses, they stay as they are.
        """
        small, self._small = self._small, {}
        if len(small) < 2:
            return
        with contextlib.suppress(InvalidInput):
            merged = self._write(parquet.joined(small.values()))
            for path in small.keys() - {merged}:
                path.unlink(missing_ok=True)

    def _merge_old(self) -> None:
        """Merge small blocks that earlier sessions have left, if they are many."""
        paths = [path for path in self._paths() if path.stat().st_size < _SMALL_BYTES]
        if len(paths) < _MANY:
            return
        for path in paths:
            self._small[path] = parquet.decode(path)
            if sum(map(len, self._small.values())) >= MERGED_ROWS:
                self.merge()
        self.merge()

    def _write(self, table: pa.Table) -> Path:
        data = parquet.encode(table)
        name = parquet.name_of(data)
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
        return parquet.runs(self._tables(["arm", "run"]))

    def diverged(self) -> set[tuple[str, str]]:
        """Of which arms which stored runs have diverged."""
        tables = self._tables(["arm", "run", "diverged_step"])
        return parquet.runs(tables, "diverged_step")

    def read(self) -> "pd.DataFrame":
        """The long table: repeated rows once, in a fixed order.

        Swept paths that a block does not have as a column (an axis that was added later) are
        filled in from its configs.
        """
        return parquet.long(self._tables(), self.header.get("axes", {}))

    def _tables(self, columns: list[str] | None = None) -> list[pa.Table]:
        """Every block's table, in the order of names."""
        known: dict[Path, pa.Table] = {}
        with ThreadPoolExecutor(cores()) as pool:
            # Who writes may add or merge blocks meanwhile: what was read is whole if it is still what there is.
            while list(known) != (paths := self._paths()):
                new = [path for path in paths if path not in known]
                with contextlib.suppress(FileNotFoundError):
                    read = pool.map(lambda path: parquet.decode(path, columns), new)
                    known |= dict(zip(new, read, strict=True))
                    known = {path: known[path] for path in paths}
        return list(known.values())

    def _paths(self) -> list[Path]:
        return sorted((self.directory / "blocks").glob("[!.]*.parquet"))


def _jsonable(value: Any) -> Any:
    """See `testbed.config.jsonable`: it needs jax, which readers of a store do without."""
    from testbed import config

    return config.jsonable(value)


def study_directories(directory: Path) -> list[Path]:
    """Where the studies of a results directory are: itself, or directories in it, by name."""
    if (directory / "study.json").is_file():
        return [directory]
    return sorted(path.parent for path in directory.glob("*/study.json"))


def refuse_incomplete(directory: Path, table: "pd.DataFrame") -> None:
    """Raise `InvalidInput` if rows do not say of which run they are, when they were measured and whether it had
    diverged: whoever reads them needs that."""
    missing = [name for name in _WHOLE if name not in table.columns]
    if missing:
        raise InvalidInput(f"the results in {directory} lack the columns {', '.join(missing)}")
    gaps = [name for name in _WHOLE if bool(np.any(table[name].isna()))]
    if gaps:
        raise InvalidInput(f"the results in {directory} have gaps in the columns {', '.join(gaps)}")


def read_stores(directory: Path) -> "list[tuple[Store, pd.DataFrame]]":
    """The stores of a results directory that hold finished runs and can be read, by name, with their tables.

    Raises InvalidInput, with what is wrong with the first, if there are none; and if two of them hold the same study,
    whose pages and figures would overwrite each other's.
    """
    found, problems = [], []
    owners: dict[str, Path] = {}
    for place in study_directories(directory) or [directory]:
        try:
            store = Store.open(place)
            table = store.read()
            if not table.empty:
                refuse_incomplete(place, table)
                found.append((store, table))
        except InvalidInput as problem:
            problems.append(problem)
    for store, _ in found:
        name = store.header["study"]
        other = owners.setdefault(name, store.directory)
        if other != store.directory:
            raise InvalidInput(
                f"{other} and {store.directory} both hold study {name}: move one of them out of {directory}"
            )
    if not found:
        finish = f"{directory} holds no finished run: run the study again to finish one"
        raise problems[0] if problems else InvalidInput(finish)
    return found

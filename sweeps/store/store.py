"""Append-only results of a study in a directory: ``study.json`` and Parquet blocks.

There is one row per run and evaluation, and one file per finished chunk of runs. Files are written under a temporary
name, flushed to disk and renamed, and are named by their content; a process that is killed at any moment therefore
leaves only whole blocks. One process writes at a time; any number of processes may read.
"""

import contextlib
import io
from collections.abc import Collection, Mapping
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
#: Blocks with fewer rows are merged until there are as many: 10^4 runs then take a few dozen files.
MERGED_ROWS = 32_768
#: Many blocks with fewer bytes from an earlier session are merged too.
_SMALL_BYTES, _MANY = 2**20, 16
_OURS = {".lock", "study.json.tmp", headers.PLANNED, f"{headers.PLANNED}.tmp", heartbeat.FILE}


class Store:
    """Results in one directory. Use `create_or_open` to write, `open` to read."""

    def __init__(self, directory: Path, header: dict[str, Any], lock: io.IOBase | None) -> None:
        self.directory = directory
        self.header = header
        self._lock = lock
        self._small: dict[Path, pa.Table] = {}

    @classmethod
    def create_or_open(cls, directory: Path | str, header: Mapping[str, Any]) -> "Store":
        """A store to write to, new or existing; the caller closes it (it is a context manager).

        ``header`` is `Selection.describe` and `provenance.session` in one. An existing store must hold the same study
        with the same base config; seeds, axes and arms may grow, and the claims stay those that were stored first.
        Raises `InvalidInput` if the directory is in use, unwritable, or holds anything else.
        """
        directory = Path(directory)
        header = _jsonable(header)
        with contextlib.ExitStack() as opened:
            lock = opened.enter_context(files.lock(directory))
            try:
                header = cls._begin(directory, header)
            except OSError as problem:
                raise files.unwritable(directory, problem) from problem
            store = cls(directory, header, lock)
            store._merge_old()
            opened.pop_all()
        return store

    @staticmethod
    def _begin(directory: Path, header: Mapping[str, Any]) -> dict[str, Any]:
        """Write the header of this session, in a new or an existing store; return the whole header."""
        if (directory / "study.json").exists():
            header = headers.joined(directory, headers.read(directory), header)
        else:
            foreign = sorted({file.name for file in directory.iterdir()} - _OURS)
            if foreign:
                raise InvalidInput(
                    f"output directory {directory} is neither empty nor a store of results "
                    f"(it holds {foreign[0]}): choose another --out"
                )
            header = {"schema": headers.SCHEMA, **header, "sessions": [headers.session(header)]}
        headers.write_planned(directory, header)
        headers.write(directory, header)
        # The folder is made last: to the next session, blocks without `study.json` would be foreign files.
        (directory / "blocks").mkdir(exist_ok=True)
        files.settle(directory)
        for left_over in (directory / "blocks").glob(".*.tmp"):
            left_over.unlink()
        return header

    @classmethod
    def open(cls, directory: Path | str) -> "Store":
        """A store to read. Raises `InvalidInput` if there is no store, or if it has another schema."""
        directory = Path(directory)
        if not (directory / "study.json").is_file():
            raise InvalidInput(
                f"{directory} holds no results (no study.json): give the --out of a `testbed run`"
            )
        return cls(directory, headers.read(directory), None)

    def close(self) -> None:
        """Merge the remaining small blocks, and release the lock."""
        if self._lock is not None:
            self.merge()
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def withdraw(self) -> None:
        """Remove a store that this process has made and has stored nothing in."""
        if len(self.header["sessions"]) == 1 and not self._paths():
            for name in ("study.json", headers.PLANNED):
                (self.directory / name).unlink(missing_ok=True)
            (self.directory / "blocks").rmdir()

    def note(self, **facts: Any) -> None:
        """Add facts, such as the duration in seconds, to the present session in the header."""
        if self._lock is None:
            raise ValueError("this store was opened to read")
        self.header["sessions"][-1] |= _jsonable(facts)
        headers.write(self.directory, self.header)

    def keep(self, **facts: Any) -> None:
        """Replace facts about the study, such as the looks at its precision, in the header."""
        if self._lock is None:
            raise ValueError("this store was opened to read")
        self.header |= _jsonable(facts)
        headers.write(self.directory, self.header)

    def plan_further(self, header: Mapping[str, Any]) -> None:
        """Plan the runs of a larger ``header`` of the present session: more seeds, all else as in `create_or_open`.
        Raises `InvalidInput` if it does not fit the store."""
        if self._lock is None:
            raise ValueError("this store was opened to read")
        *earlier, present = self.header["sessions"]
        grown = headers.joined(self.directory, self.header, _jsonable(header))
        grown["sessions"] = [*earlier, {**present, **grown["sessions"][-1]}]
        headers.write_planned(self.directory, grown)
        headers.write(self.directory, grown)
        self.header = grown

    def append(self, rows: Rows) -> Path:
        """Write rows (see `sweeps.store.parquet`) as one block, whole or not at all. Returns its path.

        Small blocks are merged from time to time; see `merge`. Raises `InvalidInput` if the disk refuses; then no part
        of the block is left.
        """
        if self._lock is None:
            raise ValueError("this store was opened to read")
        table = parquet.typed(rows)
        path = self._write(table)
        if len(table) < MERGED_ROWS:
            self._collect(path, table)
        return path

    def _collect(self, path: Path, table: pa.Table) -> None:
        """Merge a small block with others as soon as their rows are enough."""
        self._small[path] = table
        if sum(map(len, self._small.values())) >= MERGED_ROWS:
            self.merge()

    def merge(self) -> None:
        """Merge the small blocks that were appended into one: thousands of files take long to read.

        The merged block is on disk before the others are removed. A kill therefore leaves, at worst, duplicate rows,
        which count once; a process that reads meanwhile finds the rows in one place or the other. If the disk refuses,
        the small blocks stay as they are.
        """
        small, self._small = self._small, {}
        if len(small) < 2:
            return
        with contextlib.suppress(InvalidInput):
            merged = self._write(parquet.joined(small.values()))
            for path in small.keys() - {merged}:
                path.unlink(missing_ok=True)

    def _merge_old(self) -> None:
        """Merge small blocks of earlier sessions, if there are many."""
        paths = [path for path in self._paths() if path.stat().st_size < _SMALL_BYTES]
        if len(paths) < _MANY:
            return
        for path in paths:
            self._collect(path, parquet.decode(path))
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
        """The stored runs as pairs of arm and run."""
        return self._distinct("arm", "run")

    def diverged(self) -> set[tuple[str, str]]:
        """The stored runs that diverged, as pairs of arm and run."""
        rows = self._distinct("arm", "run", "diverged_step")
        return {(arm, run) for arm, run, step in rows if step is not None and step >= 0}

    def _distinct(self, *names: str) -> set[tuple[Any, ...]]:
        return parquet.distinct(self._tables(list(names)), names)

    def read(self, by_prompt: bool = False) -> "pd.DataFrame":
        """The long table: repeated rows once, in a fixed order. ``by_prompt`` adds the outcomes by prompt, as they are
        stored (`sweeps.store.parquet.packed`).

        If a block has no column for a swept path (the axis was added later), the values are taken from the block's
        configs.
        """
        tables = self._tables(without=() if by_prompt else parquet.VECTORS)
        return parquet.long(tables, self.header.get("axes", {}))

    def by_prompt(
        self, name: str, wanted: Collection[tuple[str, int]] | None = None
    ) -> dict[tuple[str, int], np.ndarray]:
        """The outcomes of a column of `testbed.metric_table.BY_PROMPT` by run and evaluation, each of shape (prompt,):
        those that are ``wanted``, by default all. Evaluations without them are left out."""
        return parquet.vectors(self._tables(["run", "evaluation", name]), name, wanted)

    def _tables(
        self, columns: list[str] | None = None, without: Collection[str] = ()
    ) -> list[pa.Table]:
        """Every block's table, in the order of names."""
        known: dict[Path, pa.Table] = {}
        with ThreadPoolExecutor(cores()) as pool:
            # A writer may add or merge blocks meanwhile: the read is complete when the list of blocks has not changed.
            while list(known) != (paths := self._paths()):
                new = [path for path in paths if path not in known]
                with contextlib.suppress(FileNotFoundError):
                    read = pool.map(lambda path: parquet.decode(path, columns, without), new)
                    known |= dict(zip(new, read, strict=True))
                    known = {path: known[path] for path in paths}
        return list(known.values())

    def _paths(self) -> list[Path]:
        return sorted((self.directory / "blocks").glob("[!.]*.parquet"))


def _jsonable(value: Any) -> Any:
    """See `testbed.config.jsonable`. The import happens here because jax is slow to import and readers do not need
    it."""
    from testbed import config

    return config.jsonable(value)


def study_directories(directory: Path) -> list[Path]:
    """The directories of the studies in a results directory: the directory itself, or its subdirectories, by name."""
    if (directory / "study.json").is_file():
        return [directory]
    return sorted(path.parent for path in directory.glob("*/study.json"))


def refuse_incomplete(directory: Path, table: "pd.DataFrame") -> None:
    """Raise `InvalidInput` if rows lack their run, the time of their measurement, or whether the run had diverged:
    every reader needs these columns."""
    missing = [name for name in _WHOLE if name not in table.columns]
    if missing:
        raise InvalidInput(f"the results in {directory} lack the columns {', '.join(missing)}")
    gaps = [name for name in _WHOLE if bool(np.any(table[name].isna()))]
    if gaps:
        raise InvalidInput(f"the results in {directory} have gaps in the columns {', '.join(gaps)}")


def read_stores(directory: Path) -> "list[tuple[Store, pd.DataFrame]]":
    """The stores of a results directory that hold finished runs and can be read, by name, with their tables.

    Raises InvalidInput, with the first store's error, if there are none; and if two stores hold the same study, because
    the pages and figures of one would overwrite those of the other.
    """
    readable, problems = [], []
    owners: dict[str, Path] = {}
    for place in study_directories(directory) or [directory]:
        try:
            store = Store.open(place)
            table = store.read()
            if not table.empty:
                refuse_incomplete(place, table)
                readable.append((store, table))
        except InvalidInput as problem:
            problems.append(problem)
    for store, _ in readable:
        name = store.header["study"]
        other = owners.setdefault(name, store.directory)
        if other != store.directory:
            raise InvalidInput(
                f"{other} and {store.directory} both hold study {name}: move one of them out of {directory}"
            )
    if not readable:
        finish = f"{directory} holds no finished run: run the study again to finish one"
        raise problems[0] if problems else InvalidInput(finish)
    return readable

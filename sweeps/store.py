"""Append-only results of a study in a directory: ``study.json`` and Parquet blocks.

One row per run and evaluation, one file per finished chunk of runs. Files are written under a
temporary name, flushed to disk and renamed, and are named by their content, so that a process
killed at any moment leaves whole blocks only. One process writes at a time; any number may read.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from testbed import config
from testbed.errors import InvalidInput

SCHEMA = 2

TEXTS = ("run", "study", "arm", "task")
COUNTS = (
    "seed",
    "step",
    "evaluation",
    "diverged_step",
    "prompts",
    "stack",
    "devices",
)
METRICS = (
    "kl",
    "kl_se",
    "win_rate",
    "win_rate_se",
    "golden_reward",
    "golden_reward_se",
    "proxy_reward",
    "proxy_win_rate",
    "data_accuracy",
    "self_accuracy",
    "winner_logprob_change",
    "loser_logprob_change",
    "entropy",
    "length",
    "policy_checksum",
    *(f"stream_accuracy_{window}" for window in range(1, 11)),
    "optimum_distance",
    "optimum_kl",
    "train_loss",
    "gradient_norm",
    "pairs_seen",
    "distinct_pairs",
    "labels_bought",
    "judgements",
    "tokens_sampled",
)
#: Columns that say what was measured, and when; the others say which run of which study it was.
MEASURED = frozenset({"run", *COUNTS, *METRICS} - {"seed"})
#: Prefix of the columns that hold measured facts about what a run stands on: its world, data and proxy.
FACTS = "ground."
_CONFIG = pa.dictionary(pa.int32(), pa.string())
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
        lock = _lock(directory)
        try:
            if (directory / "study.json").exists():
                merged = _joined(directory, _read_header(directory), header)
            else:
                foreign = sorted({file.name for file in directory.iterdir()} - _OURS)
                if foreign:
                    raise InvalidInput(
                        f"output directory {directory} is neither empty nor a store of results "
                        f"(it holds {foreign[0]}): choose another --out"
                    )
                merged = {"schema": SCHEMA, **header, "sessions": [_session(header)]}
            (directory / "blocks").mkdir(exist_ok=True)
            for left_over in (directory / "blocks").glob(".*.tmp"):
                left_over.unlink()
            _write_header(directory, merged)
        except OSError as problem:
            lock.close()
            raise _unwritable(directory, problem) from problem
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
        return cls(directory, _read_header(directory), None)

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
        _write_header(self.directory, self.header)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write rows as one block, whole or not at all. Returns its path.

        Raises `InvalidInput` if the disk refuses; nothing of the block is left then.
        """
        if self._lock is None:
            raise ValueError("this store was opened to read")
        table = _table(rows)
        buffer = io.BytesIO()
        floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
        others = [name for name in table.column_names if name not in floats]
        pq.write_table(
            table,
            buffer,
            compression="zstd",
            use_dictionary=others,  # type: ignore[arg-type]  (names are allowed, the stub says bool)
            use_byte_stream_split=floats,  # type: ignore[arg-type]
        )
        data = buffer.getvalue()
        name = hashlib.sha256(data).hexdigest()[:16]
        path = self.directory / "blocks" / f"{name}.parquet"
        try:
            _write(path, data, path.with_name(f".{name}.tmp"))
        except OSError as problem:
            raise _unwritable(self.directory, problem) from problem
        return path

    def finished(self) -> set[str]:
        """Ids of the runs whose rows are stored."""
        return {run for _, run in self.held()}

    def held(self) -> set[tuple[str, str]]:
        """Of which arms which runs are stored."""
        pairs: set[tuple[str, str]] = set()
        for block in self._blocks():
            columns = _read_block(block, ["arm", "run"])
            pairs.update(zip(*(columns.column(n).to_pylist() for n in ("arm", "run")), strict=True))
        return pairs

    def read(self) -> pd.DataFrame:
        """The long table: repeated rows once, in a fixed order.

        Swept paths that a block does not have as a column (an axis that was added later) are
        filled in from its configs.
        """
        blocks = self._blocks()
        if not blocks:
            return pd.DataFrame({name: [] for name in (*TEXTS, *COUNTS, "config", *METRICS)})
        table = pa.concat_tables(map(_read_block, blocks), promote_options="permissive")
        frame = table.unify_dictionaries().to_pandas(integer_object_nulls=True)
        key = ["arm", "seed", "run", "evaluation"]
        frame = frame.drop_duplicates(subset=key).sort_values(key, kind="stable", ignore_index=True)
        for path in self.header.get("axes", {}):
            frame[path] = _filled(frame, path)
        return frame

    def _blocks(self) -> list[Path]:
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


def value_in(described: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of a described config; a module gives its kind; None if absent."""
    value: Any = described
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value["kind"] if isinstance(value, Mapping) else value


def _filled(frame: pd.DataFrame, path: str) -> pd.Series:
    """The column of a swept path, with gaps filled from the configs."""
    values = list(frame[path]) if path in frame else [None] * len(frame)
    gaps = pd.isna(pd.Series(values, dtype=object)).to_numpy()
    known: dict[str, Any] = {}
    for row in gaps.nonzero()[0]:
        text = str(frame["config"].iat[row])
        if text not in known:
            known[text] = value_in(json.loads(text), path)
        values[row] = known[text]
    return pd.Series(values, index=frame.index, dtype=None if len(frame) else object)


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a typed table; a column that some rows lack has gaps."""
    names = dict.fromkeys(name for row in rows for name in row)
    missing = {"run", "arm", "seed", "evaluation", "config"} - names.keys()
    if missing:
        raise ValueError(f"rows lack the columns {sorted(missing)}")
    known = dict.fromkeys(TEXTS, pa.string()) | dict.fromkeys(COUNTS, pa.int64())
    known |= dict.fromkeys(METRICS, pa.float64()) | {"config": _CONFIG}
    columns = {}
    for name in names:
        values = [_plain(row.get(name)) for row in rows]
        kind = known.get(name)
        if kind is None and any(isinstance(value, float) for value in values):
            kind = pa.float64()
        columns[name] = pa.array(values, type=kind)
    return pa.table(columns)


def _plain(value: Any) -> Any:
    """A Python scalar for numpy's and jax's."""
    return value.item() if hasattr(value, "item") else value


def _read_block(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.ParquetFile(path).read(columns=columns)
    except (pa.ArrowInvalid, OSError) as problem:
        raise InvalidInput(
            f"block {path} of the results is damaged: delete it and run the same command again"
        ) from problem


def _read_header(directory: Path) -> dict[str, Any]:
    path = directory / "study.json"
    try:
        header = json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        raise InvalidInput(f"{path} is not readable as JSON: restore it or delete it") from problem
    schema = header.get("schema") if isinstance(header, dict) else None
    if schema != SCHEMA:
        raise InvalidInput(
            f"{path} has schema {schema}, this version reads and writes schema {SCHEMA}: "
            "use the version that wrote it, or another --out"
        )
    return header


def _write_header(directory: Path, header: Mapping[str, Any]) -> None:
    text = json.dumps(header, indent=2, allow_nan=False) + "\n"
    _write(directory / "study.json", text.encode(), directory / "study.json.tmp")


def _session(header: Mapping[str, Any]) -> dict[str, Any]:
    """What one invocation leaves of itself in the header."""
    names = ("preset", "seeds", "axes", "source", "versions", "machine", "created", "command")
    return {name: header[name] for name in names if name in header}


def _joined(directory: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The header of a store that a further invocation joins, or `InvalidInput`."""
    if old.get("study") != new.get("study"):
        raise InvalidInput(
            f"output directory {directory} holds study '{old.get('study')}', this command runs "
            f"'{new.get('study')}': choose another --out"
        )
    _refuse_difference(directory, "", _base(old), _base(new))
    for arm in sorted(old["arms"].keys() & new["arms"].keys()):
        _refuse_difference(directory, f"arm {arm}: ", old["arms"][arm], new["arms"][arm])
    was, now = old.get("planned", {}), new.get("planned", {})
    planned = {
        arm: list(dict.fromkeys([*was.get(arm, ()), *now.get(arm, ())])) for arm in {**was, **now}
    }
    return {
        **old,
        "planned": planned,
        "preset": new["preset"],
        "note": new.get("note", ""),
        "seeds": max(old["seeds"], new["seeds"]),
        "arms": {**old["arms"], **new["arms"]},
        "fixed": {**old.get("fixed", {}), **new.get("fixed", {})},
        "further": _united(old.get("further", {}), new.get("further", {})),
        "axes": _united(old["axes"], new["axes"]),
        "sessions": [*old.get("sessions", []), _session(new)],
    }


def _united(old: Mapping[str, list[Any]], new: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The items of either by name, each once: an axis's values, what an arm runs besides."""
    found = {name: list(items) for name, items in old.items()}
    for name, items in new.items():
        have = found.setdefault(name, [])
        have += [item for item in items if item not in have]
    return found


def _base(header: Mapping[str, Any]) -> dict[str, Any]:
    """The base config, with the settings of fields that only an arm's modules have."""
    settings = header.get("settings", {})
    beside = {path: settings[path] for path in settings if value_in(header["base"], path) is None}
    return {**header["base"], **beside}


def _leaves(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, Mapping):
        return {prefix.rstrip("."): data}
    leaves: dict[str, Any] = {}
    for name, value in data.items():
        leaves |= _leaves(value, prefix if name == "kind" else f"{prefix}{name}.")
    return leaves


def _refuse_difference(directory: Path, prefix: str, old: Any, new: Any) -> None:
    have, want = _leaves(old), _leaves(new)
    for path in sorted(have.keys() | want.keys()):
        if have.get(path) != want.get(path):
            raise InvalidInput(
                f"output directory {directory} holds runs with {prefix}{path}="
                f"{have.get(path, 'nothing')}, this command has {want.get(path, 'nothing')}: "
                "choose another --out"
            )


def _lock(directory: Path) -> io.IOBase:
    """The directory, made if need be, locked for this process."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / ".lock", "a+")  # noqa: SIM115 (held open: closing it unlocks)
    except OSError as problem:
        raise _unwritable(directory, problem) from problem
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        lock.close()
        raise InvalidInput(
            f"output directory {directory} is in use by another `testbed run`: wait for it, or "
            "choose another --out"
        ) from problem
    return lock


def _unwritable(directory: Path, problem: OSError) -> InvalidInput:
    reason = problem.strerror or str(problem)
    return InvalidInput(
        f"output directory {directory} cannot be written ({reason}): choose another --out"
    )


def _write(path: Path, data: bytes, temporary: Path) -> None:
    """Write all of a file or nothing, surviving a kill and a power cut."""
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

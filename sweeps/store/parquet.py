"""Results as Parquet: converts rows to typed tables, tables to blocks, and many blocks to one long table.

Rows are stored as columns: a mapping from a column's name to its values, with one entry per row. All columns have the
same length; each is a numpy array, an arrow array or a list. `None` and absent columns are gaps.
"""

import hashlib
import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sweeps.store.columns import ANSWERS, NAMED
from testbed.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd

#: Rows as columns; see the module's docstring.
Rows = Mapping[str, Any]

#: Columns of texts with few distinct values, of whole numbers, of all other numbers, and of vectors. A vector is stored
#: as the bytes of 16-bit floats (`packed`).
TEXTS, COUNTS, METRICS, VECTORS = (
    tuple(name for name, column in NAMED.items() if column.kind == kind and name != ANSWERS)
    for kind in ("text", "whole", "number", "vector")
)
_KINDS: dict[str, pa.DataType] = {
    **dict.fromkeys((*TEXTS, ANSWERS), pa.string()),
    **dict.fromkeys(COUNTS, pa.int64()),
    **dict.fromkeys(METRICS, pa.float64()),
    **dict.fromkeys(VECTORS, pa.binary()),
    "config": pa.dictionary(pa.int32(), pa.string()),
}
#: Every column that the store knows by name; other columns are swept paths and facts.
KNOWN = frozenset(_KINDS)
#: Columns of measured values and their times; the others identify the run and the study.
MEASURED = KNOWN - {"study", "arm", "task", "seed", "code", "config"}
_DICTIONARIES = [*TEXTS, "config"]
_ORDER = ("arm", "seed", "run", "evaluation")
_NEEDED = ("run", "arm", "seed", "evaluation", "config")


def column(name: str, values: Any) -> pa.Array:
    """Values as a typed array. The type follows from the column's name, else from the values; whole numbers among
    floating-point numbers become floating-point numbers."""
    kind = _KINDS.get(name)
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values if kind in (None, values.type) else values.cast(kind)
    if hasattr(values, "dtype") and np.asarray(values).dtype != object:
        values = np.asarray(values)
        if kind is None:
            kind = {"f": pa.float64(), "i": pa.int64()}.get(values.dtype.kind)
    elif kind != pa.string():
        values = [_plain(value) for value in values]
        if kind is None and any(isinstance(value, float) for value in values):
            kind = pa.float64()
    # pandas represents a missing text as NaN.
    return pa.array(values, type=kind, from_pandas=kind in (pa.string(), pa.binary()))


def packed(vector: np.ndarray) -> bytes:
    """A vector as it is stored: the bytes of 16-bit floats, the lower byte first."""
    return vector.astype("<f2", copy=False).tobytes()


def vectors(
    tables: Iterable[pa.Table], name: str, wanted: Collection[tuple[str, int]] | None = None
) -> dict[tuple[str, int], np.ndarray]:
    """The vectors of a column by run and evaluation, those that are ``wanted`` or all; rows without one are left out.
    Raises `InvalidInput` if a stored vector has half a number."""
    found: dict[tuple[str, int], np.ndarray] = {}
    for table in tables:
        if name not in table.column_names:
            continue
        runs, evaluations = (table.column(key).to_pylist() for key in ("run", "evaluation"))
        for row, key in enumerate(zip(runs, evaluations, strict=True)):
            if wanted is None or key in wanted:
                stored = table.column(name)[row].as_py()
                if stored is not None:
                    found[key] = _unpacked(stored, name)
    return found


def _unpacked(stored: bytes, name: str) -> np.ndarray:
    if len(stored) % 2:
        raise InvalidInput(
            f"the results hold {len(stored)} bytes in column {name}, which are no 16-bit floats"
        )
    return np.frombuffer(stored, "<f2").astype(np.float32)


def typed(rows: Rows) -> pa.Table:
    """Rows as a typed table. Raises `ValueError` for columns that are missing or of unequal length."""
    missing = [name for name in _NEEDED if name not in rows]
    if missing:
        raise ValueError(f"rows lack the columns {missing}")
    made = {name: column(name, values) for name, values in rows.items()}
    lengths = {name: len(values) for name, values in made.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns must be equally long, got {lengths}")
    return pa.table(made)


def _plain(value: Any) -> Any:
    """A numpy or jax scalar as a Python scalar."""
    return value.item() if hasattr(value, "item") else value


def encode(table: pa.Table) -> bytes:
    """A table as the contents of a Parquet file."""
    buffer = io.BytesIO()
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    others = [name for name in table.column_names if name not in floats and name not in VECTORS]
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        use_dictionary=others,  # type: ignore[arg-type]  (names are allowed, the stub says bool)
        use_byte_stream_split=floats,  # type: ignore[arg-type]
    )
    return buffer.getvalue()


def name_of(data: bytes) -> str:
    """The name of a block without its ending: a hash of its contents."""
    return hashlib.sha256(data).hexdigest()[:16]


def decode(path: Path, columns: list[str] | None = None, without: Collection[str] = ()) -> pa.Table:
    """A block's table, or some columns of it, or all ``without`` some, texts as dictionaries.

    Raises `InvalidInput` if the file cannot be read, is damaged or holds something else, `FileNotFoundError` if there
    is none. A third of files with a few wrong bits would be read as valid Parquet with other numbers; so a file whose
    name is not the hash of its contents is not read at all.
    """
    remedy = "delete it and run the same command again"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as problem:
        reason = problem.strerror or problem
        raise InvalidInput(f"block {path} of the results cannot be read ({reason})") from problem
    sound = name_of(data) == path.stem
    table = decoded(data, columns, _DICTIONARIES, without) if sound else None
    if table is None:
        raise InvalidInput(f"block {path} of the results is damaged: {remedy}")
    wrong = _misfit(table, columns)
    if wrong:
        raise InvalidInput(
            f"block {path} of the results is not as it was written ({wrong}): {remedy}"
        )
    return table


def decoded(
    data: bytes,
    columns: list[str] | None = None,
    dictionaries: Sequence[str] = (),
    without: Collection[str] = (),
) -> pa.Table | None:
    """The table of a Parquet file's contents, or some columns of it, or all ``without`` some; None if the contents are
    damaged, for which pyarrow raises errors of many kinds. ``dictionaries`` names the text columns to be read as
    dictionaries."""
    buffer = pa.BufferReader(data)
    try:
        there = pq.read_schema(buffer).names
        known = [name for name in dictionaries if name in there]
        if columns is None:
            columns = [name for name in there if name not in without]
        file = pq.ParquetFile(buffer, read_dictionary=known)
        table = file.read(columns=columns, use_threads=False)
        # Texts are also checked to be UTF-8; otherwise the error would come only when they are used.
        table.validate(full=True)
        return table
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError):
        return None


def _misfit(table: pa.Table, columns: list[str] | None) -> str | None:
    """The difference between a block's columns and the columns that `typed` makes; None if there is none."""
    names = table.column_names
    if len(set(names)) < len(names):
        return "two columns have one name"
    for name in _NEEDED if columns is None else [one for one in _NEEDED if one in columns]:
        if name not in names:
            return f"column {name} is missing"
        if table.column(name).null_count:
            return f"column {name} has gaps"
    for field in table.schema:
        kind, wanted = (_plain_kind(one) for one in (field.type, _KINDS.get(field.name)))
        if not (kind == wanted if wanted is not None else _is_scalar(kind)):
            return f"column {field.name} is of {kind}"
    return None


def _plain_kind(kind: pa.DataType | None) -> pa.DataType | None:
    """The type of a column's values, whether the column is a dictionary or not."""
    return kind.value_type if kind is not None and pa.types.is_dictionary(kind) else kind


def _is_scalar(kind: Any) -> bool:
    """Whether a column of this type may hold a swept path or a fact: texts, numbers, truth values, or only gaps."""
    kinds = pa.types
    checks = (kinds.is_string, kinds.is_integer, kinds.is_floating, kinds.is_boolean, kinds.is_null)
    return any(check(kind) for check in checks)


def joined(tables: Iterable[pa.Table]) -> pa.Table:
    """Tables of blocks as one table: repeated rows kept once, ordered by arm, seed, run and evaluation."""
    table = pa.concat_tables(map(_with_dictionaries, tables), promote_options="permissive")
    table = table.unify_dictionaries()
    keys = np.stack([_ranks(table.column(name)) for name in _ORDER])
    order = np.lexsort(keys[::-1])
    keys = keys[:, order]
    order = order[np.any(np.diff(keys, prepend=keys[:, :1] - 1), axis=0)]
    return pa.table({name: _taken(table.column(name), order) for name in table.column_names})


def distinct(tables: Iterable[pa.Table], names: Sequence[str]) -> set[tuple[Any, ...]]:
    """The different rows of some columns, in those tables of blocks that have the columns."""
    rows: set[tuple[Any, ...]] = set()
    for table in tables:
        if set(names) <= set(table.column_names):
            # Arrow's own grouping would import pandas, which is slow.
            columns = [table.column(name) for name in names]
            plain = [column.cast(_plain_kind(column.type)).to_pylist() for column in columns]
            rows.update(zip(*plain, strict=True))
    return rows


def _with_dictionaries(table: pa.Table) -> pa.Table:
    """A table whose columns of `TEXTS` are dictionaries, as `decode` makes them."""
    for number, name in enumerate(table.column_names):
        if name in TEXTS and not pa.types.is_dictionary(table.schema.field(name).type):
            values = table.column(name).dictionary_encode()
            table = table.set_column(number, name, values)
    return table


def _ranks(values: pa.ChunkedArray) -> np.ndarray:
    """Whole numbers with the order and equality of a column, which holds whole numbers, or texts as a dictionary."""
    if not pa.types.is_dictionary(values.type):
        return values.to_numpy()
    array = values.combine_chunks()
    rank = np.empty(len(array.dictionary), np.int64)
    rank[pc.call_function("array_sort_indices", [array.dictionary])] = np.arange(len(rank))
    return rank[array.indices]


def _taken(values: pa.ChunkedArray, order: np.ndarray) -> pa.Array | pa.ChunkedArray:
    """Rows of a column in the given order; for numbers, numpy is several times as fast as arrow."""
    if values.null_count or not (
        pa.types.is_floating(values.type) or pa.types.is_integer(values.type)
    ):
        return values.combine_chunks().take(pa.array(order))
    return pa.array(values.to_numpy()[order])


def long(tables: Iterable[pa.Table], axes: Iterable[str]) -> "pd.DataFrame":
    """Blocks as the long table: repeated rows kept once, ordered by arm, seed, run and evaluation; gaps in ``axes`` are
    filled from configs where possible."""
    # Importing pandas is slow, and readers of single columns do not need it.
    import pandas as pd

    tables = list(tables)
    if not tables:
        return pd.DataFrame({name: [] for name in (*TEXTS, *COUNTS, "config", *METRICS)})
    table = joined(tables)
    del tables
    for number, name in enumerate(table.column_names):
        if name in TEXTS:
            table = table.set_column(number, name, table.column(name).cast(pa.string()))
    frame = table.to_pandas(integer_object_nulls=True, split_blocks=True)
    described: dict[int, Any] = {}
    for path in axes:
        frame[path] = _filled(frame, path, described)
    return frame


def config_in(text: Any) -> Mapping[str, Any]:
    """A run's config, as described data, from JSON text. Raises `InvalidInput` if the text is not a config."""
    shown = str(text)[:60]
    try:
        described = json.loads(text)
    except (ValueError, TypeError, RecursionError) as problem:
        raise InvalidInput(f"the results hold a config that is not JSON: {shown}") from problem
    if not isinstance(described, Mapping):
        raise InvalidInput(f"the results hold a config that is no object: {shown}")
    return described


def value_in(described: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of a described config; for a module its kind; None if absent."""
    value: Any = described
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value["kind"] if isinstance(value, Mapping) else value


def _filled(frame: "pd.DataFrame", path: str, described: dict[int, Any]) -> "pd.Series":
    """The column of a swept path, with gaps filled from the configs; ``described`` keeps the configs that were read."""
    import pandas as pd

    column: Any = frame[path] if path in frame else pd.Series(None, frame.index, dtype=object)
    gaps = column.isna().to_numpy()
    configs = frame["config"].cat
    codes = np.asarray(configs.codes)[gaps]
    values_of: dict[int, Any] = {}
    for code in np.unique(codes).tolist():
        if code not in described:
            described[code] = config_in(configs.categories[code])
        values_of[code] = value_in(described[code], path)
    if column.dtype != object and all(value is None for value in values_of.values()):
        return column
    values = column.astype(object).to_numpy(copy=True)
    values[gaps] = [values_of[code] for code in codes.tolist()]
    return pd.Series(values.tolist(), index=frame.index, dtype=None if len(frame) else object)

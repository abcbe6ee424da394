"""Results as Parquet: rows to typed tables, tables to blocks, many blocks to one long table.

Rows are columns: a mapping from a column's name to its values, one entry a row and as many in every
column, each a numpy array, an arrow array or a list. `None` and absent columns are gaps.
"""

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from testbed.errors import InvalidInput

#: See above.
Rows = Mapping[str, Any]

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
_KINDS: dict[str, pa.DataType] = {
    **dict.fromkeys(TEXTS, pa.string()),
    **dict.fromkeys(COUNTS, pa.int64()),
    **dict.fromkeys(METRICS, pa.float64()),
    "config": _CONFIG,
}
_NEEDED = ("run", "arm", "seed", "evaluation", "config")


def columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows given one by one as columns; what some rows lack is a gap."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def column(name: str, values: Any) -> pa.Array:
    """Values as a typed array: by the column's name, or by what they are, whole numbers among others as numbers."""
    kind = _KINDS.get(name)
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values if kind in (None, values.type) else values.cast(kind)
    if hasattr(values, "dtype") and np.asarray(values).dtype != object:
        values = np.asarray(values)
        if kind is None and values.dtype.kind == "f":
            kind = pa.float64()
    else:
        values = [_plain(value) for value in values]
        if kind is None and any(isinstance(value, float) for value in values):
            kind = pa.float64()
    return pa.array(values, type=kind)


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
    """A Python scalar for numpy's and jax's."""
    return value.item() if hasattr(value, "item") else value


def encode(table: pa.Table) -> bytes:
    """A table as the contents of a Parquet file."""
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
    return buffer.getvalue()


def decode(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A block's table, or some columns of it. Raises `InvalidInput` if the file is damaged."""
    try:
        return pq.ParquetFile(path).read(columns=columns)
    except (pa.ArrowInvalid, OSError) as problem:
        raise InvalidInput(
            f"block {path} of the results is damaged: delete it and run the same command again"
        ) from problem


def long(tables: Iterable[pa.Table], axes: Iterable[str]) -> pd.DataFrame:
    """Blocks as one table: repeated rows once, ordered by arm, seed, run and evaluation, and without gaps in ``axes``
    that configs can fill."""
    tables = list(tables)
    if not tables:
        return pd.DataFrame({name: [] for name in (*TEXTS, *COUNTS, "config", *METRICS)})
    table = pa.concat_tables(tables, promote_options="permissive")
    frame = table.unify_dictionaries().to_pandas(integer_object_nulls=True)
    key = ["arm", "seed", "run", "evaluation"]
    frame = frame.drop_duplicates(subset=key).sort_values(key, kind="stable", ignore_index=True)
    for path in axes:
        frame[path] = _filled(frame, path)
    return frame


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

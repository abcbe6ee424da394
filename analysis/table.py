"""The results as one table for other programs: a row per run and evaluation, for all studies of a directory."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.load import Results, Table, load_all
from sweeps.store import columns, files
from sweeps.store.store import Store
from testbed.errors import InvalidInput, unknown
from testbed.metric_table import BY_PROMPT

FORMS = ("parquet", "csv")


def evaluations(
    directory: Path,
    opened: Sequence[tuple[Store, Any]] = (),
    configs: bool = False,
    by_prompt: bool = False,
) -> Table:
    """Every planned run's evaluations, with the columns of `sweeps.store.columns` in their order; columns that a study
    did not measure are NaN.

    ``opened`` are stores as `sweeps.store.store.read_stores` has read them, ``configs`` keeps each run's whole config,
    ``by_prompt`` adds the outcomes by prompt as arrays. Raises InvalidInput if the directory holds no finished run.
    """
    parts = [
        _with_vectors(study, by_prompt).drop(columns=[] if configs else "config", errors="ignore")
        for study in load_all(directory, opened).studies
    ]
    table = pd.concat(
        [part.astype({"config": str}) if configs else part for part in parts], ignore_index=True
    )
    table = table[columns.ordered(list(table.columns))].copy()
    for name in [name for name in table if table[name].dtype == np.dtype(object)]:
        table[name] = _of_one_kind(table[name])
    return table


def _with_vectors(study: Results, by_prompt: bool) -> Table:
    """A study's table, with its outcomes by prompt if they are wanted; None where a run did not keep them."""
    table = study.table
    for column in BY_PROMPT if by_prompt else ():
        vectors = study.by_prompt(column.name)
        keys = zip(table["run"], table["evaluation"], strict=True)
        cells = pd.Series([vectors.get(key) for key in keys], index=table.index, dtype=object)
        table = table.assign(**{column.name: cells})
    return table


def _of_one_kind(column: Any) -> Any:
    """Values of one type, as files require: text if studies have swept a path over values of different types."""
    kinds = {type(value) for value in column[column.notna()]}
    if len(kinds) < 2 or kinds <= {int, float}:
        return column
    return column.map(lambda value: None if value is None or value != value else str(value))


def write(table: Table, path: Path, form: str | None = None) -> None:
    """Write a table as Parquet, with the meaning of each column in its metadata, or as CSV. ``form`` is that of the
    path's suffix by default. Raises InvalidInput for another form, for outcomes by prompt as CSV, or if the disk
    refuses."""
    form = form or path.suffix.removeprefix(".").lower()
    if form not in FORMS:
        raise unknown("format", form, FORMS)
    if form == "csv" and any(column.name in table for column in BY_PROMPT):
        raise InvalidInput("--by-prompt needs --format parquet: a cell of CSV holds one number")
    if form == "csv":
        data = table.to_csv(index=False).encode()
    else:
        buffer = io.BytesIO()
        arrow = _described(pa.Table.from_pandas(table, preserve_index=False))
        pq.write_table(arrow, buffer, compression="zstd")
        data = buffer.getvalue()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, data, path.with_name(f".{path.name}.tmp"))
    except OSError as problem:
        raise files.refused(path, problem) from problem


def _described(table: pa.Table) -> pa.Table:
    fields = [
        field.with_metadata({"description": columns.MEANINGS[field.name]})
        if field.name in columns.MEANINGS
        else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields, metadata=table.schema.metadata))

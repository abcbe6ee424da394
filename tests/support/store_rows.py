"""Rows of results that tests write one by one."""

from collections.abc import Iterable, Mapping
from typing import Any


def columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns; values that some rows lack are gaps."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}

"""Results as JSON, CSV and Markdown."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def as_json(data: Any) -> str:
    """JSON-able data; raises ValueError for numbers that are not finite, which JSON does not have."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """One line per row; other keys of a row than the columns are left out, None is empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def safe(text: str) -> str:
    """Text that stays inside its cell of a Markdown table and is not read as markup."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in "|*_`[]" else letter for letter in plain)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown; cells must be `safe` already."""
    lines = [header, *rows]
    cells = [f"| {' | '.join(line)} |" for line in lines]
    return [cells[0], f"|{'---|' * len(header)}", *cells[1:]]

"""Directories of TensorBoard's logs: their names, and files that say what the names stand for."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeps.store.file_names import file_name, told_apart

#: File in each directory of logs: what each log's name stands for.
NAMES = "names.json"

Meaning = dict[str, Any]
"""The content of a log: values by path, with the arm, and with study, seed and run if there are any."""


def labels(
    paths: Sequence[str], settings: Sequence[tuple[Any, ...]], taken: Sequence[str] = ()
) -> list[str]:
    """A directory for each of some settings, which are values of ``paths``: the arm, which comes first, then the other
    values under their shortest unambiguous names. All directories differ from each other and from those in ``taken``.

    A name that is long, or has characters that a path may not have, ends in a hash of the whole; see
    `sweeps.store.file_names`.
    """
    settings = [tuple(map(_one, setting)) for setting in settings]
    last = [path.rpartition(".")[2] for path in paths]
    short = [end if last.count(end) == 1 else path for path, end in zip(paths, last, strict=True)]

    def named(setting: tuple[Any, ...]) -> str:
        arm = file_name(str(setting[0]))
        rest = ",".join(
            f"{name}={value_text(value)}"
            for name, value in zip(short[1:], setting[1:], strict=True)
        )
        return f"{arm}/{file_name(rest)}" if rest else arm

    return told_apart(list(map(named, settings)), settings, taken)


def run_labels(paths: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A directory for each of some runs: the directory of its setting, and in it one for its seed."""
    settings = [tuple(_one(row[path]) for path in paths) for row in rows]
    distinct = list(dict.fromkeys(settings))
    known = dict(zip(distinct, labels(paths, distinct), strict=True))
    names = [
        f"{known[setting]}/seed={file_name(value_text(row['seed']))}"
        for setting, row in zip(settings, rows, strict=True)
    ]
    return told_apart(names, [str(row["run"]) for row in rows])


def _one(value: Any) -> Any:
    """A Python value, with the same NaN object for every NaN: a tuple that holds it is equal to itself."""
    value = value.item() if hasattr(value, "item") else value
    return math.nan if value != value else value


def value_text(value: Any) -> str:
    """A value in the fewest digits that distinguish it from its neighbours."""
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value or math.isnan(value) else repr(float(value))


def meaning(row: Mapping[str, Any], paths: Iterable[str]) -> Meaning:
    """What a log's name stands for, as JSON-able data: numbers that JSON lacks, and other objects, as text."""
    return {path: _plain(row[path]) for path in paths}


def _plain(value: Any) -> Any:
    value = _one(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def write_names(root: Path, names: Mapping[str, Meaning]) -> None:
    """Write the contents of the logs below a directory, by their paths in it."""
    text = json.dumps(names, indent=2, ensure_ascii=True, allow_nan=False)
    (root / NAMES).write_text(text + "\n", encoding="utf-8")


def page(names: Mapping[str, Meaning]) -> str | None:
    """A Markdown table of the names that do not explain themselves; None if all names do."""
    rows = [
        f"| `{name}` | {', '.join(f'`{path}={value}`' for path, value in contents.items())} |"
        for name, contents in names.items()
        if "~" in name
    ]
    return "\n".join(["| log | what it holds |", "|---|---|", *rows]) if rows else None

"""What `study.json` says: the study as it was planned, and the sessions that ran it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sweeps import blocks, files
from sweeps.blocks import value_in
from testbed.errors import InvalidInput

#: 3: the ids of the planned runs are in a file of their own. Stores of schema 2, which had them in `study.json`, can be
#: read, and joined, which makes them ones of schema 3.
SCHEMA = 3
_READABLE = (2, SCHEMA)
#: Arm and id of every planned run; `study.json` says how many they are.
PLANNED = "planned.parquet"


def read(directory: Path) -> dict[str, Any]:
    """The header of a store: what `study.json` says, with the ids of the planned runs by arm.

    Raises `InvalidInput` if it is unreadable or of another schema.
    """
    path = directory / "study.json"
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise InvalidInput(
            f"{path} is not readable as JSON: restore it, or choose another --out"
        ) from problem
    schema = header.get("schema") if isinstance(header, dict) else None
    if schema not in _READABLE:
        raise InvalidInput(
            f"{path} has schema {schema}, this version reads and writes schema {SCHEMA}: "
            "use the version that wrote it, or another --out"
        )
    if schema == SCHEMA and "planned" in header:
        header["planned"] = _read_planned(directory / PLANNED, header["planned"])
    return header


def write(directory: Path, header: Mapping[str, Any]) -> None:
    """Replace what `study.json` says, but not the ids of the planned runs; see `write_planned`."""
    if "planned" in header:
        header = {**header, "planned": {arm: len(ids) for arm, ids in header["planned"].items()}}
    text = json.dumps(header, indent=2, allow_nan=False) + "\n"
    files.write(directory / "study.json", text.encode(), directory / "study.json.tmp")


def write_planned(directory: Path, header: Mapping[str, Any]) -> None:
    """Replace the ids of the planned runs. To be called before `write`: ids too many do less harm than ids too few."""
    if "planned" in header:
        planned = header["planned"]
        counts = [len(ids) for ids in planned.values()]
        arms = pa.array(list(planned), pa.string()).take(np.repeat(np.arange(len(counts)), counts))
        runs = [run for ids in planned.values() for run in ids]
        data = blocks.encode(pa.table({"arm": arms, "run": pa.array(runs, pa.string())}))
        files.write(directory / PLANNED, data, directory / f"{PLANNED}.tmp")


def _read_planned(path: Path, arms: Iterable[str]) -> dict[str, list[str]]:
    try:
        table = pq.ParquetFile(blocks.mapped(path)).read()
    except (pa.ArrowInvalid, OSError) as problem:
        raise InvalidInput(
            f"{path} is not readable: restore it, or choose another --out"
        ) from problem
    planned: dict[str, list[str]] = {arm: [] for arm in arms}
    for arm, run in zip(*(column.to_pylist() for column in table.columns), strict=True):
        planned.setdefault(arm, []).append(run)
    return planned


def session(header: Mapping[str, Any]) -> dict[str, Any]:
    """What one invocation leaves of itself in the header."""
    names = ("preset", "seeds", "axes", "source", "versions", "machine", "created", "command")
    return {name: header[name] for name in names if name in header}


def joined(directory: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
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
        "schema": SCHEMA,
        "planned": planned,
        "preset": new["preset"],
        "note": new.get("note", ""),
        "seeds": max(old["seeds"], new["seeds"]),
        "arms": {**old["arms"], **new["arms"]},
        "fixed": {**old.get("fixed", {}), **new.get("fixed", {})},
        "further": _united(old.get("further", {}), new.get("further", {})),
        "axes": _united(old["axes"], new["axes"]),
        "sessions": [*old.get("sessions", []), session(new)],
    }


def _united(old: Mapping[str, list[Any]], new: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The items of either by name, each once: an axis's values, what an arm runs besides."""
    found = {name: list(items) for name, items in old.items()}
    for name, items in new.items():
        have = found.setdefault(name, [])
        known = set(map(_hashable, have))
        have += [item for item in items if _hashable(item) not in known]
    return found


def _hashable(item: Any) -> Any:
    return frozenset(item.items()) if isinstance(item, Mapping) else item


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


def _differing(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """What two described configs, or parts of them, have otherwise, by path: the value of each, None if it has none."""
    have, want = _leaves(old), _leaves(new)
    paths = sorted(have.keys() | want.keys())
    return {
        path: (have.get(path), want.get(path)) for path in paths if have.get(path) != want.get(path)
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """In what two headers plan other runs: preset, seeds, fields of the base config, arms and their settings, values of
    axes; by name, what each has, None for nothing."""
    found = {
        name: (old.get(name), new.get(name))
        for name in ("study", "preset", "seeds")
        if old.get(name) != new.get(name)
    }
    found |= _differing(_base(old), _base(new))
    for part in ("arms", "axes", "fixed", "further"):
        was, now = old.get(part, {}), new.get(part, {})
        for name in sorted(was.keys() | now.keys()):
            one, other = was.get(name), now.get(name)
            if one == other:
                continue
            if part == "arms" and one is not None and other is not None:
                found |= {f"arm {name}: {k}": v for k, v in _differing(one, other).items()}
            else:
                words = {"axes": f"axis {name}", "arms": f"arm {name}"}
                found[words.get(part, f"arm {name}: {part}")] = (one, other)
    return found


def _refuse_difference(directory: Path, prefix: str, old: Any, new: Any) -> None:
    for path, (have, want) in _differing(old, new).items():
        have, want = ("nothing" if value is None else value for value in (have, want))
        raise InvalidInput(
            f"output directory {directory} holds runs with {prefix}{path}={have}, this command has {want}: "
            "choose another --out"
        )

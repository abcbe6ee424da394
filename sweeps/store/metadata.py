"""The content of `study.json`: the study as it was planned, and the sessions that ran it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sweeps.seeds import seeds_from, stored_seeds
from sweeps.store import files, json_files, parquet
from sweeps.store.json_files import SCALAR
from sweeps.store.parquet import value_in
from testbed.errors import InvalidInput

#: 3: the ids of the planned runs are in a separate file. Stores of schema 2, which had them in `study.json`, can be
#: read and joined; joining converts them to schema 3.
SCHEMA = 3
_READABLE = (2, SCHEMA)
#: Arm and id of every planned run; `study.json` holds the number of runs.
PLANNED = "planned.parquet"
#: Key in `study.json`: hashes of the file with the planned runs. While the file is being replaced, there are two
#: hashes, of the old and of the new file.
_HASHES = "planned_files"
#: A number of seeds from 0 on, or the first seed and the end (`sweeps.seeds`).
_SEEDS = (int, [int])

#: A command's request, from which `sweeps.api.request` makes the same runs; earlier versions stored only its text.
_ASKED: json_files.Shape = {
    "study": str,
    "preset": str,
    "seeds": _SEEDS,
    "settings": {str: str},
    "axes": {str: [str]},
}
_MADE_BY: json_files.Shape = {
    "source?": str,
    "versions?": {str: str},
    "machine?": {str: SCALAR},
    "numerics?": dict,
    "bits?": dict,
    "content?": {str: {str: str}},
    "created?": str,
    "command?": (str, None),
    "asked?": _ASKED,
}
_SESSION: json_files.Shape = {
    **_MADE_BY,
    "preset?": str,
    "seeds?": _SEEDS,
    "axes?": {str: [SCALAR]},
    "seconds?": float,
}
_SETTINGS: json_files.Shape = {str: (*SCALAR, list)}
#: Points of every claim, or by claim.
_POINTS: json_files.Shape = (float, {str: float})
#: The half width of a test's interval at a look, in its unit and in points.
_WIDTH: json_files.Shape = {
    **dict.fromkeys(("claim", "task", "effect", "unit"), str),
    "test": int,
    **dict.fromkeys(("half_width", "points"), float),
}
#: How a study grew (`sweeps.api.precision`): what was asked for last, why it ended (null: it did not), and every look.
_PRECISION: json_files.Shape = {
    "points": _POINTS,
    "max_worlds": int,
    "minutes": (float, None),
    "ended": (str, None),
    "looks": [{"worlds": int, "points": _POINTS, "widths": [_WIDTH]}],
}
#: The required content of `study.json`, as far as it is read; see `Selection.describe` and `provenance.session`.
_SHAPE: json_files.Shape = {
    **_MADE_BY,
    "study": str,
    "preset": str,
    "seeds": _SEEDS,
    "base": dict,
    "arms": {str: _SETTINGS},
    "axes": {str: [SCALAR]},
    "claims": [dict],
    "sessions": [_SESSION],
    "settings?": _SETTINGS,
    "fixed?": {str: _SETTINGS},
    "further?": {str: [{str: SCALAR}]},
    "planned?": ({str: int}, {str: [str]}),
    "strata?": [str],
    "title?": str,
    "question?": str,
    "background?": str,
    "note?": str,
    "file?": (str, None),
    "precision?": _PRECISION,
    f"{_HASHES}?": [str],
}


def read(directory: Path) -> dict[str, Any]:
    """The header of a store: the content of `study.json`, with the ids of the planned runs by arm.

    Raises `InvalidInput` if it is unreadable or of another schema.
    """
    path, remedy = directory / "study.json", "restore it, or choose another --out"
    header = json_files.read(path, (dict, list, *SCALAR), remedy)
    schema = header.get("schema") if isinstance(header, dict) else None
    if schema not in _READABLE:
        raise InvalidInput(
            f"{path} has schema {schema}, this version reads and writes schema {SCHEMA}: "
            "use the version that wrote it, or another --out"
        )
    wrong = _misfit(header)
    if wrong is not None:
        raise InvalidInput(f"{path} is not as it was written ({wrong}): {remedy}")
    if schema == SCHEMA and "planned" in header:
        header["planned"] = _read_planned(directory / PLANNED, header)
    return header


def _misfit(header: Mapping[str, Any]) -> str | None:
    """The error in the content of a `study.json` with a readable schema; None if there is no error."""
    wrong = json_files.misfit(header, _SHAPE)
    if wrong is not None:
        return wrong
    try:
        seeds_from(header["seeds"])
    except InvalidInput as problem:
        return str(problem)
    if not header["sessions"]:
        return "sessions is empty"
    wanted = int if header["schema"] == SCHEMA else list
    if not all(isinstance(one, wanted) for one in header.get("planned", {}).values()):
        return "planned is of another schema"
    return None


def write(directory: Path, header: Mapping[str, Any]) -> None:
    """Replace the content of `study.json`, but not the ids of the planned runs; see `write_planned`."""
    if "planned" in header:
        header = {**header, "planned": {arm: len(ids) for arm, ids in header["planned"].items()}}
    _replace(directory, header)


def _replace(directory: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    files.write(directory / "study.json", text.encode(), directory / "study.json.tmp")


def write_planned(directory: Path, header: dict[str, Any]) -> None:
    """Replace the ids of the planned runs, and add the hash of their file to the header. Call this function before
    `write`: superfluous ids do less harm than missing ids."""
    if "planned" in header:
        planned = header["planned"]
        counts = [len(ids) for ids in planned.values()]
        arms = pa.array(list(planned), pa.string()).take(np.repeat(np.arange(len(counts)), counts))
        runs = [run for ids in planned.values() for run in ids]
        data = parquet.encode(pa.table({"arm": arms, "run": pa.array(runs, pa.string())}))
        header[_HASHES] = [parquet.name_of(data)]
        _announce(directory, header[_HASHES])
        files.write(directory / PLANNED, data, directory / f"{PLANNED}.tmp")


def _announce(directory: Path, hashes: list[str]) -> None:
    """Let the present `study.json` accept another file of planned runs beside its present one: a process that is killed
    between the two writes leaves a readable store."""
    path = directory / "study.json"
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        known = stored.get(_HASHES, [])
        if known and not set(hashes) <= set(known):
            stored[_HASHES] = [*known, *hashes]
            _replace(directory, stored)


def _read_planned(path: Path, header: Mapping[str, Any]) -> dict[str, list[str]]:
    """The planned runs by arm. Stores of earlier versions have no hash of the file."""
    remedy = "restore it, or choose another --out"
    try:
        data = path.read_bytes()
    except OSError as problem:
        reason = problem.strerror or problem
        raise InvalidInput(f"{path} is not readable: {remedy} ({reason})") from problem
    hashes = header.get(_HASHES)
    damaged = hashes is not None and parquet.name_of(data) not in hashes
    table = None if damaged else parquet.decoded(data)
    if table is None:
        raise InvalidInput(f"{path} is not readable: {remedy}")
    texts = all(pa.types.is_string(field.type) for field in table.schema)
    gaps = any(column.null_count for column in table.columns)
    if table.column_names != ["arm", "run"] or not texts or gaps:
        raise InvalidInput(f"{path} must have an arm and a run in each row: {remedy}")
    planned: dict[str, list[str]] = {arm: [] for arm in header["planned"]}
    for arm, run in zip(*(column.to_pylist() for column in table.columns), strict=True):
        planned.setdefault(arm, []).append(run)
    return planned


def session(header: Mapping[str, Any]) -> dict[str, Any]:
    """The record of one invocation in the header."""
    names = [key.removesuffix("?") for key in _SESSION]
    return {name: header[name] for name in names if name in header}


def joined(directory: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The header of a store after a further invocation. Raises `InvalidInput` if the invocation does not fit the
    store."""
    if old.get("study") != new.get("study"):
        raise InvalidInput(
            f"output directory {directory} holds study '{old.get('study')}', this command runs "
            f"'{new.get('study')}': choose another --out"
        )
    _refuse_difference(directory, "", _base(old), _base(new))
    for arm in sorted(old["arms"].keys() & new["arms"].keys()):
        _refuse_difference(directory, f"arm {arm}: ", old["arms"][arm], new["arms"][arm])
        _refuse_other_content(directory, arm, old, new)
    was, now = old.get("content", {}), new.get("content", {})
    return {
        **old,
        "schema": SCHEMA,
        "planned": _united(old.get("planned", {}), new.get("planned", {})),
        "preset": new["preset"],
        "note": new.get("note", ""),
        "seeds": stored_seeds(_joined_seeds(directory, old, new)),
        "arms": {**old["arms"], **new["arms"]},
        "content": {arm: {**was.get(arm, {}), **now.get(arm, {})} for arm in {**was, **now}},
        "fixed": {**old.get("fixed", {}), **new.get("fixed", {})},
        "further": _united(old.get("further", {}), new.get("further", {})),
        "axes": _united(old["axes"], new["axes"]),
        "sessions": [*old.get("sessions", []), session(new)],
    }


def _refuse_other_content(
    directory: Path, arm: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
    """Refuse to add runs of an arm to runs that were made with other user code or other prompts: both would be one arm
    under one verdict. An arm may later depend on further files, or on fewer files."""
    was, now = (header.get("content", {}).get(arm, {}) for header in (old, new))
    changed = sorted(name for name in was.keys() & now.keys() if was[name] != now[name])
    if not changed and not (was.keys() <= now.keys() or now.keys() <= was.keys()):
        changed = sorted(was.keys() ^ now.keys())
    # If an arm depended on no file, the same run ids may now be planned with a user's class of the same name.
    if not changed and now and not was:
        changed = sorted(now)
    if changed:
        raise InvalidInput(
            f"output directory {directory} holds runs of arm {arm} that were made with another content of "
            f"{', '.join(changed)}: choose another --out, or restore what they were made with"
        )


def _united(old: Mapping[str, list[Any]], new: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The items of both by name, each item once: planned runs, an axis's values, an arm's additional settings."""
    united = {name: list(items) for name, items in old.items()}
    for name, items in new.items():
        have = united.setdefault(name, [])
        known = set(map(_hashable, have))
        have += [item for item in items if _hashable(item) not in known]
    return united


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
    """The differences between two described configs, or parts of them, by path: both values, None if absent."""
    have, want = _leaves(old), _leaves(new)
    paths = sorted(have.keys() | want.keys())
    return {
        path: (have.get(path), want.get(path)) for path in paths if have.get(path) != want.get(path)
    }


def _joined_seeds(directory: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> range:
    """The seeds of both headers. Raises `InvalidInput` if they do not begin at one seed: results on other seeds are a
    replication, which stands in a directory of its own."""
    was, now = seeds_from(old["seeds"]), seeds_from(new["seeds"])
    if was.start != now.start:
        raise InvalidInput(
            f"output directory {directory} holds the seeds {was.start}:{was.stop}, this command runs "
            f"{now.start}:{now.stop}: choose another --out"
        )
    return max(was, now, key=len)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The differences between two headers that change the planned runs: preset, seeds, fields of the base config, arms
    and their settings, values of axes; by name, the two values, None if absent."""
    differing = {
        name: (old.get(name), new.get(name))
        for name in ("study", "preset", "seeds")
        if old.get(name) != new.get(name)
    }
    differing |= _differing(_base(old), _base(new))
    for part in ("arms", "axes", "fixed", "further"):
        was, now = old.get(part, {}), new.get(part, {})
        for name in sorted(was.keys() | now.keys()):
            one, other = was.get(name), now.get(name)
            if one == other:
                continue
            if part == "arms" and one is not None and other is not None:
                differing |= {f"arm {name}: {k}": v for k, v in _differing(one, other).items()}
            else:
                words = {"axes": f"axis {name}", "arms": f"arm {name}"}
                differing[words.get(part, f"arm {name}: {part}")] = (one, other)
    return differing


def _refuse_difference(directory: Path, prefix: str, old: Any, new: Any) -> None:
    for path, (have, want) in _differing(old, new).items():
        have, want = ("nothing" if value is None else value for value in (have, want))
        raise InvalidInput(
            f"output directory {directory} holds runs with {prefix}{path}={have}, this command has {want}: "
            "choose another --out"
        )

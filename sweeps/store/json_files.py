"""JSON files that other processes, versions and people may have written: a file is read if it has the expected shape,
or refused in one sentence."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.errors import InvalidInput

#: The shape of a JSON value. A class stands for its instances (``int`` excludes bool, ``float`` includes whole
#: numbers), None for null, a frozenset for the texts in it, a tuple for any of its members; ``[shape]`` for a list of
#: any length, ``[shape, shape]`` for a list of this length; ``{str: shape}`` for an object with any keys, and
#: ``{"name": shape, "other?": shape}`` for an object with these keys, of which those with a question mark may be
#: absent.
Shape = Any

SCALAR: Shape = (str, int, float, bool, None)
_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
_NAMES |= {dict: "an object", list: "a list", None: "null"}
#: Numbers of settings, seeds and seconds are less than this limit of numpy and pandas.
_LARGEST = 2**63


def read(path: Path, shape: Shape, remedy: str) -> Any:
    """The value that a JSON file holds.

    Raises `InvalidInput`, with advice about the file (`remedy`), if the file cannot be read, is not JSON (which has
    neither NaN nor lone surrogates), or does not have the shape.
    """
    try:
        data = json.loads(path.read_bytes().decode("utf-8"))
        # NaN and lone surrogates could not be written again, as JSON or as a page.
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except OSError as problem:
        raise InvalidInput(
            f"{path} cannot be read ({problem.strerror or problem}): {remedy}"
        ) from problem
    except (ValueError, RecursionError) as problem:
        raise InvalidInput(f"{path} is not readable as JSON: {remedy}") from problem
    wrong = misfit(data, shape)
    if wrong is not None:
        raise InvalidInput(f"{path} is not as it was written ({wrong}): {remedy}")
    return data


def misfit(value: Any, shape: Shape, where: str = "") -> str | None:
    """The first part of a value that does not match a shape, in words; None if the whole value matches."""
    if isinstance(shape, tuple):
        fits = any(misfit(value, one, where) is None for one in shape)
        return None if fits else _wrong(value, shape, where)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _wrong(value, list, where)
        if len(shape) > 1 and len(value) != len(shape):
            return f"{where or 'the whole'} has {len(value)} entries, must have {len(shape)}"
        shapes = shape if len(shape) > 1 else itertools.repeat(shape[0])
        numbered = enumerate(zip(value, shapes, strict=False))
        return _first((item, part, f"{where}[{place}]") for place, (item, part) in numbered)
    if isinstance(shape, dict):
        return _object_misfit(value, shape, where)
    return None if _is(value, shape) else _wrong(value, shape, where)


def _object_misfit(value: Any, shape: Mapping[Any, Shape], where: str) -> str | None:
    if not isinstance(value, dict):
        return _wrong(value, dict, where)
    prefix = f"{where}." if where else ""
    if str in shape:
        return _first((item, shape[str], f"{prefix}{name}") for name, item in value.items())
    needed = [name for name in shape if not name.endswith("?")]
    missing = [name for name in needed if name not in value]
    if missing:
        return f"{prefix}{missing[0]} is missing"
    known = {name.removesuffix("?"): part for name, part in shape.items()}
    return _first((value[n], part, f"{prefix}{n}") for n, part in known.items() if n in value)


def _first(parts: Any) -> str | None:
    """The first misfit among values, each with its shape and place."""
    return next((wrong for part in parts if (wrong := misfit(*part)) is not None), None)


def _is(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if isinstance(kind, frozenset):
        return isinstance(value, str) and value in kind
    if kind in (int, float):
        number = isinstance(value, int if kind is int else int | float)
        return number and not isinstance(value, bool) and abs(value) < _LARGEST
    return isinstance(value, kind)


def _wrong(value: Any, shape: Shape, where: str) -> str:
    kinds: Sequence[Any] = shape if isinstance(shape, tuple) else (shape,)
    wanted = " or ".join(dict.fromkeys(map(_named, kinds)))
    shown = repr(value)
    shown = f"{shown[:60]}..." if len(shown) > 60 else shown
    return f"{where or 'the whole'} is {shown}, must be {wanted}"


def _named(shape: Shape) -> str:
    """A shape in words, without its parts."""
    if isinstance(shape, frozenset):
        return f"one of {', '.join(sorted(shape))}"
    return _NAMES[type(shape) if isinstance(shape, dict | list) else shape]

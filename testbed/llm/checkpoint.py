"""Checkpoints in Hugging Face's format: ``config.json`` beside one or several safetensors files."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from testbed.errors import InvalidInput, said
from testbed.llm.optional import package

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
#: Data types of tensors that can be read, by their names in a safetensors file.
TYPES = ("F32", "F16", "BF16", "F64")
#: Largest number of characters in a file's name.
LONGEST_NAME = 200
#: Largest number of characters of a file's value that an error message repeats.
SHOWN = 80


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The weights of a model and its config.

    Attributes:
        path: the file or directory that error messages name.
        config: the fields of ``config.json``.
        shapes: of every tensor, by its name.
        read: reads one tensor, as float32. Raises `InvalidInput` if it holds numbers that are not finite.
    """

    path: Path
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


def read_directory(directory: Path) -> Checkpoint:
    """The checkpoint in a directory; a tensor is read only when it is requested.

    Raises `InvalidInput` for a file that is missing or incomplete."""
    config = read_json(directory / CONFIG)
    opened: dict[str, tuple[Path, Any]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path, promised in _files(directory).items():
        file = _open(path)
        names = set(file.keys())
        for name in sorted(promised - names):
            raise InvalidInput(f"{path} holds no tensor {shown(name)}, which {INDEX} places there")
        for name in names:
            part = file.get_slice(name)
            opened[name], shapes[name] = (path, file), tuple(part.get_shape())

    def read(name: str) -> np.ndarray:
        path, file = opened[name]
        kind = file.get_slice(name).get_dtype()
        if kind not in TYPES:
            raise InvalidInput(
                f"{path}: tensor {name} is of type {kind}; read are {', '.join(TYPES)}"
            )
        with np.errstate(over="ignore"):  # numbers too large for float32 are refused below
            found = np.asarray(file.get_tensor(name)).astype(np.float32)
        return finite(found, path, name)

    return Checkpoint(directory, config, shapes, read)


def finite(found: np.ndarray, path: Path, name: str) -> np.ndarray:
    """A tensor, unchanged. Raises `InvalidInput`, naming file and tensor, unless all its numbers are finite in float32:
    a single number that is not finite makes every result of the model NaN."""
    if not np.isfinite(found).all():
        raise InvalidInput(
            f"{path}: tensor {shown(name)} must hold finite numbers, got infinity or not-a-number"
        )
    return found


def shown(value: Any, most: int = SHOWN) -> str:
    """A value from a file, or a library's message about a file, in a form for error messages: on one line, of at most
    ``most`` characters, and printable everywhere."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # too many digits in a number, or too deep nesting
        text = f"a {type(value).__name__} too long to be shown"
    text = text.encode("unicode_escape", "backslashreplace").decode("ascii")
    return text if len(text) <= most else text[: most - 3] + "..."


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `InvalidInput` if the file is missing, cannot be read, or holds no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"{path} is missing") from None
    except OSError as problem:
        raise InvalidInput(f"{path} cannot be read: {problem.strerror}") from problem
    except RecursionError as problem:
        raise InvalidInput(f"{path} nests objects or lists too deep to be read") from problem
    except ValueError as problem:
        raise InvalidInput(
            f"{path} is not a whole JSON file ({shown(said(problem), 200)})"
        ) from problem
    if not isinstance(found, dict):
        raise InvalidInput(f"{path} must hold a JSON object, not {type(found).__name__}")
    return found


def _files(directory: Path) -> dict[Path, set[str]]:
    """Files with weights, and the names of the tensors that each holds according to the index."""
    if (directory / WEIGHTS).exists():
        return {directory / WEIGHTS: set()}
    if not (directory / INDEX).exists():
        raise InvalidInput(f"{directory} holds neither {WEIGHTS} nor {INDEX}")
    places = read_json(directory / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InvalidInput(f"{directory / INDEX} has no weight_map")
    files: dict[Path, set[str]] = {}
    for name, file in places.items():
        # Only the file name is used: the file must be beside the index, whatever path the index gives.
        place = Path(file).name if isinstance(file, str) else ""
        if not place.isprintable() or not 0 < len(place) <= LONGEST_NAME:
            raise InvalidInput(
                f"{directory / INDEX}: weight_map must name a file for {shown(repr(name))}, "
                f"got {shown(repr(file))}"
            )
        files.setdefault(directory / place, set()).add(name)
    for path in files:
        if not path.is_file():
            raise InvalidInput(f"{path} is missing, which {INDEX} names")
    return files


def _open(path: Path) -> Any:
    safetensors = package("safetensors")
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (safetensors.SafetensorError, OSError) as problem:
        raise InvalidInput(
            f"{path} is not a whole safetensors file ({shown(said(problem), 200)}): download it again"
        ) from problem

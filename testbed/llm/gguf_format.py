"""The head of a GGUF file: its metadata, and the positions of its tensors (versions 2 and 3, little-endian).

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Every length in the file is compared with the rest of
the file before anything of that length is read, so that a damaged file costs neither time nor memory.
"""

import math
import mmap
import os
import struct
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from testbed.errors import InvalidInput
from testbed.llm.checkpoint import shown
from testbed.llm.optional import package

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
ALIGNMENT: Final = 32
#: Formats of single values for `struct`, by their type numbers in the file.
_SCALARS: Final = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_TEXT, _ARRAY = 8, 9
#: Largest number of dimensions of a tensor, and of bytes of a name, that ggml allows.
_MOST_DIMENSIONS, _LONGEST_NAME = 4, 65_535


class StoredTensor(NamedTuple):
    """The position of a tensor in the file. ``shape`` is in numpy's order, the last axis contiguous; ``kind`` is ggml's
    type; ``start`` and ``size`` count bytes of the file."""

    shape: tuple[int, ...]
    kind: Any
    start: int
    size: int


class Head(NamedTuple):
    """The metadata, and the tensors by name."""

    fields: dict[str, Any]
    tensors: dict[str, StoredTensor]


class NotWhole(Exception):
    """A problem of a file, as a text for error messages."""


def read(path: Path) -> Head:
    """The head of a file. Raises `InvalidInput` if the file cannot be read, or is incomplete."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise NotWhole("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Reader(content, size).head()
    except OSError as problem:
        raise InvalidInput(f"{path} cannot be read: {problem.strerror}") from problem
    except NotWhole as problem:
        raise InvalidInput(
            f"{path} is not a whole GGUF file ({problem}): download it again"
        ) from problem


def numbers(path: Path, name: str, tensor: StoredTensor) -> np.ndarray:
    """A tensor as float32; quantised numbers are converted to the numbers that they stand for.

    Raises `InvalidInput`, naming the tensor, for a type that the package gguf does not dequantise."""
    gguf = package("gguf")
    _, per_block = gguf.GGML_QUANT_SIZES[tensor.kind]
    raw = np.fromfile(path, np.uint8, tensor.size, offset=tensor.start)
    if raw.size != tensor.size:
        raise InvalidInput(f"{path} is not a whole GGUF file: it has become shorter")
    rows = raw.reshape(*tensor.shape[:-1], -1)
    try:
        with np.errstate(all="ignore"):  # callers refuse numbers that are not finite
            found = gguf.quants.dequantize(rows, tensor.kind)
    except NotImplementedError as problem:
        raise InvalidInput(
            f"{path}: tensor {shown(name)} is of type {tensor.kind.name}, which the package gguf "
            "does not dequantise"
        ) from problem
    except Exception as problem:  # the package documents no narrower errors
        raise InvalidInput(
            f"{path}: tensor {shown(name)} of type {tensor.kind.name} ({per_block} bytes a block) "
            f"cannot be dequantised ({shown(problem)})"
        ) from problem
    return np.asarray(found, dtype=np.float32).reshape(tensor.shape)


class _Reader:
    """Reads a file sequentially, from position ``place`` on. Raises `NotWhole`."""

    def __init__(self, content: mmap.mmap, size: int) -> None:
        self.content, self.size, self.place = content, size, 0

    def head(self) -> Head:
        """All data before the tensors' numbers."""
        if self._take(4) != MAGIC:
            raise NotWhole("it does not begin with GGUF")
        version = self._scalar("I")
        if version not in VERSIONS:
            if version & 0xFFFF == 0:
                raise NotWhole("it is big-endian; little-endian files are read")
            raise NotWhole(f"its version is {version}; read are 2 and 3")
        tensors, fields = self._scalar("Q"), self._scalar("Q")
        # The shortest field consists of a name's length, a type and a byte; the shortest tensor has no dimension.
        self._room(fields, 13, "fields")
        metadata: dict[str, Any] = {}
        for _ in range(fields):
            name = self._name()
            if name in metadata:
                raise NotWhole(f"field {shown(name)} is there twice")
            metadata[name] = self._value(self._scalar("I"), name)
        self._room(tensors, 24, "tensors")
        listed = [self._tensor() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise NotWhole(f"general.alignment must be a power of 2, got {shown(alignment)}")
        return Head(metadata, self._placed(listed, alignment))

    def _placed(
        self, listed: list[tuple[str, tuple[int, ...], int, int]], alignment: int
    ) -> dict[str, StoredTensor]:
        """The position of each tensor. Tensors follow one another in the order of the list, so that no two share
        bytes."""
        gguf = package("gguf")
        found: dict[str, StoredTensor] = {}
        start, expected = _rounded(self.place, alignment), 0
        for name, shape, number, offset in listed:
            if name in found:
                raise NotWhole(f"tensor {shown(name)} is there twice")
            try:
                kind = gguf.GGMLQuantizationType(number)
                per_block, bytes_of_block = gguf.GGML_QUANT_SIZES[kind]
            except (ValueError, KeyError):
                raise NotWhole(f"tensor {shown(name)} is of the unknown type {number}") from None
            if shape[-1] % per_block:
                raise NotWhole(
                    f"tensor {shown(name)} has rows of {shape[-1]} numbers, in blocks of {per_block}"
                )
            size = math.prod(shape) // per_block * bytes_of_block
            if offset != expected or start + offset + size > self.size:
                raise NotWhole(f"tensor {shown(name)} is not where the tensors before it end")
            found[name] = StoredTensor(shape, kind, start + offset, size)
            expected = _rounded(offset + size, alignment)
        return found

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, type and offset of one tensor."""
        name, dimensions = self._name(), self._scalar("I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise NotWhole(f"tensor {shown(name)} has {dimensions} dimensions")
        shape = tuple(self._scalar("Q") for _ in range(dimensions))
        if not all(1 <= size <= self.size * 8 for size in shape):
            raise NotWhole(f"tensor {shown(name)} is larger than the file")
        return name, shape[::-1], self._scalar("I"), self._scalar("Q")

    def _value(self, kind: int, name: str) -> Any:
        """A value of the metadata."""
        if kind == _TEXT:
            return self._text()
        if kind != _ARRAY:
            if kind not in _SCALARS:
                raise NotWhole(f"field {shown(name)} is of the unknown type {kind}")
            return self._scalar(_SCALARS[kind])
        inner, count = self._scalar("I"), self._scalar("Q")
        if inner == _TEXT:
            self._room(count, 8, f"texts in {shown(name)}")
            return [self._text() for _ in range(count)]
        if inner not in _SCALARS:
            raise NotWhole(f"field {shown(name)} is a list of the unknown type {inner}")
        letter = _SCALARS[inner]
        width = struct.calcsize(f"<{letter}")
        self._room(count, width, f"values in {shown(name)}")
        return list(struct.unpack(f"<{count}{letter}", self._take(count * width)))

    def _name(self) -> str:
        text = self._text(_LONGEST_NAME)
        if not text:
            raise NotWhole("a name is empty")
        return text

    def _text(self, most: int | None = None) -> str:
        length = self._scalar("Q")
        if most is not None and length > most:
            raise NotWhole(f"a name has {length} bytes")
        try:
            return self._take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise NotWhole("a text is not UTF-8") from None

    def _scalar(self, letter: str) -> Any:
        return struct.unpack(f"<{letter}", self._take(struct.calcsize(f"<{letter}")))[0]

    def _room(self, count: int, least: int, what: str) -> None:
        if count * least > self.size - self.place:
            raise NotWhole(f"it must hold {count} {what}, and ends before")

    def _take(self, count: int) -> bytes:
        if count > self.size - self.place:
            raise NotWhole("it ends too early")
        found = self.content[self.place : self.place + count]
        self.place += count
        return found


def _rounded(place: int, alignment: int) -> int:
    return -(-place // alignment) * alignment

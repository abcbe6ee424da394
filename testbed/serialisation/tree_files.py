"""Pytrees as files that are read without executing anything in them.

A file has the format of safetensors (https://github.com/huggingface/safetensors, "Format"): the length of the header, a
header in JSON, and the arrays one after the other. The header's metadata hold the structure of the pytree as JSON
(`testbed.serialisation.tree_structure`) and a checksum of the whole file (CRC-32: twice as fast as SHA-256, and every
flipped bit is found). The checksum does not protect against attackers: anyone can write a valid file, but such a file
can only hold values, and nothing that is executed.
"""

import json
import math
import os
import zlib
from io import BufferedIOBase
from typing import Any

import numpy as np
from jaxtyping import PyTree

from testbed.serialisation.tree_structure import (
    DTYPES,
    Damaged,
    dtype_name,
    dtype_of,
    read_structure,
    write_structure,
)

#: The beginning of a file's header. The checksum follows; for its own computation it counts as zeros.
_BEGIN = b'{"__metadata__":{"format":"testbed-tree","crc32":"'
_ZEROS = b"0" * 8
_SIZE_BYTES = 8
#: Arrays begin at a multiple of this number of bytes: the header is padded.
_ALIGNMENT = 64
_MOST_DIMENSIONS = 32
#: Largest number of entries of an array's shape, also for empty arrays: numpy counts bytes in 64 bits.
_MOST_NUMBERS = 2**58
#: Data types of arrays by the format's names. Arrays of other types are stored as bytes with an additional last
#: dimension, and the structure holds their type.
_TENSORS = {
    "BOOL": "bool",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
_TENSOR_NAMES = {name: tensor for tensor, name in _TENSORS.items()}


def encode(tree: PyTree, name: str) -> list[Any]:
    """A pytree as the parts of a file (`bytes` and contiguous arrays), to be written one after the other. The same
    ``name`` must be given when the file is read, so that one file cannot be mistaken for another.

    Raises `InvalidInput` for an object that cannot be stored, and names its class.
    """
    structure, arrays = write_structure(tree)
    types = [dtype_name(array.dtype) for array in arrays]
    odd = {str(i): type for i, type in enumerate(types) if type not in _TENSOR_NAMES}
    header, place, parts = {}, 0, []
    for i, (array, type) in enumerate(zip(arrays, types, strict=True)):
        array = np.asarray(array, order="C")
        shape = list(array.shape) + [array.itemsize] * (str(i) in odd)
        ends = [place, place + array.nbytes]
        tensor = _TENSOR_NAMES.get(type, "U8")
        header[str(i)] = {"dtype": tensor, "shape": shape, "data_offsets": ends}
        place = ends[1]
        parts.append(array.reshape(-1).view(np.uint8))
    told = json.dumps({"tree": structure, "types": odd}, separators=(",", ":"), allow_nan=False)
    rest = json.dumps({"tree": told}, separators=(",", ":"))[1:] + "," * bool(header)
    rest += json.dumps(header, separators=(",", ":"))[1:]
    after = b'",' + rest.encode("ascii")
    size = len(_BEGIN) + len(_ZEROS) + len(after)
    after += b" " * (-(_SIZE_BYTES + size) % _ALIGNMENT)
    size = len(_BEGIN) + len(_ZEROS) + len(after)
    before = size.to_bytes(_SIZE_BYTES, "little") + _BEGIN
    checksum = _checksum(name, before, after, *parts)
    return [before, checksum, after, *parts]


def decode(file: BufferedIOBase, name: str) -> PyTree:
    """The pytree of a file that `encode` has made for this ``name``. Raises `Damaged` for any other content.

    Memory and time are proportional to the length of the file, whatever its header says.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    before = file.read(_SIZE_BYTES + len(_BEGIN))
    if before[_SIZE_BYTES:] != _BEGIN:
        raise Damaged("it begins otherwise")
    size = int.from_bytes(before[:_SIZE_BYTES], "little")
    if size < len(_BEGIN) + len(_ZEROS) or _SIZE_BYTES + size > length:
        raise Damaged("it is cut")
    checksum = file.read(len(_ZEROS))
    after = file.read(size - len(_BEGIN) - len(_ZEROS))
    header = _parsed(before[_SIZE_BYTES:] + checksum + after)
    told = _parsed(_item(_item(header, "__metadata__"), "tree"))
    described = _described(header, _item(told, "types"), length - _SIZE_BYTES - size)
    flat = [np.empty(math.prod(shape), dtype) for shape, dtype in described]
    parts = [array.view(np.uint8).data for array in flat]
    for part in parts:
        if file.readinto(part) != len(part):
            raise Damaged("it is cut")
    if checksum != _checksum(name, before, after, *parts):
        raise Damaged("its checksum is another")
    arrays = [array.reshape(shape) for array, (shape, _) in zip(flat, described, strict=True)]
    return read_structure(_item(told, "tree"), arrays)


def _described(header: dict[str, Any], types: Any, room: int) -> list[tuple[list[int], np.dtype]]:
    """Shape and type of every array. The arrays must fill the ``room`` bytes behind the header one after the other, so
    that together they are no larger than the file."""
    place, found = 0, []
    for i in range(len(header) - 1):
        entry = _item(header, str(i))
        shape, offsets = _sizes(entry, "shape"), _sizes(entry, "data_offsets")
        tensor = _item(entry, "dtype")
        if type(tensor) is not str or tensor not in _TENSORS:
            raise Damaged("an array has another type")
        if math.prod(max(size, 1) for size in shape) > _MOST_NUMBERS:
            raise Damaged("an array is larger than any file")
        dtype = DTYPES[_TENSORS[tensor]]
        end = place + math.prod(shape) * dtype.itemsize
        if offsets != [place, end] or end > room:
            raise Damaged("an array is not where the one before it ends")
        if type(types) is not dict:
            raise Damaged("types are no object")
        if str(i) in types:
            dtype = dtype_of(types[str(i)])
            if tensor != "U8" or not shape or shape.pop() != dtype.itemsize:
                raise Damaged("an array has another type")
        found.append((shape, dtype))
        place = end
    if place != room:
        raise Damaged("something follows the arrays")
    return found


def _sizes(entry: Any, name: str) -> list[int]:
    sizes = _item(entry, name)
    if type(sizes) is not list or len(sizes) > _MOST_DIMENSIONS:
        raise Damaged(f"{name} is no list of sizes")
    if any(type(size) is not int or size < 0 for size in sizes):
        raise Damaged(f"{name} is no list of sizes")
    return list(sizes)


def _checksum(name: str, before: Any, *after: Any) -> bytes:
    """The checksum of a file in parts: the parts before the checksum and the parts after it."""
    total = 0
    for part in (name.encode(), before, _ZEROS, *after):
        total = zlib.crc32(part, total)
    return f"{total:08x}".encode()


def _parsed(text: Any) -> dict[str, Any]:
    """A JSON object; infinities and NaN, which JSON lacks, are refused."""

    def refuse(constant: str) -> None:
        raise Damaged(f"{constant} is no number")

    try:
        found = json.loads(text, parse_constant=refuse)
    except (ValueError, TypeError, RecursionError) as problem:
        raise Damaged("it is no JSON") from problem
    if type(found) is not dict:
        raise Damaged("it is no JSON object")
    return found


def _item(data: Any, name: str) -> Any:
    if type(data) is not dict or name not in data:
        raise Damaged(f"{name} is missing")
    return data[name]

"""The structure of a pytree, without its arrays, as JSON-able data; and the pytree from such data.

Plain data represent themselves: None, booleans, whole and finite numbers, text, and a list for a list. Everything else
is an object whose first key is its kind: ``tuple``, ``dict``, ``module`` (an `equinox.Module`), ``named tuple``,
``weight`` (`testbed.policies.shared_weights.Weight`), ``array`` and ``scalar`` (numbers of numpy), ``key`` (a random
key of jax), ``shape`` (`jax.ShapeDtypeStruct`), ``dtype``, ``numpy type``, ``jax type``, ``enum``, ``function``,
``float`` (a number that JSON lacks, by its bytes). Classes are stored by name, see `testbed.serialisation.class_names`.
Their fields are set one by one: no constructor runs.
"""

import dataclasses
import enum
import functools
import math
import struct
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import PyTree

from testbed.errors import InvalidInput
from testbed.policies.shared_weights import Weight
from testbed.serialisation import class_names
from testbed.serialisation.class_names import UnknownName

_PLAIN = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
_EXTENDED = (
    *("bfloat16", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn"),
    *("float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    *("float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn", "int2", "int4", "uint2", "uint4"),
)
#: The data types of arrays that can be stored, by name.
DTYPES = {name: np.dtype(name) for name in _PLAIN} | {
    name: np.dtype(getattr(ml_dtypes, name)) for name in _EXTENDED
}
#: Largest number of digits of a JSON number that is read (Python's own limit is 4,300).
_MOST_BITS = 4096


class Damaged(Exception):
    """Data that `write_structure` cannot have written."""


def write_structure(tree: PyTree) -> tuple[Any, list[np.ndarray]]:
    """A pytree as JSON-able data, and its arrays in the order in which the data refer to them.

    Raises `InvalidInput` for an object that cannot be stored, and names its class.
    """
    writer = _Writer()
    try:
        return writer.write(tree), writer.arrays
    except RecursionError as problem:
        raise InvalidInput(
            "a pytree so deep, or one that holds itself, cannot be kept"
        ) from problem


def read_structure(data: Any, arrays: list[np.ndarray]) -> PyTree:
    """The pytree of `write_structure`. Raises `Damaged` for other data, and if arrays are left over."""
    reader = _Reader(arrays)
    try:
        tree = reader.read(data)
    except Damaged:
        raise
    except UnknownName as problem:
        raise Damaged(f"unknown name {problem}") from problem
    except (ValueError, TypeError, OverflowError, AttributeError, RecursionError) as problem:
        # numpy, jax and the restored classes raise these errors for invalid sizes, types and names.
        raise Damaged(str(problem)) from problem
    if reader.used != len(arrays):
        raise Damaged("arrays are left over")
    return tree


def dtype_name(dtype: Any) -> str:
    """The name of a data type in `DTYPES`. Raises `InvalidInput` for a type that is not there, such as that of Python
    objects, text, or numbers of another byte order."""
    name = str(getattr(dtype, "name", dtype))
    if DTYPES.get(name) != dtype:
        raise InvalidInput(
            f"an array of type {dtype} cannot be kept in the cache: only numbers can"
        )
    return name


class _Writer:
    """Writes one pytree; ``arrays`` are the arrays found so far."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []

    def write(self, node: Any) -> Any:
        """A node as data."""
        kind = type(node)
        if node is None or kind in (bool, str):
            return node
        if kind is int:
            if node.bit_length() > _MOST_BITS:
                raise InvalidInput(f"a number of {node.bit_length()} bits cannot be kept")
            return node
        if kind is float:
            return node if math.isfinite(node) else {"float": struct.pack(">d", node).hex()}
        if kind is list:
            return [self.write(item) for item in node]
        if kind is tuple:
            return {"tuple": [self.write(item) for item in node]}
        if kind is dict:
            return {"dict": [[self.write(key), self.write(value)] for key, value in node.items()]}
        return self._write_object(node)

    def _write_object(self, node: Any) -> Any:
        if isinstance(node, np.generic):
            return {"scalar": self._place(np.asarray(node))}
        if isinstance(node, np.ndarray):
            return {"array": self._place(node)}
        if isinstance(node, jax.Array):
            if jnp.issubdtype(node.dtype, jax.dtypes.prng_key):
                data = self._place(np.asarray(jax.random.key_data(node)))
                return {"key": data, "generator": str(jax.random.key_impl(node))}
            return {"array": self._place(np.asarray(node))}
        if isinstance(node, eqx.Module):
            return {"module": class_names.name_of(type(node)), "fields": self._fields(node)}
        if _is_named_tuple(type(node)):
            fields = {
                name: self.write(value) for name, value in zip(node._fields, node, strict=True)
            }
            return {"named tuple": class_names.name_of(type(node)), "fields": fields}
        if type(node) is Weight:
            return {"weight": self._fields(node)}
        if isinstance(node, enum.Enum):
            if node.name not in type(node).__members__:
                raise InvalidInput(f"{node!r} cannot be kept in the cache: it is no single member")
            return {"enum": class_names.name_of(type(node)), "member": node.name}
        return _write_static(node)

    def _place(self, array: np.ndarray) -> int:
        self.arrays.append(array)
        return len(self.arrays) - 1

    def _fields(self, node: Any) -> dict[str, Any]:
        names, values = field_names(type(node)), vars(node)
        if values.keys() != set(names):
            odd = sorted(values.keys() ^ set(names))
            raise InvalidInput(
                f"{type(node).__qualname__} cannot be kept in the cache: {', '.join(odd)} is not both a field and set; "
                "declare and set every field, and make a generic class without square brackets"
            )
        return {name: self.write(values[name]) for name in names}


def _write_static(node: Any) -> Any:
    """Objects that only static fields hold, and shapes."""
    if type(node) is jax.ShapeDtypeStruct:
        if node.sharding is not None or node.is_ref:
            raise InvalidInput("a shape with a sharding, or of a reference, cannot be kept")
        weak = bool(node.weak_type)
        return {"shape": list(node.shape), "dtype": dtype_name(node.dtype), "weak": weak}
    if isinstance(node, np.dtype):
        return {"dtype": dtype_name(node)}
    if isinstance(node, type) and issubclass(node, np.generic):
        return {"numpy type": dtype_name(np.dtype(node))}
    if isinstance(node, type(jnp.float32)):
        return {"jax type": dtype_name(np.dtype(node))}
    if callable(node) and not isinstance(node, type):
        name = class_names.name_of(node)
        if class_names.is_open_function(name):
            return {"function": name}
    raise InvalidInput(
        f"a value of class {type(node).__module__}.{type(node).__qualname__} cannot be kept in the cache: pytrees of "
        "arrays, equinox modules, named tuples and plain Python data can"
    )


class _Reader:
    """Reads one pytree; the first ``used`` of its arrays have been placed already."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self._arrays, self.used = arrays, 0

    def read(self, data: Any) -> Any:
        """The node that some data describe."""
        if data is None or type(data) in (bool, int, float, str):
            return data
        if type(data) is list:
            return [self.read(item) for item in data]
        if type(data) is not dict or not data:
            raise Damaged("a node is neither plain nor an object")
        parts = iter(data.items())
        kind, value = next(parts)
        if kind not in _KINDS:
            raise Damaged(f"unknown kind {kind}")
        read, more = _KINDS[kind]
        if tuple(data)[1:] != more:
            raise Damaged(f"{kind} has other parts")
        return read(self, value, *(part for _, part in parts))

    def a_tuple(self, items: Any) -> tuple[Any, ...]:
        """A tuple of its items."""
        return tuple(self.read(item) for item in _of(list, items))

    def a_dict(self, items: Any) -> dict[Any, Any]:
        """A dictionary of pairs."""
        found = {}
        for pair in _of(list, items):
            key, value = _of(list, pair)
            found[self.read(key)] = self.read(value)
        return found

    def a_module(self, name: Any, fields: Any) -> eqx.Module:
        """A module of its fields."""
        kind = _class(name, eqx.Module)
        return self._filled(kind, fields)

    def a_weight(self, fields: Any) -> Weight:
        """See `testbed.policies.shared_weights`."""
        return self._filled(Weight, fields)

    def a_named_tuple(self, name: Any, fields: Any) -> tuple[Any, ...]:
        """A named tuple of its fields."""
        kind = _class(name, tuple)
        if not _is_named_tuple(kind) or tuple(_of(dict, fields)) != kind._fields:
            raise Damaged(f"{name} has other fields")
        return tuple.__new__(kind, [self.read(value) for value in fields.values()])

    def a_array(self, place: Any) -> np.ndarray:
        """The next array."""
        if type(place) is not int or place != self.used or place >= len(self._arrays):
            raise Damaged("an array is out of its place")
        self.used += 1
        return self._arrays[place]

    def a_scalar(self, place: Any) -> Any:
        """The number in the next array."""
        array = self.a_array(place)
        return array[()] if not array.shape else _refuse("scalar")

    def a_key(self, place: Any, generator: Any) -> jax.Array:
        """A random key, or an array of them."""
        data = jnp.asarray(self.a_array(place))
        return jax.random.wrap_key_data(data, impl=_of(str, generator))

    def _filled(self, kind: type, fields: Any) -> Any:
        if tuple(_of(dict, fields)) != field_names(kind):
            raise Damaged(f"{kind.__qualname__} has other fields")
        values = {name: self.read(value) for name, value in fields.items()}
        made = object.__new__(kind)
        for name, value in values.items():
            object.__setattr__(made, name, value)
        return made


def _shape(_: _Reader, shape: Any, dtype: Any, weak: Any) -> jax.ShapeDtypeStruct:
    sizes = [_of(int, size) for size in _of(list, shape)]
    if any(size < 0 for size in sizes):
        raise Damaged("a size is below 0")
    return jax.ShapeDtypeStruct(tuple(sizes), dtype_of(dtype), weak_type=_of(bool, weak))


def _enum(_: _Reader, name: Any, member: Any) -> enum.Enum:
    members = _class(name, enum.Enum).__members__
    return members[member] if _of(str, member) in members else _refuse(member)


def _float(_: _Reader, digits: Any) -> float:
    content = bytes.fromhex(_of(str, digits))
    (value,) = struct.unpack(">d", content) if len(content) == 8 else _refuse("float")
    return value if not math.isfinite(value) else _refuse("float")


def _function(_: _Reader, name: Any) -> Callable[..., Any]:
    found = class_names.find(_of(str, name))
    safe = callable(found) and not isinstance(found, type) and class_names.is_open_function(name)
    # Accepted only under the function's own name: a module of this project also holds functions of other modules, such
    # as `os.remove`.
    own = f"{getattr(found, '__module__', None)}:{getattr(found, '__qualname__', None)}"
    return found if safe and own == name else _refuse(name)


def _numpy_type(_: _Reader, name: Any) -> type:
    return dtype_of(name).type


def _jax_type(_: _Reader, name: Any) -> Any:
    found = getattr(jnp, name) if dtype_of(name) and hasattr(jnp, name) else None
    return found if isinstance(found, type(jnp.float32)) else _refuse(name)


#: For each kind (an object's first key): its reader, and the object's other keys.
_KINDS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "tuple": (_Reader.a_tuple, ()),
    "dict": (_Reader.a_dict, ()),
    "module": (_Reader.a_module, ("fields",)),
    "named tuple": (_Reader.a_named_tuple, ("fields",)),
    "weight": (_Reader.a_weight, ()),
    "array": (_Reader.a_array, ()),
    "scalar": (_Reader.a_scalar, ()),
    "key": (_Reader.a_key, ("generator",)),
    "shape": (_shape, ("dtype", "weak")),
    "dtype": (lambda _, name: dtype_of(name), ()),
    "numpy type": (_numpy_type, ()),
    "jax type": (_jax_type, ()),
    "enum": (_enum, ("member",)),
    "float": (_float, ()),
    "function": (_function, ()),
}


def dtype_of(name: Any) -> np.dtype:
    """The type in `DTYPES` of this name. Raises `Damaged`."""
    return DTYPES[name] if type(name) is str and name in DTYPES else _refuse(name)


@functools.cache
def field_names(kind: type) -> tuple[str, ...]:
    """Names of a class's fields, those of its own constructor and others, in the order of declaration."""
    return tuple(field.name for field in dataclasses.fields(kind))


def _is_named_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and kind is not tuple and hasattr(kind, "_fields")


def _class(name: Any, base: type) -> Any:
    found = class_names.find(_of(str, name))
    return found if isinstance(found, type) and issubclass(found, base) else _refuse(name)


def _of(kind: type, value: Any) -> Any:
    return value if type(value) is kind else _refuse(value)


def _refuse(what: Any) -> Any:
    shown = what[:100] if isinstance(what, str) else type(what).__name__
    raise Damaged(f"{shown} is not in its place")

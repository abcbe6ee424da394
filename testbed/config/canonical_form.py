"""Configs as data and text: their fields, their values and their canonical form.

A config is a tree of `equinox.Module` objects that do not change (see `testbed.config`). A field's value is normalised
by the field's annotation before it is described: ``1`` and ``1.0`` are one value of a float field.

The canonical text of a config names its runs in stored results. A field that a class gets after runs were stored is
declared with `later`: the canonical text leaves it out while it has its default, so that existing runs keep their
names.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jaxtyping
import numpy as np

from testbed.errors import InvalidInput

#: Reads a field directly; equinox's attribute access looks for methods first and takes ten times as long.
read = object.__getattribute__
type_hints = functools.cache(typing.get_type_hints)
_quoted = json.encoder.encode_basestring_ascii
#: Marks, in a field's metadata, fields that were added after runs had been stored.
LATER = "later"


def later(default: Any, *, static: bool = False) -> Any:
    """A field with a default that a class gets after runs were stored: canonical texts leave the field out while it has
    its default."""
    return eqx.field(default=default, static=static, metadata={LATER: True})


def describe(module: eqx.Module) -> dict[str, Any]:
    """JSON-able canonical form: ``{"kind": "Ipo", "beta": 0.1, ...}``; see `jsonable`."""
    return {"kind": type(module).__name__} | {
        name: jsonable(current(module, name)) for name in field_names(module)
    }


def flatten(module: eqx.Module) -> dict[str, Any]:
    """Dotted path -> scalar; a nested module also gives ``path -> kind``, a tuple its text."""
    flat: dict[str, Any] = {}
    for name in field_names(module):
        value = current(module, name)
        if isinstance(value, eqx.Module):
            flat[name] = type(value).__name__
            flat |= {f"{name}.{path}": leaf for path, leaf in flatten(value).items()}
        else:
            flat[name] = spell(value) if isinstance(value, tuple) else value
    return flat


def canonical(thing: Any) -> str:
    """Canonical JSON of a module or of JSON-able data: sorted keys, shortest exact floats.

    The result equals ``json.dumps(jsonable(thing), sort_keys=True, separators=(",", ":"), allow_nan=False)``, without
    the fields made by `later` that have their default. It is put together from the texts of the parts: modules do not
    change, so a module shared by several others is described once.
    """
    if type(thing) is float:
        return repr(thing) if math.isfinite(thing) else f'"{thing}"'
    if isinstance(thing, eqx.Module):
        return _text_of(thing)
    if isinstance(thing, Mapping):
        items = {str(key): canonical(item) for key, item in thing.items()}
        return "{" + ",".join(f"{_quoted(key)}:{items[key]}" for key in sorted(items)) + "}"
    if isinstance(thing, list | tuple):
        return f"[{','.join(map(canonical, thing))}]"
    try:
        return json.dumps(jsonable(thing), allow_nan=False)
    except TypeError as problem:
        raise InvalidInput(
            f"a config holds numbers, texts, tuples of these and modules, got a {type(thing).__name__}: {thing!r:.60}"
        ) from problem


def fingerprint(*things: Any) -> str:
    """16 hexadecimal characters: sha256 of the canonical JSON of modules or JSON-able data."""
    return hashlib.sha256(canonical(things).encode()).hexdigest()[:16]


def _text_of(module: eqx.Module) -> str:
    """The canonical text of a module."""
    parts = []
    for name, before, annotation, writers, left_out in _layout(type(module)):
        value = read(module, name) if name else None
        kind = type(value)
        writer = writers.get(kind)
        if writer is None:
            writer = writers[kind] = _writer(annotation, kind)
        text = writer(value, name)
        if text != left_out:
            parts.append(before + text)
    return "{" + ",".join(parts) + "}"


#: A field: its name, the text before its value, its annotation, functions that write its values, by type of value, and
#: the text of a value with which the field is left out (None: never).
_Field = tuple[str, str, Any, dict[type, Callable[[Any, str], str]], str | None]


@functools.cache
def _layout(kind: type) -> tuple[_Field, ...]:
    """The fields of a class in the order of its canonical text. The class name (``kind``) is an entry with an empty
    name."""
    hints = type_hints(kind)
    found: dict[str, _Field] = {}
    for field in fields_of(kind):
        name, annotation = field.name, hints[field.name]
        default = default_of(field) if field.metadata.get(LATER) else dataclasses.MISSING
        given = default is not dataclasses.MISSING
        left_out = _writer(annotation, type(default))(default, name) if given else None
        found[name] = name, f"{_quoted(name)}:", annotation, {}, left_out
    said = f'"kind":{_quoted(kind.__name__)}'
    found.setdefault("kind", ("", said, None, {type(None): lambda value, name: ""}, None))
    return tuple(found[name] for name in sorted(found))


def _writer(annotation: Any, kind: type) -> Callable[[Any, str], str]:
    """The function that writes values of type ``kind`` in fields with this annotation."""
    if issubclass(kind, eqx.Module) and _keeps(annotation, kind):
        return lambda value, name: shared_text(value)
    simple: dict[type, Callable[[Any, str], str]] = {
        int: lambda value, name: repr(value),
        str: lambda value, name: _quoted(value),
        bool: lambda value, name: "true" if value else "false",
        type(None): lambda value, name: "null",
    }
    if kind is float and float in _preferred(annotation):
        return lambda value, name: canonical(
            value + 0.0
        )  # + 0.0 turns -0.0 into 0.0, as `coerce` does
    if kind in simple and _keeps(annotation, kind):
        return simple[kind]
    return lambda value, name: canonical(coerce(annotation, value, name))


#: Texts of shared modules, by identity. The modules are kept alive, so that no other object gets their identity.
_TEXTS: dict[int, tuple[Any, str]] = {}
_MOST_TEXTS = 100_000


def shared_text(module: eqx.Module) -> str:
    """The canonical text of a module that other modules hold; the text is kept for the next module that holds it."""
    known = _TEXTS.get(id(module))
    if known is None:
        text = _text_of(module)
        if not _fixed(module):
            return text
        if len(_TEXTS) >= _MOST_TEXTS:
            _TEXTS.clear()
        known = _TEXTS[id(module)] = module, text
    return known[1]


_UNCHANGING = {bool, int, float, str, type(None)}


def _fixed(value: Any) -> bool:
    """Whether a value cannot change in place."""
    kind = type(value)
    if issubclass(kind, eqx.Module):
        return all(_fixed(read(value, name)) for name in names_of(kind))
    return all(map(_fixed, value)) if kind is tuple else kind in _UNCHANGING


def spell(value: Any) -> str:
    """The text that `parse` reads back: ``0.1``, ``true``, ``Ipo(beta=0.1)``.

    Fields that have their default are left out.
    """
    if isinstance(value, eqx.Module):
        given = {
            field.name: item
            for field in fields_of(type(value))
            if (item := current(value, field.name)) != default_of(field)
        }
        arguments = ", ".join(
            f"{name}={item!r}" if isinstance(item, str) else f"{name}={spell(item)}"
            for name, item in given.items()
        )
        return type(value).__name__ + (f"({arguments})" if arguments else "")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"({', '.join(map(spell, value))}{',' * (len(value) == 1)})"
    return str(value)


def field_names(module: Any) -> list[str]:
    """Names of a module's fields in the order of declaration."""
    return list(names_of(type(module)))


@functools.cache
def names_of(kind: type) -> tuple[str, ...]:
    """Names of the fields that a class's constructor takes, in the order of declaration."""
    return tuple(field.name for field in fields_of(kind))


@functools.cache
def fields_of(kind: type) -> tuple[dataclasses.Field, ...]:
    """The fields of a class that its constructor takes, in the order of declaration."""
    return tuple(field for field in dataclasses.fields(kind) if field.init)


def default_of(field: dataclasses.Field) -> Any:
    """The default of a field; `dataclasses.MISSING` if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def current(module: Any, name: str) -> Any:
    """The value of a field, normalised. Raises `InvalidInput` for one that its annotation does not admit."""
    return coerce(type_hints(type(module))[name], read(module, name), name)


def jsonable(value: Any) -> Any:
    """JSON-able data: modules are described, tuples become lists, infinities and NaN (which JSON lacks) become text."""
    if isinstance(value, eqx.Module):
        return describe(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union; one alternative otherwise."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def scalar_type(option: Any) -> Any:
    """float, int or bool for a jaxtyping array of that kind (a traced leaf); any other annotation unchanged."""
    if inspect.isclass(option) and issubclass(option, jaxtyping.AbstractArray):
        dtypes = getattr(option, "dtypes", ())
        for kind, marker in ((float, "float32"), (int, "int32"), (bool, "bool")):
            if marker in dtypes:
                return kind
    return option


def coerce(annotation: Any, value: Any, path: str) -> Any:
    """``value`` normalised to the annotation (1 is 1.0 in a float field), or `InvalidInput`."""
    kind = type(value)
    if _keeps(annotation, kind):
        return value
    if kind is float and float in _preferred(annotation):
        return value + 0.0  # turns -0.0 into 0.0
    if hasattr(value, "dtype") and np.ndim(value) == 0:
        array = np.asarray(value)
        # Converted from the shortest text, so that float32(0.1) is 0.1 and not 0.10000000149.
        value = float(str(array[()])) if array.dtype.kind == "f" else array.item()
    for option in _preferred(annotation):
        accepted, result = _match(option, value, path)
        if accepted:
            return result
    raise InvalidInput(f"{path} must be {expected(annotation)}, got {shown(value)}")


@functools.cache
def _keeps(annotation: Any, kind: type) -> bool:
    """Whether `coerce` leaves every value of exactly this type as it is."""
    known = _preferred(annotation)
    if issubclass(kind, eqx.Module):
        classes = [option for option in known if inspect.isclass(option)]
        return any(issubclass(kind, option) for option in classes)
    return kind in known and (
        kind in (bool, str, type(None)) or (kind is int and float not in known)
    )


@functools.cache
def _preferred(annotation: Any) -> tuple[Any, ...]:
    """The scalar types that an annotation admits, float first, because a float field takes whole numbers too."""
    options = dict.fromkeys(map(scalar_type, alternatives(annotation)))
    return tuple(sorted(options, key=lambda option: option is not float))


def _match(option: Any, value: Any, path: str) -> tuple[bool, Any]:
    """Whether one alternative of an annotation admits ``value``, and the normalised value."""
    origin = typing.get_origin(option)
    if option is Any:
        return True, value
    if option is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number, float(value) + 0.0 if number else None
    if option is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if origin is typing.Literal:
        return value in typing.get_args(option), value
    if origin is tuple or option is tuple:
        if not isinstance(value, tuple | list):
            return False, None
        inner = typing.get_args(option) or (Any, ...)
        if inner[-1] is Ellipsis:
            inner = (inner[0],) * len(value)
        if len(inner) != len(value):
            return False, None
        pairs = zip(inner, value, strict=True)
        return True, tuple(coerce(kind, item, path) for kind, item in pairs)
    return inspect.isclass(option) and isinstance(value, option), value


def expected(annotation: Any) -> str:
    """What an annotation admits, in words."""
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    parts = []
    for option in dict.fromkeys(scalar_type(option) for option in alternatives(annotation)):
        if typing.get_origin(option) is typing.Literal:
            parts.append("one of " + ", ".join(map(str, typing.get_args(option))))
        elif option is type(None):
            parts.append("none")
        else:
            name = option.__name__ if inspect.isclass(option) else str(option)
            parts.append(words.get(option, name))
    return " or ".join(parts)


def shown(value: Any) -> str:
    """A value in words, for messages."""
    return spell(value) if isinstance(value, eqx.Module | int | float) else repr(value)

"""Configs as data: describe, fingerprint, change and parse nested `equinox.Module` objects.

A config is a tree of modules whose fields hold plain numbers, booleans, text, tuples and further
modules. A *path* such as ``loss.beta`` names a field at any depth. Everything goes through the
constructors, so the modules' own checks run, and values are normalised by the field's annotation:
``1`` and ``1.0`` are the same value of a float field and have the same fingerprint.
"""

import ast
import dataclasses
import difflib
import functools
import hashlib
import importlib
import inspect
import itertools
import json
import math
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import equinox as eqx
import jaxtyping
import numpy as np

from testbed.errors import InvalidInput

_type_hints = functools.cache(typing.get_type_hints)


def describe(module: eqx.Module) -> dict[str, Any]:
    """JSON-able canonical form: ``{"kind": "Ipo", "beta": 0.1, ...}``; see `jsonable`."""
    return {"kind": type(module).__name__} | {
        name: jsonable(_current(module, name)) for name in field_names(module)
    }


def flatten(module: eqx.Module) -> dict[str, Any]:
    """Dotted path -> scalar; a nested module also gives ``path -> kind``, a tuple its text."""
    flat: dict[str, Any] = {}
    for name in field_names(module):
        value = _current(module, name)
        if isinstance(value, eqx.Module):
            flat[name] = type(value).__name__
            flat |= {f"{name}.{path}": leaf for path, leaf in flatten(value).items()}
        else:
            flat[name] = spell(value) if isinstance(value, tuple) else value
    return flat


def canonical(thing: Any) -> str:
    """Canonical JSON of a module or of JSON-able data: sorted keys, shortest exact floats."""
    return json.dumps(jsonable(thing), sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(*things: Any) -> str:
    """16 hexadecimal characters: sha256 of the canonical JSON of modules or JSON-able data."""
    return hashlib.sha256(canonical(list(things)).encode()).hexdigest()[:16]


def spell(value: Any) -> str:
    """The text that `parse` reads back: ``0.1``, ``true``, ``Ipo(beta=0.1)``.

    Fields that have their default are left out.
    """
    if isinstance(value, eqx.Module):
        given = {
            field.name: item
            for field in _fields(type(value))
            if (item := _current(value, field.name)) != _default(field)
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


def get(module: eqx.Module, path: str) -> Any:
    """The value at ``path``, normalised. Raises `InvalidInput` for an unknown field."""
    value: Any = module
    for depth, name in enumerate(path.split(".")):
        _require_field(value, name, path, depth)
        value = _current(value, name)
    return value


def replace(module: Any, path: str, value: Any) -> Any:
    """A copy of ``module`` with the field at ``path`` set, rebuilt through the constructors.

    Raises `InvalidInput` for an unknown field, a value of another type, or one that the
    constructor refuses.
    """
    return replace_all(module, {path: value})


def replace_all(module: Any, settings: Mapping[str, Any], _prefix: str = "") -> Any:
    """`replace` for several paths at once: every module is rebuilt, and so checked, once.

    A setting of a whole module (``loss``) comes before settings of its fields (``loss.beta``).
    """
    if not settings:
        return module
    whole: dict[str, Any] = {}
    inside: dict[str, dict[str, Any]] = {}
    for path, value in settings.items():
        name, _, rest = path.partition(".")
        _require_field(module, name, _prefix + path, _prefix.count("."))
        if rest:
            inside.setdefault(name, {})[rest] = value
        else:
            whole[name] = _coerce(_type_hints(type(module))[name], value, _prefix + name)
    arguments = {name: getattr(module, name) for name in field_names(module)} | whole
    for name, deeper in inside.items():
        arguments[name] = replace_all(arguments[name], deeper, f"{_prefix}{name}.")
    return _construct(type(module), arguments, _prefix.rstrip("."))


def parse(module: eqx.Module, path: str, text: str) -> Any:
    """The value that ``text`` means for the field at ``path``.

    Numbers, ``true``/``false``, text and tuples by the field's annotation; for a field that holds a
    module, a kind of the same family with optional arguments: ``Dpo`` or ``dpo(beta=0.2)``, or
    ``none`` where it may hold nothing. Nothing is evaluated. Raises `InvalidInput` for an unknown
    path or kind, or text that is no such value.
    """
    parent_path, _, name = path.rpartition(".")
    parent = get(module, parent_path) if parent_path else module
    _require_field(parent, name, path, path.count("."))
    annotation = _type_hints(type(parent))[name]
    base = _module_type(annotation)
    text = text.strip()
    if base is None:
        return _coerce(annotation, _literal(annotation, text), path)
    if _means_none(annotation, text):
        return None
    kinds = _kinds(base, getattr(parent, name))
    try:
        call = ast.parse(text, mode="eval").body
    except SyntaxError:
        call = None
    return _built(call, text, kinds, path)


def members(base: type, packages: str | types.ModuleType | tuple[str, ...]) -> dict[str, type]:
    """The final (concrete) subclasses of ``base`` defined in or below some packages, by name."""
    roots = packages if isinstance(packages, tuple) else (packages,)
    return {
        name: kind
        for module in itertools.chain.from_iterable(map(_modules, roots))
        for name, kind in vars(module).items()
        if inspect.isclass(kind)
        and kind.__module__ == module.__name__
        and issubclass(kind, base)
        and not _is_abstract(kind)
    }


def _modules(package: str | types.ModuleType) -> list[types.ModuleType]:
    """A package and every module below it."""
    root = importlib.import_module(package) if isinstance(package, str) else package
    names = [root.__name__]
    if hasattr(root, "__path__"):
        names += sorted(
            found.name for found in pkgutil.walk_packages(root.__path__, root.__name__ + ".")
        )
    return [importlib.import_module(name) for name in names]


def parts(kind: type) -> list[type]:
    """Classes of configs that a class's fields hold, at any depth, and that belong to no family."""
    found: dict[type, None] = {}
    for field in _fields(kind):
        part = _module_type(_type_hints(kind)[field.name])
        if part is not None and getattr(part, "family", None) is None:
            found |= dict.fromkeys([part, *parts(part)])
    return list(found)


def admits(kind: type, name: str) -> str:
    """What a field of a config class takes, in words."""
    return _expected(_type_hints(kind)[name])


def unknown(what: str, name: str, known: Iterable[str]) -> InvalidInput:
    """The error for a name that does not exist: nearest name first, then the whole list."""
    known = list(known)
    folded = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    hint = f"did you mean '{folded[near[0]]}'? " if near else ""
    return InvalidInput(f"unknown {what} '{name}': {hint}known: {', '.join(known) or 'none'}")


def field_names(module: Any) -> list[str]:
    """Names of a module's fields in the order of declaration."""
    return [field.name for field in _fields(type(module))]


@functools.cache
def _fields(kind: type) -> tuple[dataclasses.Field, ...]:
    return tuple(field for field in dataclasses.fields(kind) if field.init)


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _require_field(module: Any, name: str, path: str, depth: int) -> None:
    """Refuse the segment number ``depth`` of ``path`` unless ``module`` has such a field."""
    if not isinstance(module, eqx.Module):
        parent = ".".join(path.split(".")[:depth])
        raise InvalidInput(f"unknown field '{path}': '{parent}' is {spell(module)}, without fields")
    if name in field_names(module):
        return
    deeper = [known for known in flatten(module) if known.endswith("." + name)]
    before = "".join(segment + "." for segment in path.split(".")[:depth])
    if deeper:
        raise InvalidInput(f"unknown field '{path}': did you mean '{before}{deeper[0]}'?")
    tried = before + name
    raise unknown("field", tried, [before + known for known in field_names(module)])


def _current(module: Any, name: str) -> Any:
    return _coerce(_type_hints(type(module))[name], getattr(module, name), name)


def jsonable(value: Any) -> Any:
    """Modules described, tuples as lists, infinities and NaN (which JSON lacks) as text."""
    if isinstance(value, eqx.Module):
        return describe(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _construct(kind: type, arguments: Mapping[str, Any], path: str) -> Any:
    try:
        return kind(**arguments)
    except InvalidInput as error:
        if not path:
            raise
        raise InvalidInput(f"{path}: {error}") from error


def _is_abstract(kind: type) -> bool:
    return inspect.isabstract(kind) or any(
        getattr(kind, name, ()) for name in ("__abstractvars__", "__abstractclassvars__")
    )


def _module_type(annotation: Any) -> type | None:
    """The module class that a field is declared to hold, if it is one."""
    for option in _options(annotation):
        if inspect.isclass(option) and issubclass(option, eqx.Module):
            return option
    return None


def _kinds(base: type, present: Any = None) -> dict[str, type]:
    """What a field declared as ``base`` may hold: its family, or what it is declared as if it has none; and the kind
    that is there now."""
    family = getattr(base, "family", None)
    found = members(base, family) if family else {}
    now = base if present is None else type(present)
    return found | ({} if found and present is None else {now.__name__: now})


def _means_none(annotation: Any, text: str) -> bool:
    """Whether ``text`` says that a field holds nothing, and it may."""
    return type(None) in _options(annotation) and text.casefold() == "none"


def _built(node: ast.AST | None, text: str, kinds: Mapping[str, type], path: str) -> Any:
    """The module that ``Name`` or ``Name(field=value, ...)`` describes."""
    call = node if isinstance(node, ast.Call) else None
    name = call.func if call else node
    if not isinstance(name, ast.Name):
        raise InvalidInput(
            f"{path} takes a kind such as {next(iter(kinds))} or {next(iter(kinds))}(field=value), "
            f"got '{text}'"
        )
    by_name = {known.casefold(): kind for known, kind in kinds.items()}
    kind = by_name.get(name.id.casefold())
    if kind is None:
        raise unknown(f"kind for {path}", name.id, kinds)
    if call and (call.args or any(keyword.arg is None for keyword in call.keywords)):
        raise InvalidInput(f"{path}: arguments of {kind.__name__} are named, got '{text}'")
    arguments = {
        str(keyword.arg): _argument(kind, keyword, f"{path}.{keyword.arg}")
        for keyword in (call.keywords if call else ())
    }
    missing = [
        field.name
        for field in _fields(kind)
        if _default(field) is dataclasses.MISSING and field.name not in arguments
    ]
    if missing:
        raise InvalidInput(f"{path}: {kind.__name__} needs {', '.join(missing)}, got '{text}'")
    return _construct(kind, arguments, path)


def _argument(kind: type, keyword: ast.keyword, path: str) -> Any:
    name = str(keyword.arg)
    names = [field.name for field in _fields(kind)]
    if name not in names:
        raise unknown(f"field of {kind.__name__}", name, names)
    annotation = _type_hints(kind)[name]
    base = _module_type(annotation)
    text = ast.unparse(keyword.value)
    if base is not None:
        if _means_none(annotation, text):
            return None
        return _built(keyword.value, text, _kinds(base), path)
    if isinstance(keyword.value, ast.Name):
        return _coerce(annotation, _literal(annotation, text), path)
    try:
        return _coerce(annotation, ast.literal_eval(keyword.value), path)
    except ValueError as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{path} must be {_expected(annotation)}, got '{text}'") from error


def _literal(annotation: Any, text: str) -> Any:
    """Text to a Python value, guided by what the annotation admits; unreadable text stays text."""
    options = [_scalar_type(option) for option in _options(annotation)]
    if bool in options and text.casefold() in ("true", "false"):
        return text.casefold() == "true"
    if type(None) in options and text.casefold() == "none":
        return None
    readers: list[Callable[[str], Any]] = [kind for kind in (int, float) if kind in options]
    if any(typing.get_origin(option) in (tuple, typing.Literal) for option in options):
        readers.append(ast.literal_eval)
    for reader in readers:
        try:
            return reader(text)
        except (ValueError, SyntaxError):
            continue
    return text


def _options(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union; one alternative otherwise."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _scalar_type(option: Any) -> Any:
    """float, int or bool for a jaxtyping array of that kind (a traced leaf); else itself."""
    if inspect.isclass(option) and issubclass(option, jaxtyping.AbstractArray):
        dtypes = getattr(option, "dtypes", ())
        for kind, marker in ((float, "float32"), (int, "int32"), (bool, "bool")):
            if marker in dtypes:
                return kind
    return option


def _coerce(annotation: Any, value: Any, path: str) -> Any:
    """``value`` normalised to the annotation (1 is 1.0 in a float field), or `InvalidInput`."""
    if hasattr(value, "dtype") and np.ndim(value) == 0:
        array = np.asarray(value)
        # Through the shortest text, so that float32(0.1) is 0.1 and not 0.10000000149.
        value = float(str(array[()])) if array.dtype.kind == "f" else array.item()
    for option in _preferred(annotation):
        accepted, result = _match(option, value, path)
        if accepted:
            return result
    raise InvalidInput(f"{path} must be {_expected(annotation)}, got {_shown(value)}")


@functools.cache
def _preferred(annotation: Any) -> tuple[Any, ...]:
    """The scalar types that an annotation admits, float first: it takes whole numbers too."""
    options = dict.fromkeys(map(_scalar_type, _options(annotation)))
    return tuple(sorted(options, key=lambda option: option is not float))


def _match(option: Any, value: Any, path: str) -> tuple[bool, Any]:
    """Whether one alternative of an annotation admits ``value``, and the normalised value."""
    origin = typing.get_origin(option)
    if option is Any:
        return True, value
    if option is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number, float(value) + 0.0 if number else None  # + 0.0 turns -0.0 into 0.0
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
        return True, tuple(_coerce(kind, item, path) for kind, item in pairs)
    return inspect.isclass(option) and isinstance(value, option), value


def _expected(annotation: Any) -> str:
    """What an annotation admits, in words."""
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    parts = []
    for option in dict.fromkeys(_scalar_type(option) for option in _options(annotation)):
        if typing.get_origin(option) is typing.Literal:
            parts.append("one of " + ", ".join(map(str, typing.get_args(option))))
        elif option is type(None):
            parts.append("none")
        else:
            name = option.__name__ if inspect.isclass(option) else str(option)
            parts.append(words.get(option, name))
    return " or ".join(parts)


def _shown(value: Any) -> str:
    return spell(value) if isinstance(value, eqx.Module | int | float) else repr(value)

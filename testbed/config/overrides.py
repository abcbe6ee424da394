"""Configs as data: describe, fingerprint, change and parse nested `equinox.Module` objects.

A config is a tree of modules whose fields hold plain numbers, booleans, text, tuples and further
modules. A *path* such as ``loss.beta`` names a field at any depth. Everything goes through the
constructors, so the modules' own checks run, and values are normalised by the field's annotation:
``1`` and ``1.0`` are the same value of a float field and have the same fingerprint.
"""

import ast
import dataclasses
import functools
import importlib
import inspect
import itertools
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx

from testbed.config.canonical_form import (
    alternatives,
    coerce,
    current,
    default_of,
    expected,
    field_names,
    fields_of,
    flatten,
    names_of,
    read,
    scalar_type,
    spell,
    type_hints,
)
from testbed.errors import InvalidInput, unknown


def get(module: eqx.Module, path: str) -> Any:
    """The value at ``path``, normalised. Raises `InvalidInput` for an unknown field."""
    value: Any = module
    for depth, name in enumerate(path.split(".")):
        if name not in _known(type(value)):
            raise _no_field(value, name, path, depth)
        value = current(value, name)
    return value


def replace(module: Any, path: str, value: Any) -> Any:
    """A copy of ``module`` with the field at ``path`` set, rebuilt through the constructors.

    Raises `InvalidInput` for an unknown field, a value of another type, or one that the
    constructor refuses.
    """
    return replace_all(module, {path: value})


def replace_all(
    module: Any, settings: Mapping[str, Any], made: dict[Any, Any] | None = None, _prefix: str = ""
) -> Any:
    """`replace` for several paths at once: every module is rebuilt, and therefore checked, once.

    A setting of a whole module (``loss``) comes before settings of its fields (``loss.beta``). Calls that share the
    dictionary ``made``, empty at first, share the modules that result from the same changes.
    """
    if not settings:
        return module
    kind = type(module)
    changes: dict[str, Any] = {}
    inside: dict[str, dict[str, Any]] = {}
    for path, value in settings.items():
        name, _, rest = path.partition(".")
        if name not in _known(kind):
            raise _no_field(module, name, _prefix + path, _prefix.count("."))
        if rest:
            inside.setdefault(name, {})[rest] = value
        else:
            changes[name] = coerce(type_hints(kind)[name], value, _prefix + name)
    for name, deeper in inside.items():
        old = changes[name] if name in changes else read(module, name)
        key = (id(old), *((path, _mark(value)) for path, value in deeper.items()))
        if made is None or key not in made:
            new = replace_all(old, deeper, made, f"{_prefix}{name}.")
            if made is None:
                changes[name] = new
                continue
            # The objects that the key names by identity are kept, so that no other object gets their identity.
            made[key] = new, old, tuple(deeper.values())
        changes[name] = made[key][0]
    return _rebuilt(module, changes, _prefix.rstrip("."))


def varied(module: Any, name: str, value: Any) -> Any:
    """A copy with another value in one field, without running the module's own checks.

    Use it for thousands of copies of a module that was checked with values on either side. Raises `InvalidInput` for a
    value of another type.
    """
    return _copied(module, {name: coerce(type_hints(type(module))[name], value, name)})


def _mark(value: Any) -> Any:
    """A key that tells values apart: 1, 1.0 and True are equal in Python but are different values."""
    return repr(value) if isinstance(value, bool | int | float | str | None) else id(value)


def _rebuilt(module: Any, changes: Mapping[str, Any], path: str) -> Any:
    """A module with some fields changed, checked as its constructor would check it."""
    kind = type(module)
    checks = _checks(kind)
    if checks is None:
        fields = {name: read(module, name) for name in names_of(kind)}
        return _construct(kind, {**fields, **changes}, path)
    made = _copied(module, changes)
    try:
        for check in checks:
            check(made)
    except InvalidInput as error:
        if not path:
            raise
        raise InvalidInput(f"{path}: {error}") from error
    return made


def _copied(module: Any, changes: Mapping[str, Any]) -> Any:
    made = object.__new__(type(module))
    for name in names_of(type(module)):
        value = changes[name] if name in changes else read(module, name)
        object.__setattr__(made, name, value)
    return made


@functools.cache
def _checks(kind: type) -> tuple[Callable[[Any], None], ...] | None:
    """The checks that the constructor of a class of plain fields runs once the fields are set; None if it does more.

    `equinox.Module` sets a dataclass's fields as they are given, then runs ``__check_init__`` of the class and of its
    base classes; doing only that takes a tenth of the constructor's time.
    """
    fields = dataclasses.fields(kind)
    plain = all(field.init and "converter" not in field.metadata for field in fields)
    code = getattr(kind.__init__, "__code__", None)
    generated = (
        code is not None and code.co_filename == "<string>"
    )  # dataclasses compile their methods under this name
    if not plain or not generated or hasattr(kind, "__post_init__"):
        return None
    return tuple(
        vars(base)["__check_init__"] for base in kind.__mro__ if "__check_init__" in vars(base)
    )


def parse(module: eqx.Module, path: str, text: str) -> Any:
    """The value that ``text`` means for the field at ``path``.

    The field's annotation decides how numbers, ``true``/``false``, text and tuples are read. For a field that holds a
    module, the text names a kind of the same family with optional arguments: ``Dpo`` or ``dpo(beta=0.2)``, or ``none``
    where the field may be empty. Nothing is evaluated. Raises `InvalidInput` for an unknown path or kind, or text that
    does not describe a value.
    """
    parent_path, _, name = path.rpartition(".")
    parent = get(module, parent_path) if parent_path else module
    if name not in _known(type(parent)):
        raise _no_field(parent, name, path, path.count("."))
    annotation = type_hints(type(parent))[name]
    base = _module_type(annotation)
    text = text.strip()
    if base is None:
        return coerce(annotation, _literal(annotation, text), path)
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
    for field in fields_of(kind):
        part = _module_type(type_hints(kind)[field.name])
        if part is not None and getattr(part, "family", None) is None:
            found |= dict.fromkeys([part, *parts(part)])
    return list(found)


def admits(kind: type, name: str) -> str:
    """What a config class's field accepts, in words."""
    return expected(type_hints(kind)[name])


@functools.cache
def _known(kind: type) -> frozenset[str]:
    """Names of the fields of a class; empty if it is not a class of modules."""
    return frozenset(names_of(kind) if issubclass(kind, eqx.Module) else ())


def _no_field(module: Any, name: str, path: str, depth: int) -> InvalidInput:
    """The error for an unknown field: ``module`` has no field ``name``, which is segment number ``depth`` of
    ``path``."""
    if not isinstance(module, eqx.Module):
        parent = ".".join(path.split(".")[:depth])
        return InvalidInput(
            f"unknown field '{path}': '{parent}' is {spell(module)}, without fields"
        )
    deeper = [known for known in flatten(module) if known.endswith("." + name)]
    before = "".join(segment + "." for segment in path.split(".")[:depth])
    if deeper:
        return InvalidInput(f"unknown field '{path}': did you mean '{before}{deeper[0]}'?")
    return unknown("field", before + name, [before + known for known in field_names(module)])


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
    """The module class that a field is declared to hold, if it is declared as one."""
    for option in alternatives(annotation):
        if inspect.isclass(option) and issubclass(option, eqx.Module):
            return option
    return None


def _kinds(base: type, present: Any = None) -> dict[str, type]:
    """The kinds that a field declared as ``base`` may hold: the members of its family, or ``base`` itself if it has no
    family; and the kind of the present value."""
    family = getattr(base, "family", None)
    found = members(base, family) if family else {}
    now = base if present is None else type(present)
    return found | ({} if found and present is None else {now.__name__: now})


def _means_none(annotation: Any, text: str) -> bool:
    """Whether ``text`` means None and the field may be None."""
    return type(None) in alternatives(annotation) and text.casefold() == "none"


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
        for field in fields_of(kind)
        if default_of(field) is dataclasses.MISSING and field.name not in arguments
    ]
    if missing:
        raise InvalidInput(f"{path}: {kind.__name__} needs {', '.join(missing)}, got '{text}'")
    return _construct(kind, arguments, path)


def _argument(kind: type, keyword: ast.keyword, path: str) -> Any:
    name = str(keyword.arg)
    names = [field.name for field in fields_of(kind)]
    if name not in names:
        raise unknown(f"field of {kind.__name__}", name, names)
    annotation = type_hints(kind)[name]
    base = _module_type(annotation)
    text = ast.unparse(keyword.value)
    if base is not None:
        if _means_none(annotation, text):
            return None
        return _built(keyword.value, text, _kinds(base), path)
    if isinstance(keyword.value, ast.Name):
        return coerce(annotation, _literal(annotation, text), path)
    try:
        return coerce(annotation, ast.literal_eval(keyword.value), path)
    except ValueError as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{path} must be {expected(annotation)}, got '{text}'") from error


def _literal(annotation: Any, text: str) -> Any:
    """Text to a Python value, guided by what the annotation admits; unreadable text stays text."""
    options = [scalar_type(option) for option in alternatives(annotation)]
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

"""Files that configs depend on beside their fields, by content: users' own code, and files that fields name.

Stages, programs and runs that depend on such a file carry its content in their address or name, so that an edited file
is never taken for what it was. Code of the testbed's own packages is accounted for elsewhere (`testbed.stages`,
`sweeps.provenance`).

A class of a user's is followed through its file's imports, those inside functions included, to every file below the
folders of users' code (`follow`), or of the package that the class was installed with. A file that imports by names
which only its run gives (``importlib.import_module(name)``, ``exec``) counts with all that is loaded from below its
folder. What a user's code reads by itself (a file of weights, say) is seen if a field of the config names it, or if the
class has a method ``content()`` that returns a text which changes with it.
"""

import ast
import functools
import hashlib
import importlib.util
import os
import sys
import sysconfig
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import equinox as eqx

from testbed.forms import names_of, read

#: Packages whose code is accounted for elsewhere.
OURS = ("testbed", "envs", "sweeps", "analysis")
#: What the names of the modules begin with that are made of study files (`sweeps.user_files`).
STUDY = "user_study_"
#: Calls that load code by names that reading a file does not tell.
_DYNAMIC = {"__import__", "exec", "exec_module", "import_module", "run_module", "run_path"}
_folders: set[Path] = set()
_MOST_WALKED = 100_000


def follow(folder: Path) -> None:
    """Count what is loaded from below ``folder``, at any depth, as users' own code from now on."""
    _folders.add(folder.resolve())


def sources(things: Iterable[Any]) -> list[str]:
    """What configs depend on beside their fields, hashed and sorted: nothing for configs of the testbed's own classes.

    A hash for each class of others' that the configs hold at any depth (see `files`), for each file that a text field
    of such a class names, and the text of ``content()`` for each module that has such a method. A class without a file,
    typed into a notebook for one, has a new hash in every process: nothing made with it before is taken for its own.
    """
    found: set[str] = set()
    for parts in map(_walk, things):
        found.update(map(_hash, parts.kinds))
        found.update(f"{Path(path).name} {file_hash(Path(path))}" for path in parts.named())
        found.update(text for module in parts.contents if (text := module.content()))
    return sorted(found)


def files(things: Iterable[Any]) -> dict[str, str]:
    """The files behind `sources`: path, relative to the folder of the user's code that holds it, and the beginning of
    the SHA-256 of its text; ``content`` of modules by their class's name."""
    found: dict[str, str] = {}
    for parts in map(_walk, things):
        for kind in parts.kinds:
            for name, text in _texts(kind).items():
                found[name] = _short(text.encode())
        found |= {Path(path).name: file_hash(Path(path))[:16] for path in parts.named()}
        for module in parts.contents:
            if text := module.content():
                found[type(module).__name__] = _short(text.encode())
    return dict(sorted(found.items()))


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal; read again only if the file has changed. Raises `OSError`."""
    status = path.stat()
    return _file_hash(str(path), status.st_ino, status.st_size, status.st_mtime_ns)


def package_files(folder: Path) -> Iterator[Path]:
    """The files of a package, data included, that are part of its source."""
    return (
        path
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    )


@functools.lru_cache(maxsize=4096)
def _file_hash(path: str, inode: int, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


class _Walked(NamedTuple):
    """What a config holds at any depth: classes of others', texts of their fields, modules with a ``content()``."""

    kinds: frozenset[type] = frozenset()
    texts: frozenset[str] = frozenset()
    contents: tuple[Any, ...] = ()

    def named(self) -> list[str]:
        """The files among the texts."""
        return sorted(text for text in self.texts if _is_file(text))

    def __or__(self, other: "_Walked") -> "_Walked":  # type: ignore[override]
        return _Walked(
            self.kinds | other.kinds, self.texts | other.texts, self.contents + other.contents
        )


_NOTHING = _Walked()
#: What modules inside of configs hold, by identity; the modules are kept, so that no other gets their identity. Modules
#: do not change, and thousands of configs share them.
_WALKED: dict[int, tuple[Any, _Walked]] = {}


def _walk(thing: Any) -> _Walked:
    if isinstance(thing, tuple | list):
        return functools.reduce(_Walked.__or__, map(_walk, thing), _NOTHING)
    if not isinstance(thing, eqx.Module):
        return _NOTHING
    kind = type(thing)
    values = [read(thing, name) for name in names_of(kind)]
    parts = [
        _walk_inside(value) for value in values if isinstance(value, eqx.Module | tuple | list)
    ]
    found = functools.reduce(
        _Walked.__or__, (part for part in parts if part is not _NOTHING), _NOTHING
    )
    if kind.__module__.partition(".")[0] not in OURS:
        texts = frozenset(value for value in values if isinstance(value, str) and value)
        found = found | _Walked(frozenset({kind}), texts)
    if callable(getattr(kind, "content", None)):
        found = found | _Walked(contents=(thing,))
    return found


def _walk_inside(thing: Any) -> _Walked:
    if not isinstance(thing, eqx.Module):
        return _walk(thing)
    known = _WALKED.get(id(thing))
    if known is None:
        if len(_WALKED) >= _MOST_WALKED:
            _WALKED.clear()
        known = _WALKED[id(thing)] = thing, _walk(thing)
    return known[1]


def _is_file(text: str) -> bool:
    try:
        return os.path.isfile(text)
    except ValueError:  # a NUL byte
        return False


@functools.cache
def _hash(kind: type) -> str:
    texts = _texts(kind)
    if not texts:
        # Typed into a notebook, say, and perhaps typed differently the next time: found again by nobody.
        return uuid.uuid4().hex
    return hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()


#: The texts that count for a module's classes, as the process that sent users' files has found them.
_SENT: dict[str, Mapping[str, str]] = {}


def received(texts: Mapping[str, Mapping[str, str]]) -> None:
    """Take the `texts` of modules from the process that users' files come from, where all of them can be read."""
    _SENT.update(texts)


def _texts(kind: type) -> Mapping[str, str]:
    """The texts that count for a class, by name of the file; none if its module has no text."""
    return _SENT.get(kind.__module__) or texts(sys.modules[kind.__module__])


def texts(module: ModuleType) -> dict[str, str]:
    """The texts that count for a module's classes, by path below the folder of users' code."""
    scope = _scope(module)
    return {_relative(path, name, scope): text for name, (path, text) in followed(module).items()}


def followed(module: ModuleType, scope: "_Scope | None" = None) -> dict[str, tuple[Path, str]]:
    """Path and text of a user's module and of what it imports from below the folders of users' code, by name."""
    content, scope = text(module), scope or _scope(module)
    if content is None:
        return {}
    own = {module.__name__: (_path(module) or Path(module.__name__), content)}
    queue = [module.__name__]
    while queue:
        name = queue.pop()
        for other, place in _imported(name, *own[name], scope):
            if other not in own:
                there = sys.modules.get(other)
                content = text(there) if there else _read(place)
                if content is not None:
                    own[other] = place, content
                    queue.append(other)
    return own


def reached(*modules: ModuleType) -> str:
    """A hash of the testbed's own files that some of its modules can reach by imports, themselves included."""
    folders = tuple(
        path.parent for name in OURS if (path := _path(sys.modules.get(name))) is not None
    )
    scope = _Scope(folders, tuple({folder.parent for folder in folders}), True, own=True)
    found = {
        name: text for module in modules for name, (_, text) in followed(module, scope).items()
    }
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def is_followed(module: Any) -> bool:
    """Whether a module was loaded from below a folder that `follow` was given."""
    path = _path(module) if isinstance(module, ModuleType) else None
    return path is not None and _folders_scope().holds(module.__name__, path)


#: Texts of modules as they were when they were first asked for: those that run, if files change later.
_TEXTS: dict[str, tuple[ModuleType, str | None]] = {}


def note(module: ModuleType) -> None:
    """Read the text of a module, and of all that it follows, now that they have just been loaded."""
    followed(module)


def text(module: ModuleType) -> str | None:
    """As its loader has it, which need not be a file of this machine; None where there is no text."""
    known = _TEXTS.get(module.__name__)
    if known is None or known[0] is not module:
        read_source = getattr(getattr(module, "__loader__", None), "get_source", None)
        try:
            text = read_source(module.__name__) if read_source else None
        except (OSError, ImportError, SyntaxError):
            text = None
        known = _TEXTS[module.__name__] = module, text
    return known[1]


def _read(path: Path) -> str | None:
    try:
        return importlib.util.decode_source(path.read_bytes())
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def _path(module: Any) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) else None


class _Scope(NamedTuple):
    """Where a module's imports are followed: to files below ``within``; names are looked up in ``search``. ``own``
    follows those of the testbed's packages, and no others."""

    within: tuple[Path, ...]
    search: tuple[Path, ...]
    installed: bool
    own: bool = False

    def holds(self, name: str, place: Path) -> bool:
        """Whether a module's file is users' own code here."""
        return (
            place.suffix == ".py"
            and (name.partition(".")[0] in OURS) == self.own
            and (self.installed or not _installed(place))
            and any(place.is_relative_to(folder) for folder in self.within)
        )


def _folders_scope() -> _Scope:
    folders = tuple(sorted(_folders))
    return _Scope(folders, folders, False)


def _scope(module: ModuleType) -> _Scope:
    """The folders that `follow` was given, of which one holds the module; else its outermost package, or its folder."""
    path = _path(module)
    if path is None:
        return _Scope((), (), False)
    installed = _installed(path)
    if _folders_scope().holds(module.__name__, path):
        return _folders_scope()
    package = sys.modules.get(module.__name__.partition(".")[0])
    outermost = _path(package) if package and package is not module else None
    if outermost:
        return _Scope((outermost.parent,), (outermost.parent.parent,), installed)
    # A single installed file has no folder of its own.
    return _Scope((path,) if installed else (path.parent,), (path.parent,), installed)


@functools.cache
def _library_folders() -> tuple[Path, ...]:
    return tuple({Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")})


def _installed(path: Path) -> bool:
    """Whether a file belongs to an installed package or to Python."""
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return any(path.is_relative_to(folder) for folder in _library_folders())


def _relative(path: Path, name: str, scope: _Scope) -> str:
    """A file's path below the innermost folder that holds it, the same wherever that folder lies."""
    holding = [folder for folder in scope.search if path.is_relative_to(folder)]
    if not holding:
        return name
    return path.relative_to(max(holding, key=lambda folder: len(folder.parts))).as_posix()


def _imported(name: str, path: Path, text: str, scope: _Scope) -> Iterator[tuple[str, Path]]:
    """The modules of users' own code that a module's text imports anywhere, with the packages that they are in."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for wanted in _wanted(tree, package):
        parts = wanted.split(".")
        for depth in range(1, len(parts) + 1):
            found = _located(".".join(parts[:depth]), scope)
            if found:
                yield found
    if _is_dynamic(tree):
        for other, module in list(sys.modules.items()):
            place = _path(module) if not other.startswith(STUDY) else None
            if place and scope.holds(other, place):
                yield other, place


def _wanted(tree: ast.AST, package: str) -> Iterator[str]:
    """The dotted names that may be modules in a file's import statements."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            if base:
                yield base
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in _DYNAMIC and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def _is_dynamic(tree: ast.AST) -> bool:
    """Whether a file loads code by a name that only its run gives."""
    return any(
        isinstance(node, ast.Call)
        and _called(node) in _DYNAMIC
        and not (node.args and isinstance(node.args[0], ast.Constant))
        for node in ast.walk(tree)
    )


def _called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _located(name: str, scope: _Scope) -> tuple[str, Path] | None:
    """Where a module of users' own code is: as it was loaded, or as it would be. None for any other."""
    loaded = sys.modules.get(name)
    place = _path(loaded) if loaded else None
    if loaded is None and all(part.isidentifier() for part in name.split(".")):
        below = [folder / name.rpartition(".")[2] for folder in _searched(name, scope)]
        files = [file for one in below for file in (one / "__init__.py", one.with_suffix(".py"))]
        place = next((file.resolve() for file in files if file.is_file()), None)
    return (name, place) if place and scope.holds(name, place) else None


def _searched(name: str, scope: _Scope) -> list[Path]:
    """The folders in which Python would look for a module, of those that count."""
    above = name.rpartition(".")[0]
    if above:
        parent = sys.modules.get(above)
        if parent is not None:
            return [Path(place).resolve() for place in getattr(parent, "__path__", ())]
        return [folder / above.rpartition(".")[2] for folder in _searched(above, scope)]
    order = [Path(place).resolve() for place in sys.path if place]
    return [place for place in order if place in scope.search]

"""Files of users' code: the files that a module depends on by its imports. For the testbed's own code see
`testbed.stages.code`.

A module's imports, including those inside functions, are followed to every file below the folders of users' code
(`follow`), or inside the package that the module was installed with.
"""

import ast
import functools
import importlib.util
import itertools
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

#: Packages whose code other modules account for.
OURS = ("testbed", "envs", "sweeps", "analysis")
#: Prefix of the names of modules that are made from study files (`sweeps.user_files`).
STUDY = "user_study_"
#: Calls that load code by names which are known only when the code runs.
_DYNAMIC = {"__import__", "exec", "exec_module", "import_module", "run_module", "run_path"}
#: Largest number of files that count for a file with such a call.
_MOST_FILES = 2000
_folders: set[Path] = set()


def follow(folder: Path) -> None:
    """Treat every file loaded from below ``folder``, at any depth, as users' own code from now on."""
    # Both the path as given and the resolved path: files reached through a link count too.
    _folders.update((Path(os.path.abspath(folder)), folder.resolve()))


def package_files(folder: Path) -> Iterator[Path]:
    """The files of a package, data included, that are part of its source."""
    return (
        path
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    )


#: The texts that count for a module's classes, as determined by the process that sent the users' files.
_SENT: dict[str, Mapping[str, str]] = {}


def received(texts: Mapping[str, Mapping[str, str]]) -> None:
    """Store the `texts` of modules, computed by the process that users' files come from, where all of them can be
    read."""
    _SENT.update(texts)


def texts_of(kind: type) -> Mapping[str, str]:
    """The texts that count for a class, by file name; empty if the text of its module is not available."""
    return _SENT.get(kind.__module__) or texts(sys.modules[kind.__module__])


def texts(module: ModuleType) -> dict[str, str]:
    """The texts that count for a module's classes, by path below the folder of users' code."""
    scope = _scope(module)
    return {_relative(path, name, scope): text for name, (path, text) in followed(module).items()}


def followed(module: ModuleType) -> dict[str, tuple[Path, str]]:
    """Path and text, by module name, of a user's module and of every module that it imports from below the folders of
    users' code."""
    content, scope = text(module), _scope(module)
    if content is None:
        return {}
    reached = {module.__name__: (_path(module) or Path(module.__name__), content)}
    queue = [module.__name__]
    while queue:
        name = queue.pop()
        for other, place in _imported(name, *reached[name], scope):
            if other not in reached:
                loaded = sys.modules.get(other)
                content = text(loaded) if loaded else _read(place)
                if content is not None:
                    reached[other] = place, content
                    queue.append(other)
    return reached


def is_followed(module: Any) -> bool:
    """Whether a module was loaded from below a folder that `follow` was given."""
    path = _path(module) if isinstance(module, ModuleType) else None
    return path is not None and _folders_scope().holds(module.__name__, path)


#: Texts of modules as they were at the first request: the code that runs, even if the files change later.
_TEXTS: dict[str, tuple[ModuleType, Any, str | None]] = {}


def text(module: ModuleType) -> str | None:
    """The text of a module from its loader, which need not read a file of this machine; None if there is no text."""
    known = _TEXTS.get(module.__name__)
    spec = getattr(module, "__spec__", None)  # another object once the module is loaded again
    if known is None or known[0] is not module or known[1] is not spec:
        read_source = getattr(getattr(module, "__loader__", None), "get_source", None)
        try:
            text = read_source(module.__name__) if read_source else None
        except (OSError, ImportError, SyntaxError):
            text = None
        known = _TEXTS[module.__name__] = module, spec, text
    return known[2]


def _read(path: Path) -> str | None:
    try:
        return importlib.util.decode_source(path.read_bytes())
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def _path(module: Any) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(os.path.abspath(file)) if isinstance(file, str) else None


class _Scope(NamedTuple):
    """Where a module's imports are followed: names are looked up in ``search``, and files must lie below ``within``."""

    within: tuple[Path, ...]
    search: tuple[Path, ...]
    installed: bool

    def holds(self, name: str, place: Path) -> bool:
        """Whether a module's file is users' own code in this scope."""
        return (
            place.suffix == ".py"
            and package_of(name) not in OURS
            and (self.installed or not is_installed(place))
            and any(place.is_relative_to(folder) for folder in self.within)
        )


def _folders_scope() -> _Scope:
    folders = tuple(sorted(_folders))
    return _Scope(folders, folders, False)


def _scope(module: ModuleType) -> _Scope:
    """The folders given to `follow`, if one of them holds the module; otherwise its outermost package, or its
    folder."""
    path = _path(module)
    if path is None:
        return _Scope((), (), False)
    installed = is_installed(path)
    if _folders_scope().holds(module.__name__, path):
        return _folders_scope()
    package = sys.modules.get(package_of(module.__name__))
    outermost = _path(package) if package and package is not module else None
    if outermost:
        return _Scope((outermost.parent,), (outermost.parent.parent,), installed)
    # The folder of a single installed file also holds files of other packages.
    return _Scope((path,) if installed else (path.parent,), (path.parent,), installed)


@functools.cache
def _library_folders() -> tuple[Path, ...]:
    return tuple({Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")})


def is_installed(path: Path) -> bool:
    """Whether a file belongs to an installed package or to Python itself."""
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return any(path.is_relative_to(folder) for folder in _library_folders())


def _relative(path: Path, name: str, scope: _Scope) -> str:
    """A file's path below the innermost folder that holds it; it does not depend on where that folder lies."""
    holding = [folder for folder in scope.search if path.is_relative_to(folder)]
    if not holding:
        return name
    return path.relative_to(max(holding, key=lambda folder: len(folder.parts))).as_posix()


def _imported(name: str, path: Path, text: str, scope: _Scope) -> Iterator[tuple[str, Path]]:
    """The users' own modules that a module's text imports anywhere, and the packages that contain them."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for part in itertools.chain.from_iterable(map(with_packages, wanted(tree, package))):
        located = _located(part, scope)
        if located:
            yield located
    if is_dynamic(tree):
        for other, module in list(sys.modules.items()):
            place = _path(module) if not other.startswith(STUDY) else None
            if place and scope.holds(other, place):
                yield other, place
        for place in itertools.islice(_python_files(path.parent), _MOST_FILES):
            yield f"file {place.relative_to(path.parent).as_posix()}", place


def _python_files(folder: Path) -> Iterator[Path]:
    """Python files below a folder, hidden and installed ones left out."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name != "site-packages"
        )
        yield from (Path(place, name) for name in sorted(names) if name.endswith(".py"))


def wanted(tree: ast.AST, package: str) -> Iterator[str]:
    """The dotted names that may be modules in a file's import statements."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Call) and last_name(node.func) in _DYNAMIC and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield _absolute(first.value, package)


def _absolute(name: str, package: str) -> str:
    """A name in an import, as seen from the outside of the package."""
    try:
        return importlib.util.resolve_name(name, package)
    except ImportError:  # it leads out of all packages
        return name.lstrip(".")


def is_dynamic(tree: ast.AST) -> bool:
    """Whether a file loads code by a name that is known only when the file runs."""
    return any(
        isinstance(node, ast.Call)
        and last_name(node.func) in _DYNAMIC
        and not (node.args and isinstance(node.args[0], ast.Constant))
        for node in ast.walk(tree)
    )


def last_name(node: ast.expr) -> str:
    """``x`` of ``x`` and of ``module.x``; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def with_packages(name: str) -> Iterator[str]:
    """A module's name, preceded by the names of the packages around it."""
    parts = name.split(".")
    return (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))


def package_of(name: str) -> str:
    """The outermost package of a module."""
    return name.partition(".")[0]


def _located(name: str, scope: _Scope) -> tuple[str, Path] | None:
    """Name and file of a module of users' own code, whether it is loaded or not. None for any other module."""
    loaded = sys.modules.get(name)
    place = _path(loaded) if loaded else None
    if loaded is None and all(part.isidentifier() for part in name.split(".")):
        below = [folder / name.rpartition(".")[2] for folder in _searched(name, scope)]
        files = [file for one in below for file in (one / "__init__.py", one.with_suffix(".py"))]
        place = next((file for file in files if file.is_file()), None)
    return (name, place) if place and scope.holds(name, place) else None


def _searched(name: str, scope: _Scope) -> list[Path]:
    """The folders in which Python would look for a module, limited to the folders that count."""
    above = name.rpartition(".")[0]
    if above:
        parent = sys.modules.get(above)
        if parent is not None:
            return [Path(os.path.abspath(place)) for place in getattr(parent, "__path__", ())]
        return [folder / above.rpartition(".")[2] for folder in _searched(above, scope)]
    order = [Path(os.path.abspath(place)) for place in sys.path if place]
    return [place for place in order if place in scope.search]

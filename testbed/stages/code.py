"""A hash of the code that a stage's result depends on: all files of the engine and the worlds that the stage can reach
by imports.

Imports are read from the files, including imports inside functions, but not imports under ``TYPE_CHECKING``. A Python
file enters the hash as its syntax tree without docstrings: comments, layout and docstrings change no hash. Other files
enter as they are, for the modules that use ``__file__``, by which such files are found.
"""

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx

import testbed
from testbed.config import code_files
from testbed.config.canonical_form import names_of, read
from testbed.config.code_files import package_of, with_packages

#: Packages whose files enter hashes. The other packages set up, store and show results; users' files may import them,
#: and imports are followed through them.
_COUNTED = ("testbed", "envs")


class _File(NamedTuple):
    """The data of a module: its hash, its imported names, and whether it uses ``__file__``."""

    digest: str
    wanted: tuple[str, ...]
    finds_files: bool


class Code:
    """The project's packages in a folder. Every file is read once, when it is first reached."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[str, _File | None] = {}
        self._hashes: dict[Any, str] = {}

    def reached_by(self, names: Iterable[str]) -> frozenset[str]:
        """The modules that the named modules reach by imports, including the named modules and the packages around
        them."""
        reached: set[str] = set()
        queue = [part for name in names for part in with_packages(name)]
        while queue:
            name = queue.pop()
            file = None if name in reached else self._file(name)
            if file is not None:
                reached.add(name)
                queue.extend(part for other in file.wanted for part in with_packages(other))
        return frozenset(reached)

    def hash_of(self, modules: Iterable[str], classes: Iterable[type] = (), told: Any = ()) -> str:
        """A hash of all code that the given modules, and the given classes with their bases, can reach. ``told``
        describes users' files behind the classes (`testbed.config.user_code.sources`): when it changes, the imports of
        these files are followed again."""
        key = frozenset(modules), frozenset(classes), tuple(told)
        if key not in self._hashes:
            names = [*key[0], *(name for kind in key[1] for name in self._modules_of(kind))]
            self._hashes[key] = self._hash(self.reached_by(names))
        return self._hashes[key]

    def everything(self) -> list[str]:
        """The names of all modules whose files enter hashes."""
        found = [path for name in _COUNTED for path in (self._root / name).rglob("*.py")]
        return [".".join(path.relative_to(self._root).with_suffix("").parts) for path in found]

    def _hash(self, names: Iterable[str]) -> str:
        """A hash of modules, and of the data files that some of the modules find."""
        digest = hashlib.sha256()
        for name in sorted(names):
            file = self._file(name)
            if file is None or package_of(name) not in _COUNTED:
                continue
            digest.update(f"{name} {file.digest}\n".encode())
            for path in self._data_files(name) if file.finds_files else ():
                digest.update(path.relative_to(self._root).as_posix().encode() + path.read_bytes())
        return digest.hexdigest()

    def _data_files(self, name: str) -> list[Path]:
        """Files other than Python in the package of a module."""
        package = self._root / package_of(name)
        return sorted(path for path in code_files.package_files(package) if path.suffix != ".py")

    def _file(self, name: str) -> _File | None:
        """The data of a module; None if the packages have no module of this name."""
        if name not in self._files:
            place = self._root.joinpath(*name.split("."))
            paths = (place / "__init__.py", place.with_suffix(".py"))
            path = next((path for path in paths if path.is_file()), None)
            package = name if path == paths[0] else name.rpartition(".")[0]
            self._files[name] = _understood(path.read_bytes(), package) if path else None
        return self._files[name]

    def _modules_of(self, kind: type) -> Iterator[str]:
        """The modules of a class and its bases; for a user's class the modules that its file imports."""
        for base in kind.__mro__:
            if package_of(base.__module__) in code_files.OURS:
                yield base.__module__
            elif issubclass(base, eqx.Module) and base is not eqx.Module:
                for text in code_files.texts_of(base).values():
                    yield from self._imported(text)

    def _imported(self, text: str) -> Iterable[str]:
        """Names that a user's file imports; all modules if the imports are known only when the file runs."""
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            return ()
        if code_files.is_dynamic(tree):
            return self.everything()
        return [name for name in code_files.wanted(tree, "") if package_of(name) in code_files.OURS]


def classes_in(thing: Any) -> set[type]:
    """The classes of the modules in a config, at any depth, including the config's class."""
    if isinstance(thing, tuple | list):
        return set().union(*map(classes_in, thing))
    if not isinstance(thing, eqx.Module):
        return set()
    kind = type(thing)
    return {kind}.union(*(classes_in(read(thing, name)) for name in names_of(kind)))


@functools.cache
def installed() -> Code:
    """The code of this process."""
    return Code(Path(testbed.__path__[0]).parent)


@functools.lru_cache(maxsize=4096)
def _understood(text: bytes, package: str) -> _File:
    """The data of a module, from its text."""
    tree = ast.parse(text)
    tree.body = _bare(tree.body)
    names = dict.fromkeys(code_files.wanted(tree, package))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return _File(
        hashlib.sha256(ast.dump(tree).encode()).hexdigest(),
        tuple(name for name in names if package_of(name) in code_files.OURS),
        "__file__" in used,
    )


def _bare(body: list[Any]) -> list[Any]:
    """Statements, at any depth, without docstrings and without statements under ``TYPE_CHECKING``."""
    kept = []
    for node in body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            if isinstance(inner := getattr(node, part, None), list):
                setattr(node, part, _bare(inner))
        if isinstance(node, ast.If) and code_files.last_name(node.test) == "TYPE_CHECKING":
            kept += node.orelse
        else:
            kept.append(node)
    return kept

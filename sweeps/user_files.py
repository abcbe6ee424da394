"""Users' Python files: studies, and files beside them that they import, in this process and on a cluster's workers."""

import ast
import contextlib
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from testbed.config import code_files
from testbed.config.code_files import STUDY
from testbed.errors import InvalidInput


class UserFile(NamedTuple):
    """A user's file: the name that it is loaded under, its path and its text, whether it is loaded now, and the texts
    that identify the code of its classes (`testbed.config.user_code`)."""

    name: str
    path: str
    source: str
    loaded: bool = True
    texts: Mapping[str, str] = {}


def load(path: Path) -> ModuleType:
    """Load a study file as a module; the file may import files of the same folder by their names.

    Raises `InvalidInput` for a missing file, a file that fails to load, or a file that would import another module
    instead of the file beside it.
    """
    if not path.is_file():
        raise InvalidInput(f"study file {path} does not exist: give a name or the path of a file")
    folder = str(path.resolve().parent)
    code_files.follow(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # at the end: installed packages have precedence
    _refuse_namesakes(path, path.resolve().parent, set())
    # The name depends on the content: results that depend on the file's classes are valid in another folder too.
    content = path.name.encode() + b"\0" + path.read_bytes()
    name = STUDY + hashlib.sha256(content).hexdigest()[:16]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidInput(f"study file {path} must be a Python file ending in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that dataclasses and typing find the file's own classes
    try:
        # The file's own output must not mix with the data that a command prints for programs.
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except BaseException as problem:
        del sys.modules[name]
        if isinstance(problem, KeyboardInterrupt):
            raise
        if isinstance(problem, SystemExit):
            raise InvalidInput(
                f"study file {path} ends the program while it is loaded, with exit status {problem.code}: let it "
                "define its study, and nothing more"
            ) from problem
        frames = traceback.extract_tb(problem.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        where = f" in line {lines[-1]}" if lines else ""
        raise InvalidInput(
            f"study file {path} cannot be loaded{where}: {type(problem).__name__}: {problem}"
        ) from problem
    # Reads the texts of the module and of its imports now: the code that runs, even if the files change later.
    code_files.followed(module)
    return module


def _refuse_namesakes(path: Path, folder: Path, seen: set[Path]) -> None:
    """Refuse a file that imports a file or a folder of ``folder`` if another module has the same name already. The
    files that it imports are checked in the same way."""
    seen.add(path.resolve())
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return  # loading the file reports the error and its place
    for name in sorted({name.partition(".")[0] for name in _imports(tree)}):
        beside = _beside(folder, name)
        spec = importlib.util.find_spec(name) if beside else None
        if beside is None or spec is None:
            continue
        places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
        if beside.resolve() not in [Path(place).resolve() for place in places if place]:
            raise InvalidInput(
                f"study file {path} imports {name}, which is {places[0]} here: give "
                f"{beside.relative_to(folder)} beside it another name"
            )
        files = [beside] if beside.is_file() else []
        if beside.name != f"{name}.py":
            files = sorted((folder / name).rglob("*.py"))
        for file in files:
            if file not in seen:
                _refuse_namesakes(file, folder, seen)


def _imports(tree: ast.AST) -> Iterator[str]:
    """The dotted names of a file's absolute imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _beside(folder: Path, name: str) -> Path | None:
    """The file, or the folder without an ``__init__.py``, that ``name`` means in a folder; None if there is neither."""
    for file in (folder / name / "__init__.py", folder / f"{name}.py"):
        if file.is_file():
            return file
    return folder / name if any((folder / name).glob("*.py")) else None


def loaded() -> list[UserFile]:
    """The users' files that this process has loaded, and the files that they import inside functions."""
    modules = {
        name: module
        for name, module in sorted(sys.modules.items())
        if name != "__main__" and code_files.is_followed(module)
    }
    files: dict[str, UserFile] = {}
    for name, module in modules.items():
        text = code_files.text(module)
        if text is not None:
            texts = code_files.texts(module)
            files[name] = UserFile(name, str(module.__file__), text, True, texts)
    for module in modules.values():
        for name, (path, text) in code_files.followed(module).items():
            files.setdefault(name, UserFile(name, str(path), text, False))
    return list(files.values())


class _Sent(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads files that another process sent; their paths are the paths in that process."""

    def __init__(self, files: Mapping[str, UserFile]) -> None:
        self._files = files

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a sent file, or of a folder of sent files; None for any other module."""
        if fullname in self._files:
            place = self._files[fullname].path
            return importlib.util.spec_from_file_location(
                fullname,
                place,
                loader=self,
                submodule_search_locations=[] if self.is_package(fullname) else None,
            )
        if any(name.startswith(f"{fullname}.") for name in self._files):
            return importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        return None

    def is_package(self, fullname: str) -> bool:
        """Whether the file is an ``__init__.py``."""
        return Path(self._files[fullname].path).name == "__init__.py"

    def get_source(self, fullname: str) -> str:
        """The text as it was sent."""
        return self._files[fullname].source

    def get_code(self, fullname: str):
        """The compiled text, under the file's original path, which error messages name."""
        return self.source_to_code(self.get_source(fullname), self._files[fullname].path)


def receive(files: Sequence[UserFile]) -> None:
    """Load files that another process has sent, so that data about instances of their classes can be read here."""
    sys.meta_path.insert(0, _Sent({file.name: file for file in files}))
    code_files.received({file.name: file.texts for file in files if file.texts})
    for file in files:
        if file.loaded:
            importlib.import_module(file.name)

"""Users' own Python files: studies, and files beside them that they import, here and on a cluster's workers."""

import ast
import contextlib
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from testbed.errors import InvalidInput

#: What the names of the modules begin with that are made of study files.
STUDY = "user_study_"
_folders: set[str] = set()


class UserFile(NamedTuple):
    """A user's file: the name it is loaded under, its path and its text."""

    name: str
    path: str
    source: str


def load(path: Path) -> ModuleType:
    """A study file as a module; it may import files of the same folder by their names.

    Raises `InvalidInput` for a missing file, one that fails to load, or one that would import another module than the
    file beside it.
    """
    if not path.is_file():
        raise InvalidInput(f"study file {path} does not exist: give a name or the path of a file")
    folder = str(path.resolve().parent)
    _folders.add(folder)
    if folder not in sys.path:
        sys.path.append(folder)  # at the end: what is installed keeps its name
    _refuse_namesakes(path)
    name = STUDY + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidInput(f"study file {path} must be a Python file ending in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that dataclasses and typing find the file's own classes
    try:
        # What a file prints is none of the data that a command prints for programs.
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except KeyboardInterrupt:
        del sys.modules[name]
        raise
    except SystemExit as problem:
        del sys.modules[name]
        raise InvalidInput(
            f"study file {path} ends the program while it is loaded, with exit status {problem.code}: let it define "
            "its study, and nothing more"
        ) from problem
    except BaseException as problem:
        del sys.modules[name]
        frames = traceback.extract_tb(problem.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        where = f" in line {lines[-1]}" if lines else ""
        raise InvalidInput(
            f"study file {path} cannot be loaded{where}: {type(problem).__name__}: {problem}"
        ) from problem
    return module


def _refuse_namesakes(path: Path) -> None:
    """Refuse a file that imports a file beside it whose name already stands for another module."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # loading it says so, and where
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            beside = path.resolve().parent / f"{name}.py"
            found = importlib.util.find_spec(name) if beside.is_file() else None
            if found is not None and Path(found.origin or "").resolve() != beside:
                raise InvalidInput(
                    f"study file {path} imports {name}, which is {found.origin} here: give "
                    f"{beside.name} beside it another name"
                )


def loaded() -> list[UserFile]:
    """Those that this process has loaded and that are still there."""
    return [
        UserFile(name, path, importlib.util.decode_source(Path(path).read_bytes()))
        for name, module in sorted(sys.modules.items())
        if name != "__main__"
        and (path := getattr(module, "__file__", None))
        and Path(path).is_file()
        and (name.startswith(STUDY) or str(Path(path).resolve().parent) in _folders)
    ]


class _Sent(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads files that were sent from another process; their paths are those that they have there."""

    def __init__(self, files: Mapping[str, UserFile]) -> None:
        self._files = files

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Of a file that was sent; None of any other."""
        if fullname not in self._files:
            return None
        place = self._files[fullname].path
        return importlib.util.spec_from_file_location(fullname, place, loader=self)

    def get_source(self, fullname: str) -> str:
        """The text as it was sent."""
        return self._files[fullname].source

    def get_code(self, fullname: str):
        """Compiled under its path there, which errors name."""
        return self.source_to_code(self.get_source(fullname), self._files[fullname].path)


def receive(files: Sequence[UserFile]) -> None:
    """Load files that another process has sent, so that what is of their classes can be read here."""
    sys.meta_path.insert(0, _Sent({file.name: file for file in files}))
    for file in files:
        importlib.import_module(file.name)

"""The repository's scripts, which are in no package."""

import importlib.util
import sys
from pathlib import Path
from typing import Any


def script(place: str) -> Any:
    """The script at a place in the repository, as a module."""
    path = Path(__file__).parents[2] / place
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Scripts import those that lie beside them.
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module

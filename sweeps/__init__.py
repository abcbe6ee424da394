"""Thousands of runs: studies, grids, placement on devices, results, the command line and the same as calls.

The public names are those of `sweeps.api`: ``from sweeps import Study, run``. They are imported when they are first
asked for, because most of what this package holds needs jax, and the command line's help does not.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.api import *  # noqa: F403 (the same names)


def __getattr__(name: str) -> Any:
    # `__all__` as well: the list stands once, in `sweeps.api`.
    api = importlib.import_module("sweeps.api")
    if name == "__all__" or name in api.__all__:
        return getattr(api, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

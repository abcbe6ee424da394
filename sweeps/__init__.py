"""Studies of many runs: grids, placement on devices, stored results, the command line, and its functions for Python.

The public names are those of `sweeps.api`: ``from sweeps import Study, run``. A name is imported at its first use,
because most modules of this package need jax, and the command line's help does not.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.api import *  # noqa: F403 (the same names)


def __getattr__(name: str) -> Any:
    # `__all__` is looked up too: the list of names is written once, in `sweeps.api`.
    api = importlib.import_module("sweeps.api")
    if name == "__all__" or name in api.__all__:
        return getattr(api, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

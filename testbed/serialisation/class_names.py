"""Names of classes and functions in files: a name is looked up among the modules that this process has loaded.

A file may name its classes and functions, but must not decide what is executed. So nothing is imported because a file
names it, no attribute access runs code of a module or class, and the result must be of a kind that is safe to fill in.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from testbed.config.code_files import is_installed
from testbed.errors import InvalidInput

#: Packages of this project, whose functions a file may name.
_OURS = ("testbed", "envs", "sweeps")
#: Modules of libraries whose functions a file may name: they hold activation functions.
_ACTIVATIONS = ("jax.nn", "jax._src.nn.functions", "jax.numpy", "jax._src.numpy.ufuncs")


class UnknownName(Exception):
    """A name in a file that this process cannot resolve."""


def name_of(thing: Any) -> str:
    """``module:qualified.name`` of a class or function.

    Raises `InvalidInput` if the name does not lead back to the object: for a class or function defined inside a
    function, for a lambda, and for an object whose name now refers to another object.
    """
    module, qualified = (getattr(thing, part, None) for part in ("__module__", "__qualname__"))
    name = f"{module}:{qualified}"
    try:
        known = find(name) is thing
    except UnknownName:
        known = False
    if not known:
        shown = qualified or type(thing).__name__
        raise InvalidInput(
            f"{shown} of module {module} cannot be kept in the cache: define it under that name at the top of a "
            "module, not inside a function"
        )
    return name


def find(name: str) -> Any:
    """The class or function in this process that a name of `name_of` refers to. Raises `UnknownName`."""
    place, _, qualified = name.partition(":")
    found: Any = sys.modules.get(place)
    if found is None:
        raise UnknownName(name)
    for part in qualified.split("."):
        # Not `getattr`, for which a module or metaclass may run its own code, such as an import.
        names = vars(found) if isinstance(found, type | ModuleType) else {}
        if part not in names:
            raise UnknownName(name)
        found = names[part]
    return found


def is_open_function(name: str) -> bool:
    """Whether a file may name a function of this module: one of this project, of a user's own files, or of jax's
    activation functions. Other functions, such as those of the standard library, could be misused."""
    module = name.partition(":")[0]
    if module.partition(".")[0] in _OURS or module in (*_ACTIVATIONS, "__main__"):
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file:
        return False
    return not is_installed(Path(file).resolve())

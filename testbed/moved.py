"""Old import paths of modules that have moved: they keep working, with a warning that names the new path.

`install` is called when `testbed` is imported. Where a module became a package of the same name, `names` makes the
module's names available from the package.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any


def _with_old_names(**modules: str) -> dict[str, str]:
    """Table entries of modules that have kept their names, by the package that they are in now."""
    return {
        name: f"{package}.{name}" for package, names in modules.items() for name in names.split()
    }


#: New path of each module that has moved, by package and old path below it.
MOVED: dict[str, dict[str, str]] = {
    "testbed": _with_old_names(
        config="code_files ranges",
        data="collect",
        exact="enumeration",
        nn="activations norms",
        policies="features pretrained tabular",
        serialisation="class_names tree_files tree_structure",
    )
    | {
        "arithmetic": "nn.matmul",
        "cost": "estimates.flops",
        "footprint": "estimates.memory",
        "forms": "config.canonical_form",
        "ground": "stages.world_config",
        "heads": "proxies.linear_head",
        "mixture": "policies.geometric_mixture",
        "own_code": "config.user_code",
        "places": "paths",
        "positions": "nn.rotary",
        "recorded": "recorded_runs.recorded_run",
        "recording": "recorded_runs.pair_stream",
        "sources.base": "source",
        "trained": "policies.trainable",
        "weights": "policies.shared_weights",
    },
    "envs": {"tastes": "pretrained_rewards"},
    "sweeps": _with_old_names(
        api="results runner",
        catalogue="citations",
        console="activity progress terminal",
        population="devices engine plan programs",
        store="columns file_names files provenance",
        tensorboard="events",
    )
    | {
        "answers": "tensorboard.samples",
        "blocks": "store.parquet",
        "conversation": "api.chat_session",
        "executables": "population.executable_cache",
        "grounds": "population.world_builder",
        "header": "store.metadata",
        "index": "catalogue.listing",
        "mirror": "tensorboard.refresh",
        "outcomes": "tensorboard.hparams",
        "pace": "throttle",
        "printing": "console.tables",
        "pulse": "store.heartbeat",
        "slots": "population.chunk_runner",
        "standing": "api.run_status",
        "underway": "population.run_checkpoints",
        "upkeep": "api.cache",
    },
    "analysis": _with_old_names(
        curves="classic",
        verdicts="evidence verdict",
    )
    | {"card": "transfer.table", "inspect": "site.inspection", "prose": "html"},
}
_NEW = {
    f"{package}.{old}": f"{package}.{new}"
    for package, table in MOVED.items()
    for old, new in table.items()
}

#: Where names are looked up that the module at the new path does not have, because the old module was divided.
_ALSO = {"sweeps.results": "sweeps.api"}


def install() -> None:
    """Make old module paths importable from now on. They are tried only if no other module of that name is found."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def names(package: str, *modules: str) -> Callable[[str], Any]:
    """A ``__getattr__`` for a package that used to be a module: it looks names up in the given modules inside the
    package."""

    def find(name: str) -> Any:
        # Python asks for a submodule as an attribute before importing it.
        below = importlib.machinery.PathFinder.find_spec(
            f"{package}.{name}", list(sys.modules[package].__path__)
        )
        if below is None and not name.startswith("__"):
            for module in modules:
                found = importlib.import_module(f"{package}.{module}")
                if name in vars(found):
                    _warn(f"{package}.{name}", f"{package}.{module}.{name}")
                    return vars(found)[name]
                with contextlib.suppress(AttributeError):  # an old name of something in the module
                    return getattr(found, name)
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    return find


def renamed(module: str, **new: str) -> Callable[[str], Any]:
    """A ``__getattr__`` for a module in which names have changed: old name to new name."""

    def find(name: str) -> Any:
        if name not in new:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        _warn(f"{module}.{name}", f"{module}.{new[name]}")
        return vars(sys.modules[module])[new[name]]

    return find


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module that has moved and returns an alias of the module at its new path."""

    def find_spec(
        self, fullname: str, path: Any, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if fullname not in _NEW:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """An alias of the module at the new path."""
        new = _NEW[spec.name]
        _warn(spec.name, new)
        return _Alias(spec.name, importlib.import_module(new))

    def exec_module(self, module: ModuleType) -> None:
        """Does nothing: the module at the new path has been executed already."""


class _Alias(ModuleType):
    """A module at its old path: every attribute is read from the module at the new path."""

    def __init__(self, name: str, new: ModuleType) -> None:
        super().__init__(name, new.__doc__)
        public = [one for one in vars(new) if not one.startswith("_")]
        self.__dict__.update(_new=new, __all__=getattr(new, "__all__", public))

    def __getattr__(self, name: str) -> Any:
        new = self.__dict__["_new"]
        also = _ALSO.get(self.__name__)
        if also is not None and not hasattr(new, name):
            return getattr(importlib.import_module(also), name)
        return getattr(new, name)

    def __dir__(self) -> list[str]:
        return sorted(self.__dict__["__all__"])


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} has moved: import {new}", FutureWarning, stacklevel=3)

"""Packages that only pretrained models need."""

import importlib
import types

from testbed.errors import Unfinished


def package(name: str) -> types.ModuleType:
    """An installed package of the extra ``llm``. Raises `Unfinished` if it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as problem:
        raise Unfinished(
            f"pretrained models need the package {problem.name}, which is not installed: run "
            "`uv sync --extra llm`"
        ) from problem

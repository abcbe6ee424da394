"""Functions for Python users: each does the work of one command, and returns what the command prints.

`sweeps` offers the same names: ``from sweeps import run``. A module of this package is imported at the first use of one
of its names, because most of the modules need jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.api.cache import cached, forget
    from sweeps.api.preparation import fetch_models, inspect, listing
    from sweeps.api.reports import (
        bibliography,
        compare,
        report,
        scoreboard,
        transfer,
        transfer_page,
        write_logs,
    )
    from sweeps.api.results import Outcome, chat, export, export_draws, load, status, trained
    from sweeps.api.run_studies import forecast, paper_studies, run
    from sweeps.grid import Axis
    from sweeps.study import Arm, Preset, Study, load_study

__all__ = ["Arm", "Axis", "Outcome", "Preset", "Study", "bibliography", "cached", "chat"]
__all__ += [
    "compare",
    "export",
    "export_draws",
    "fetch_models",
    "forecast",
    "forget",
    "inspect",
    "listing",
]
__all__ += ["load", "load_study", "paper_studies", "report", "run", "scoreboard", "status"]
__all__ += ["trained", "transfer", "transfer_page", "write_logs"]

#: The modules that define the names, in the order of search: modules that import jax come last.
_HOMES = ("api.run_studies", "api.preparation", "api.results", "api.reports", "api.cache")
_HOMES += ("study", "grid")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _HOMES:
            defined = vars(importlib.import_module(f"sweeps.{home}"))
            if name in defined:
                return defined[name]
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

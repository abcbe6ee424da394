"""Thousands of runs: studies, grids, placement on devices, results, the command line and the same as calls.

``from sweeps import Study, run`` and the other names of ``__all__`` are imported when they are first asked for: most of
what this package holds needs jax, the command line's help does not.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.api import (
        fetch_models,
        forecast,
        inspect,
        listing,
        paper_studies,
        run,
    )
    from sweeps.grid import Axis
    from sweeps.results import (
        Outcome,
        bibliography,
        chat,
        compare,
        export,
        load,
        report,
        scoreboard,
        status,
        trained,
        transfer,
        transfer_page,
        write_logs,
    )
    from sweeps.study import Arm, Preset, Study, load_study
    from sweeps.upkeep import cached, forget

__all__ = [
    "Arm",
    "Axis",
    "Outcome",
    "Preset",
    "Study",
    "bibliography",
    "cached",
    "chat",
    "compare",
    "export",
    "fetch_models",
    "forecast",
    "forget",
    "inspect",
    "listing",
    "load",
    "load_study",
    "paper_studies",
    "report",
    "run",
    "scoreboard",
    "status",
    "trained",
    "transfer",
    "transfer_page",
    "write_logs",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in ("api", "results", "upkeep", "study", "grid"):
            found = vars(importlib.import_module(f"{__name__}.{home}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

"""Thousands of runs: studies, grids, placement on devices, results, the command line and the same as calls.

``from sweeps import Study, run`` and the other names of ``__all__`` are imported when they are first asked for: most of
what this package holds needs jax, the command line's help does not.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.api import (
        Outcome,
        compare,
        export,
        forecast,
        inspect,
        listing,
        load,
        paper_studies,
        report,
        run,
        scoreboard,
        status,
        write_logs,
    )
    from sweeps.grid import Axis
    from sweeps.study import Arm, Preset, Study, load_study

__all__ = ["Arm", "Axis", "Outcome", "Preset", "Study", "compare", "export", "forecast", "inspect"]
__all__ += [
    "listing",
    "load",
    "load_study",
    "paper_studies",
    "report",
    "run",
    "scoreboard",
    "status",
]
__all__ += ["write_logs"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in ("api", "study", "grid"):
            found = vars(importlib.import_module(f"{__name__}.{home}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

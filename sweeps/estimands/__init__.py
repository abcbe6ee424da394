"""Estimands: the effects that claims are about, one per file. Every module of this package is imported automatically.

An estimand turns evidence into posterior draws of one effect; most do so world by world (`WorldEstimand`). Estimands
are plain data: `describe` writes an estimand, `Estimand.from_dict` reads it back. The evidence itself (curves, the
results table, the model over worlds) is in `analysis`; `Evidence` is the interface that estimands need.
"""

import importlib
import pkgutil

from sweeps.estimands.at_every import AtEvery
from sweeps.estimands.base import (
    Estimand,
    Evidence,
    InWorlds,
    Seed,
    Unanswerable,
    Unit,
    WorldCurve,
    WorldEstimand,
    WorldEstimate,
    run_means,
)
from sweeps.estimands.best_difference import BestDifference
from sweeps.estimands.change import Change
from sweeps.estimands.identical import Identical
from sweeps.estimands.interior_maximum import InteriorMaximum
from sweeps.estimands.level import Level
from sweeps.estimands.matched_difference import MatchedDifference
from sweeps.estimands.paired_difference import PairedDifference
from sweeps.estimands.peak_place import PeakPlace
from sweeps.estimands.rank_correlation import RankCorrelation
from sweeps.estimands.relative_best import RelativeBest
from sweeps.estimands.share_of_gap import ShareOfGap
from sweeps.estimands.slope import Slope
from sweeps.estimands.trend import Trend
from sweeps.estimands.within_run import WithinRun

__all__ = ["AtEvery", "BestDifference", "Change", "Estimand", "Evidence", "Identical", "InWorlds"]
__all__ += ["InteriorMaximum", "Level", "MatchedDifference", "PairedDifference", "PeakPlace"]
__all__ += ["RankCorrelation", "RelativeBest", "ShareOfGap", "Slope", "Trend", "Unanswerable"]
__all__ += ["Seed", "Unit", "WithinRun", "WorldCurve", "WorldEstimand", "WorldEstimate"]
__all__ += ["run_means"]

# Further modules need no entry above: the import registers their kinds for the reader of stored claims.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

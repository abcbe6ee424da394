"""Estimands: the effects that claims are about, one per file. Every module of this package is imported automatically.

An estimand turns evidence into posterior draws of one effect. Estimands are plain data: `describe` writes an estimand,
`Estimand.from_dict` reads it back. The evidence itself (curve fits, the results table) is in `analysis`; `Evidence` is
the interface that estimands need.
"""

import importlib
import pkgutil

from sweeps.estimands.at_every import AtEvery
from sweeps.estimands.base import Estimand, Evidence, Peak, Unanswerable, Unit, student_draws
from sweeps.estimands.change import Change
from sweeps.estimands.identical import Identical
from sweeps.estimands.interior_maximum import InteriorMaximum
from sweeps.estimands.level import Level
from sweeps.estimands.matched_gap import MatchedGap
from sweeps.estimands.paired_difference import PairedDifference
from sweeps.estimands.peak_difference import PeakDifference
from sweeps.estimands.peak_place import PeakPlace
from sweeps.estimands.peak_place_trend import PeakPlaceTrend
from sweeps.estimands.rank_correlation import RankCorrelation
from sweeps.estimands.relative_trend import RelativeTrend
from sweeps.estimands.relative_trend_difference import RelativeTrendDifference
from sweeps.estimands.share_of_gap import ShareOfGap
from sweeps.estimands.slope import Slope
from sweeps.estimands.within_run import WithinRun

__all__ = ["AtEvery", "Change", "Estimand", "Evidence", "Identical", "InteriorMaximum", "Level"]
__all__ += ["MatchedGap", "PairedDifference", "Peak", "PeakDifference", "PeakPlace"]
__all__ += ["PeakPlaceTrend", "RankCorrelation", "RelativeTrend", "RelativeTrendDifference"]
__all__ += ["ShareOfGap", "Slope", "Unanswerable", "Unit", "WithinRun", "student_draws"]

# Further modules need no entry above: the import registers their kinds for the reader of stored claims.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

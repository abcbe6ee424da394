"""Estimands: the effects that claims are about, one per file. Every module of this package is imported automatically.

An estimand turns evidence into posterior draws of one effect. Estimands are plain data: `describe` writes an estimand,
`estimand_from_dict` reads it back. The evidence itself (curve fits, the results table) is in `analysis`; `Evidence` is
the interface that estimands need.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from sweeps.estimands.at_every import AtEvery
from sweeps.estimands.base import (
    Estimand,
    Evidence,
    Peak,
    Unanswerable,
    Unit,
    student_draws,
)
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
from sweeps.rules import descendants
from testbed.errors import InvalidInput

__all__ = [
    "AtEvery",
    "Change",
    "Estimand",
    "Evidence",
    "Identical",
    "InteriorMaximum",
    "Level",
    "MatchedGap",
    "PairedDifference",
    "Peak",
    "PeakDifference",
    "PeakPlace",
    "PeakPlaceTrend",
    "RankCorrelation",
    "RelativeTrend",
    "RelativeTrendDifference",
    "ShareOfGap",
    "Slope",
    "Unanswerable",
    "Unit",
    "WithinRun",
    "estimand_from_dict",
    "student_draws",
]

# Further modules need no entry above: the import registers their kinds for the reader of stored claims.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def estimand_from_dict(data: Mapping[str, Any]) -> Estimand:
    """Rebuild the estimand from the output of `describe`; "kind" is looked up among all subclasses of Estimand.

    Raises InvalidInput for a kind that no imported module defines.
    """
    kinds = {kind.__name__: kind for kind in descendants(Estimand)}
    kind = kinds.get(data["kind"])
    if kind is None:
        raise InvalidInput(
            f"estimand kind is {data['kind']}: allowed are {', '.join(sorted(kinds))}"
        )
    return kind(**{name: _from_data(value) for name, value in data.items() if name != "kind"})


def _from_data(value: Any) -> Any:
    if isinstance(value, Mapping):
        return estimand_from_dict(value)
    return tuple(_from_data(item) for item in value) if isinstance(value, list | tuple) else value

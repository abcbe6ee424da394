"""Retired: estimands of earlier versions, which stored claims still name."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from sweeps.estimands.base import FORMER, Estimand, Evidence, Unanswerable
from sweeps.rules import Draws

_MOVED = "a range of KL that moved with the settings; MatchedDifference compares in fixed windows"
_PEAK = "fitted peaks anywhere; BestDifference compares the best within a budget"
_SHARE = "a ratio of differences of win rates; ShareOfGap now tests a difference"
_RATIO = "ratios of win rates; Trend of BestDifference or of RelativeBest replaces it"
RETIRED: Mapping[str, str] = {
    "InteriorMaximum": "fitted curves of all arms together; it now asks each arm about each end of its range",
    "ShareOfGap": _SHARE,
    "MatchedGap": _MOVED,
    "PeakDifference": _PEAK,
    "PeakPlaceTrend": "fitted peaks anywhere; Trend of PeakPlace replaces it",
    "RelativeTrend": _RATIO,
    "RelativeTrendDifference": _RATIO,
}
"""Kinds of earlier versions, and what they measured instead of what is measured now."""
_FORMER_FIELD = {"InteriorMaximum": "arms", "ShareOfGap": "measure"}
"""Kinds that still exist with other fields, and a field that only the former ones had."""


@dataclasses.dataclass(frozen=True)
class Retired(Estimand):
    """An estimand of an earlier version, as stored: it is shown, and decides nothing.

    ``stored`` is the stored description, field by field.
    """

    ARMS: ClassVar[tuple[str, ...]] = ()
    stored: tuple[tuple[str, Any], ...] = (("kind", "MatchedGap"),)

    def describe(self) -> dict[str, Any]:
        """The description as it was stored."""
        return dict(self.stored)

    def words(self) -> tuple[str, str]:
        """The kind and its arms."""
        fields = dict(self.stored)
        arms = [str(fields[name]) for name in Estimand.ARMS if isinstance(fields.get(name), str)]
        return f"{fields['kind']} of {' and '.join(arms) or 'arms'}", "probability"

    def _measure(self, evidence: Evidence, negligible: float) -> Draws:
        kind = str(dict(self.stored)["kind"])
        raise Unanswerable(f"{kind} is not measured any more: it read {RETIRED[kind]}")


def read(data: Mapping[str, Any]) -> Retired | None:
    """An estimand of an earlier version from its stored description; None if this version has it."""
    kind = str(data.get("kind"))
    former = kind in RETIRED and _FORMER_FIELD.get(kind, "kind") in data
    return Retired(tuple(data.items())) if former else None


FORMER.append(read)

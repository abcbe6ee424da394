"""NoMore: an effect is negligible or negative."""

import dataclasses
import math

from sweeps.rules.base import Rule


@dataclasses.dataclass(frozen=True)
class NoMore(Rule):
    """The claim says that the effect is negligible or negative: at most `rope`."""

    @property
    def limits(self) -> tuple[float, float]:
        return -math.inf, self.rope

    def words(self) -> tuple[str, str]:
        return f"effect ≤ {self.rope:g}", f"effect > {self.rope:g}"

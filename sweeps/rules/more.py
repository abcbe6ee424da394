"""More: an effect is positive."""

import dataclasses
import math

import numpy as np

from sweeps.rules.base import Rule


@dataclasses.dataclass(frozen=True)
class More(Rule):
    """The claim says that the effect is positive, by more than `rope`."""

    @property
    def limits(self) -> tuple[float, float]:
        return self.rope, math.inf

    def holds(self, values: np.ndarray) -> np.ndarray:
        return values > self.rope

    def words(self) -> tuple[str, str]:
        return f"effect > {self.rope:g}", f"effect ≤ {self.rope:g}"

"""Fixed windows of KL, in which estimands compare curves."""

import math
from typing import NamedTuple

from sweeps.estimands.base import WorldCurve, WorldEstimate
from testbed.errors import InvalidInput


class Window(NamedTuple):
    """From ``low`` to ``high`` nats of KL from SFT, of the whole response or, with ``per_token``, a token."""

    low: float
    high: float
    per_token: bool = False

    def check(self) -> None:
        """Raise `InvalidInput` unless 0 <= low < high."""
        if not 0 <= self.low < self.high:
            raise InvalidInput(
                f"low and high are {self.low:g} and {self.high:g}: needs 0 <= low < high, in nats"
            )

    def words(self) -> str:
        """The window in words."""
        return f"at {self.low:g} to {self.high:g} nats{' a token' if self.per_token else ''}"

    def read(self, curve: WorldCurve) -> WorldEstimate:
        """The mean of a curve over the window, evenly over sqrt(KL)."""
        length = curve.tokens if self.per_token else 1.0
        return curve.window(math.sqrt(self.low * length), math.sqrt(self.high * length))

"""Fixed windows of KL, in which estimands compare curves."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from sweeps.estimands.base import Unanswerable, WorldCurve, WorldEstimate
from testbed.errors import InvalidInput


class Window(NamedTuple):
    """From ``low`` to ``high`` nats of KL from SFT, of the whole response or, with ``per_token``, a token."""

    low: float
    high: float
    per_token: bool = False

    def check(self) -> None:
        """Raise `InvalidInput` unless 0 <= low < high, both finite."""
        if not 0 <= self.low < self.high < math.inf:
            raise InvalidInput(
                f"low and high are {self.low:g} and {self.high:g}: needs 0 <= low < high, in nats"
            )

    def words(self) -> str:
        """The window in words."""
        return f"{self.low:g} to {self.high:g} nats{' a token' if self.per_token else ''}"

    def read(self, curves: Sequence[WorldCurve]) -> list[WorldEstimate]:
        """The means of several arms' curves in one world over the window, evenly over sqrt(KL).

        Arms that have settings in common are compared at those that all of them took to the middle of the window: an
        arm that comes so far with some settings only would otherwise be compared at other settings than its opponent.
        Raises `Unanswerable` if there is no such setting, or no length for a window a token.
        """
        length = curves[0].tokens if self.per_token else 1.0
        if not math.isfinite(length):
            raise Unanswerable("the length of SFT's responses is not known")
        low, high = math.sqrt(self.low * length), math.sqrt(self.high * length)
        shared = set.intersection(*(set(curve.settings) for curve in curves))
        if not shared:
            return [curve.window(low, high) for curve in curves]
        for curve in curves:
            reach = dict(zip(curve.settings, curve.reach, strict=True))
            shared = {setting for setting in shared if reach[setting] >= (low + high) / 2}
        if not shared:
            middle = ((low + high) / 2) ** 2
            raise Unanswerable(f"no setting that the arms share reaches a KL of {middle:.2g}")
        return [curve.window(low, high, shared) for curve in curves]

"""MatchedDifference: the difference of two arms' curves in a fixed window of KL."""

import dataclasses

from sweeps.estimands.base import (
    Evidence,
    InWorlds,
    WorldEstimand,
    contrast,
    words_of,
)
from sweeps.estimands.windows import Window


@dataclasses.dataclass(frozen=True)
class MatchedDifference(WorldEstimand):
    """First arm less second in an outcome, averaged over a fixed window of KL (C2).

    The window lies between ``low`` and ``high`` nats of KL(policy || SFT) of the whole response, so that the effect
    does not move with the settings that an arm happened to run; with ``per_token`` it is given in nats a token, of the
    mean length of SFT's responses. Averages are over sqrt(KL).
    """

    first: str
    second: str
    low: float = 0.5
    high: float = 3.0
    outcome: str = "golden_reward"
    per_token: bool = False

    def __post_init__(self) -> None:
        self._window.check()

    @property
    def _window(self) -> Window:
        return Window(self.low, self.high, self.per_token)

    def words(self) -> tuple[str, str]:
        name, unit = words_of(self.outcome)
        return f"{name} at {self._window.words()}, {self.first} − {self.second}", unit

    def in_worlds(self, evidence: Evidence) -> InWorlds:
        arms = (self.first, self.second)
        curves = [evidence.curves(arm, self.outcome) for arm in arms]
        return contrast(curves, (1.0, -1.0), self._window.read, evidence.describe_runs(arms))

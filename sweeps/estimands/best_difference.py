"""BestDifference: the difference of two arms' best outcomes within a budget."""

import dataclasses
import math

from sweeps.estimands.base import Evidence, InWorlds, WorldEstimand, contrast, words_of
from testbed.errors import InvalidInput


@dataclasses.dataclass(frozen=True)
class BestDifference(WorldEstimand):
    """Best of the first arm less best of the second, over the arms' settings and checkpoints (C3).

    ``within``: a budget of KL in nats, beyond which nothing counts; None: whatever the arm's steps reached, which is
    then the budget. With ``equal`` both arms are read at the settings that both ran, for as many steps as both took:
    equal steps and tuning. The best is that of the smoothed curves, not of single noisy checkpoints.
    """

    first: str
    second: str
    within: float | None = None
    outcome: str = "golden_reward"
    equal: bool = False

    def __post_init__(self) -> None:
        if self.within is not None and not self.within > 0:
            raise InvalidInput(f"within is {self.within:g}: needs a KL above 0 nats, or none")

    def words(self) -> tuple[str, str]:
        name, unit = words_of(self.outcome)
        budget = "" if self.within is None else f" within {self.within:g} nats"
        equal = ", equal settings and steps" if self.equal else ""
        return f"best {name}{budget}{equal}, {self.first} − {self.second}", unit

    def in_worlds(self, evidence: Evidence) -> InWorlds:
        arms = (self.first, self.second)
        among = arms if self.equal else ()
        curves = [evidence.curves(arm, self.outcome, among) for arm in arms]
        budget = math.inf if self.within is None else math.sqrt(self.within)
        details = evidence.describe_runs(arms)
        return contrast(
            curves, (1.0, -1.0), lambda arms: [arm.best(budget) for arm in arms], details
        )

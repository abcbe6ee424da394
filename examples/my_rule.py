"""A user's own rule in one file, and a claim that the rule decides on the runs of the first study, `gap`.

testbed run examples/my_rule.py --preset smoke
"""

import dataclasses
import math

import numpy as np

from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import MatchedDifference
from sweeps.rules import Rule
from sweeps.studies import gap


@dataclasses.dataclass(frozen=True)
class Less(Rule):
    """The claim says that the effect is negative, by more than `rope`."""

    @property
    def limits(self) -> tuple[float, float]:
        """The range of effects for which the condition holds."""
        return -math.inf, -self.rope

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Whether the condition holds, for each draw of the effect."""
        return values < -self.rope

    def words(self) -> tuple[str, str]:
        """The condition, and its opposite."""
        return f"effect < {-self.rope:g}", f"effect ≥ {-self.rope:g}"


CLAIM = Claim(
    "L1",
    "At the same KL from the SFT policy, offline wins less often than online.",
    (Test(MatchedDifference("offline", "online"), Less(paper.REWARD_ROPE)),),
    "A golden reward at most 0.07 lower between 0.5 and 3 nats, or a higher one.",
)
study = dataclasses.replace(gap.study.derived("my_rule", "Offline against online"), claims=(CLAIM,))

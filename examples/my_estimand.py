"""A user's own estimand in one file, and a claim about the estimand on the runs of the first study, `gap`.

testbed run examples/my_estimand.py --preset smoke
"""

import dataclasses

from sweeps.claims import Claim, Test
from sweeps.estimands import Evidence, InWorlds, Unanswerable, WorldEstimand, run_means
from sweeps.rules import More
from sweeps.studies import gap


@dataclasses.dataclass(frozen=True)
class ThriftDifference(WorldEstimand):
    """Win rate above one half per nat of KL at the last checkpoint, of the first arm minus the second, over runs that
    differ in nothing else."""

    first: str
    second: str

    def words(self) -> tuple[str, str]:
        """Label and unit."""
        return f"win rate per KL, {self.first} - {self.second}", "probability per nat"

    def in_worlds(self, evidence: Evidence) -> InWorlds:
        """The difference in every world. Raises `Unanswerable` if there is no answer."""
        arms = (self.first, self.second)
        thrift = []
        for arm in arms:
            wins = evidence.last("win_rate", arm, arms)
            kl = evidence.last("kl", arm, arms)
            thrift.append({run: (wins[run] - 0.5) / kl[run] for run in wins if kl[run] > 0})
        shared = thrift[0].keys() & thrift[1].keys()
        if not shared:
            raise Unanswerable(f"{self.first} and {self.second} share no run that moved")
        values = {run: thrift[0][run] - thrift[1][run] for run in sorted(shared)}
        return run_means(values, evidence.describe_runs(arms))


CLAIM = Claim(
    "T1",
    "Online gains more for each nat of KL than offline.",
    (Test(ThriftDifference("online", "offline"), More(0.0)),),
    "A gain that is no larger.",
)
study = dataclasses.replace(
    gap.study.derived("my_estimand", "Which is the thriftier?"), claims=(CLAIM,)
)

"""A user's own study in one file: is the best against the worst of four fresh samples a better pair than any two?

    testbed run examples/pick_pairs.py --preset smoke

Both arms are online, with the same loss and proxy. All other settings are the setup of the paper's studies.
"""

from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import BestDifference, MatchedDifference
from sweeps.rules import More
from sweeps.study import Arm, Study
from testbed.sources.best_worst_of_n import BestWorstOfN
from testbed.sources.online import Online

study = Study(
    name="pick_pairs",
    title="Picking pairs",
    question="Is the best against the worst of four samples a better pair than two samples?",
    background=paper.__doc__ or "",
    base=paper.EXPERIMENT,
    arms=(
        Arm("two samples", {"source": Online()}),
        Arm("best and worst of 4", {"source": BestWorstOfN(n=4)}),
    ),
    axes=paper.grid("paper"),
    claims=(
        Claim(
            "E1",
            "At the same KL, the best against the worst of four wins more often.",
            (Test(MatchedDifference("best and worst of 4", "two samples"), More(paper.ROPE)),),
            "A golden reward at most 0.07 higher between 0.5 and 3 nats.",
        ),
        Claim(
            "E2",
            "Its best within 8 nats is higher.",
            (
                Test(
                    BestDifference("best and worst of 4", "two samples", within=paper.BUDGET),
                    More(paper.ROPE),
                ),
            ),
            "A best golden reward at most 0.07 above that of plain pairs.",
        ),
    ),
    presets=paper.presets(),
)

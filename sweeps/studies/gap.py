"""The opening experiment of arXiv 2405.08448: online against offline IPO, win rate over KL (its figure 1).

Both arms minimise the same loss from the same SFT policy; only the source of pairs differs. Offline learns from
D_golden; online learns from its own samples, labelled by a proxy that was trained on the same D_golden.
"""

from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import InteriorMaximum, MatchedGap, PeakDifference
from sweeps.rules import More
from sweeps.study import Arm, Study
from testbed.sources.offline import Offline
from testbed.sources.online import Online

study = Study(
    name="gap",
    title="Online against offline preference optimisation",
    question="Does sampling pairs from the policy beat learning from a fixed data set, at the same KL budget?",
    background=paper.__doc__ or "",
    base=paper.EXPERIMENT,
    arms=(Arm("online", {"source": Online()}, paper.RATE), Arm("offline", {"source": Offline()})),
    axes=paper.grid("paper"),
    claims=(
        Claim(
            "C1",
            "Goodhart: under both regimes the win rate rises and then falls as KL grows.",
            (Test(InteriorMaximum(("online", "offline")), More(paper.ROPE)),),
            "A curve that falls from the start, or whose fall after the peak is at most two percentage points. "
            "A curve still rising at the largest KL that was reached leaves the question open.",
        ),
        Claim(
            "C2",
            "At the same KL from the SFT policy, online beats offline.",
            (Test(MatchedGap("online", "offline"), More(paper.ROPE)),),
            "A mean gap over the shared range of KL of at most two percentage points.",
        ),
        Claim(
            "C3",
            "Online's peak is higher than offline's.",
            (Test(PeakDifference("online", "offline"), More(paper.ROPE)),),
            "A peak at most two percentage points above offline's.",
        ),
    ),
    presets=paper.presets(longer=("offline",)),
)

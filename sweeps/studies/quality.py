"""Does quality explain the gap? Offline on pairs that the final online policy wrote (arXiv 2405.08448, section 5.2,
figure 5).

The policy at the end of the recorded online run answers the prompts of D_golden twice, and the golden reward labels the
pairs: D_4k_vs_4k.
"""

from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import BestDifference, ShareOfGap
from sweeps.rules import More, NoMore
from sweeps.study import Arm, Study
from testbed.sources.generated import Generated
from testbed.sources.offline import Offline
from testbed.sources.online import Online

study = Study(
    name="quality",
    title="Quality: offline learning from the final online policy's answers",
    question="Would offline learning do as well if its data were as good as what the online run ends with?",
    background=__doc__ or "",
    base=paper.EXPERIMENT,
    arms=(
        Arm("online", {"source": Online()}, paper.RATE),
        Arm("offline", {"source": Offline()}),
        Arm("final policy's data", {"source": Generated(1.0, 1.0, recorded=paper.recorded())}),
    ),
    axes=paper.grid("paper"),
    claims=(
        Claim(
            "C7",
            "Data that the final online policy wrote, labelled by the golden reward, do not help offline: quality does "
            "not explain the gap.",
            (Test(BestDifference("final policy's data", "offline"), NoMore(paper.REWARD_ROPE)),),
            "A best golden reward, by what the steps allow, more than 0.07 above that of D_golden.",
            beside=(
                BestDifference("final policy's data", "offline", within=paper.BUDGET),
                BestDifference("final policy's data", "offline", outcome="win_rate"),
            ),
        ),
        Claim(
            "B1.quality",
            "Quality alone closes at least half of the gap within 8 nats.",
            (
                Test(
                    ShareOfGap(
                        "online", "offline", "final policy's data", low=None, high=paper.BUDGET
                    ),
                    More(0.0),
                ),
            ),
            "A best golden reward within 8 nats nearer to offline's on D_golden than to online's.",
        ),
    ),
    presets=paper.presets("source.recorded", longer=("offline", "final policy's data")),
)

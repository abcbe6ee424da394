"""Which data help offline learning: data near to SFT, pairs far apart, or good responses (arXiv 2405.08448, section 6,
figure 12)?

The data sets differ in the writers of the two responses of a pair: the SFT policy, the online run's policy after a
fifth of its steps (the paper's 800 of 4000), and its policy at the end. The golden reward labels all pairs. Both
responses of D_golden were written by the writers that the SFT policy imitates.
"""

from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import BestDifference, ShareOfGap
from sweeps.rules import More, NoMore
from sweeps.study import Arm, Study
from testbed.sources.generated import Generated
from testbed.sources.offline import Offline
from testbed.sources.online import Online

EARLY, LATE = 0.2, 1.0


def written(name: str, first: float, second: float) -> Arm:
    """An arm on pairs written by the online run's policy at two shares of its steps; share 0 is the SFT policy."""
    return Arm(name, {"source": Generated(first, second, recorded=paper.recorded())})


study = Study(
    name="proximity",
    title="Proximity: who writes the pairs that offline learns from",
    question="Is it closeness to the SFT policy, difference between the sides, or quality that makes data useful?",
    background=__doc__ or "",
    base=paper.EXPERIMENT,
    arms=(
        Arm("online", {"source": Online()}, paper.RATE),
        Arm("D_golden", {"source": Offline()}),
        written("SFT vs early", 0.0, EARLY),
        written("early vs late", EARLY, LATE),
        written("late vs late", LATE, LATE),
    ),
    axes=paper.grid("paper"),
    claims=(
        Claim(
            "C16",
            "Proximity to SFT is what helps offline: D_sft_vs_800 is at least as good as D_golden, D_800_vs_4k and "
            "D_4k_vs_4k are worse.",
            (
                Test(
                    BestDifference("D_golden", "SFT vs early", within=paper.BUDGET),
                    NoMore(paper.REWARD_ROPE),
                ),
                Test(
                    BestDifference("SFT vs early", "early vs late", within=paper.BUDGET),
                    More(paper.REWARD_ROPE),
                ),
                Test(
                    BestDifference("SFT vs early", "late vs late", within=paper.BUDGET),
                    More(paper.REWARD_ROPE),
                ),
            ),
            "D_sft_vs_800 more than two points below D_golden, or the others within two points of D_sft_vs_800.",
        ),
        Claim(
            "B1.proximity",
            "Pairs of SFT against the early online policy close at least half of the gap within 8 nats.",
            (
                Test(
                    ShareOfGap("online", "D_golden", "SFT vs early", low=None, high=paper.BUDGET),
                    More(0.0),
                ),
            ),
            "A best golden reward within 8 nats nearer to that of D_golden than to online's.",
        ),
    ),
    presets=paper.presets(
        "source.recorded",
        longer=("D_golden", "SFT vs early", "early vs late", "late vs late"),
        worlds=3,
    ),
)

"""Is the finding the same when labels are noisy, tied, from many annotators, or intransitive (question B6)?

Each labeler in turn labels D_golden; proxy and offline policy learn from these labels. World, texts, SFT policy, golden
baseline and judge stay the same: the judge is always the noise-free golden reward.
"""

from envs.labelers.annotators import AnnotatorPool
from envs.labelers.bradley_terry import BradleyTerry
from envs.labelers.flips import Flips
from envs.labelers.intransitive import Intransitive
from envs.labelers.ties import Ties
from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import AtEvery, BestDifference, MatchedDifference
from sweeps.grid import Axis, Grid, product
from sweeps.rules import More
from sweeps.study import Arm, Study
from testbed.sources.offline import Offline
from testbed.sources.online import Online

LABELERS = (
    BradleyTerry(temperature=0.0),
    BradleyTerry(temperature=1.0),
    Flips(BradleyTerry(temperature=0.0), rate=0.2),
    Ties(),
    AnnotatorPool(),
    Intransitive(),
)
_BETAS = {
    "smoke": (paper.BASE_BETA,),
    "laptop": (0.03, paper.BASE_BETA),
    "paper": (0.01, 0.03, paper.BASE_BETA, 0.3),
}


def axes(size: str) -> Grid:
    """Tasks, labelers, rates and betas."""
    labelers = LABELERS[:2] if size == "smoke" else LABELERS
    return product(
        paper.tasks(size),
        Axis("labeler", labelers),
        paper.rates(size),
        Axis("loss.beta", _BETAS[size]),
    )


study = Study(
    name="labels",
    title="Noisy, tied, heterogeneous and intransitive labels",
    question="Does online beat offline whoever labels the data?",
    background=__doc__ or "",
    base=paper.EXPERIMENT,
    arms=(Arm("online", {"source": Online()}, paper.RATE), Arm("offline", {"source": Offline()})),
    axes=axes("paper"),
    strata=("labeler",),
    claims=(
        Claim(
            "B6.labels",
            "At the same KL online beats offline under every labeler.",
            (
                Test(
                    AtEvery("labeler", MatchedDifference("online", "offline")),
                    More(paper.REWARD_ROPE),
                ),
            ),
            "A labeler under which the mean gap is at most two percentage points.",
        ),
        Claim(
            "B6.best",
            "Online's best within 8 nats is higher than offline's under every labeler.",
            (
                Test(
                    AtEvery("labeler", BestDifference("online", "offline", within=paper.BUDGET)),
                    More(paper.REWARD_ROPE),
                ),
            ),
            "A labeler under which the best differ by at most 0.07.",
        ),
    ),
    presets=paper.presets(axes=axes),
)

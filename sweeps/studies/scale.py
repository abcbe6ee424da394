"""Do larger policies close the gap (arXiv 2405.08448, section 5.5, figures 10, 11 and 14)?

Only the policy grows. Proxy and golden baseline keep the smallest size, as in the paper, which scales policies under
one proxy and one opponent. Each policy size has its own SFT policy, and KL is measured to this SFT policy. As in the
paper, the hyperparameters are not tuned for each size. All arms also run at a smaller beta, which takes online past its
peak, and offline learning also runs at higher rates.
"""

from envs.chat import Chat
from envs.helpful import Helpful
from envs.summarize import Summarize
from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import (
    AtEvery,
    BestDifference,
    MatchedDifference,
    PeakPlace,
    RelativeBest,
    Trend,
)
from sweeps.grid import Axis, Grid, product
from sweeps.rules import More, Same
from sweeps.study import Arm, Study
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.transformer_config import SIZES

_LADDER = {"smoke": ("XS", "S"), "laptop": ("XS", "S"), "paper": tuple(SIZES)}
_BETAS = {
    "smoke": (paper.BASE_BETA,),
    "laptop": (0.03, paper.BASE_BETA),
    "paper": (0.03, paper.BASE_BETA),
}
_RATES = {
    "smoke": (paper.BASE_RATE,),
    "laptop": (paper.BASE_RATE, 1e-3),
    "paper": (paper.BASE_RATE, 1e-3),
}
#: The three tasks of the paper's figures 10 and 11.
_TASKS = Axis("task", (Summarize(), Helpful(), Chat()))


def axes(size: str) -> Grid:
    """Tasks, policy sizes, rates and betas."""
    ladder = tuple(SIZES[name] for name in _LADDER[size])
    tasks = _TASKS if size == "paper" else paper.tasks(size)
    return product(
        tasks,
        Axis("model", ladder),
        Axis("optimiser.learning_rate", _RATES[size]),
        Axis("loss.beta", _BETAS[size]),
    )


def _best(first: str, second: str) -> BestDifference:
    """The difference of two arms' best within the budget."""
    return BestDifference(first, second, within=paper.BUDGET)


study = Study(
    name="scale",
    title="Larger policies",
    question="Does the gap close as the policy grows, and does its peak stay at the same KL?",
    background=__doc__ or "",
    base=paper.EXPERIMENT,
    arms=(
        Arm("online", {"source": Online()}, paper.RATE),
        Arm("shuffled", {"source": paper.shuffled(paper.recorded())}),
        Arm("offline", {"source": Offline()}),
    ),
    axes=axes("paper"),
    strata=("model",),
    claims=(
        Claim(
            "C14",
            "As policies grow, the shuffled replay closes in on online faster than offline does.",
            (
                Test(Trend(_best("shuffled", "online"), "model"), More(0.035)),
                Test(Trend(_best("shuffled", "offline"), "model"), More(0.035)),
            ),
            "A best golden reward within 8 nats that gains at most 0.035 on online's, or on offline's, a doubling of "
            "parameters.",
            beside=(
                Trend(_best("offline", "online"), "model"),
                Trend(RelativeBest("shuffled", "online"), "model"),
                Trend(RelativeBest("offline", "online"), "model"),
            ),
        ),
        Claim(
            "C15",
            "Online's peak comes at a similar KL for every policy size.",
            (Test(Trend(PeakPlace("online"), "model"), Same(0.1)),),
            "A KL at the fitted peak that changes by more than a tenth (in log KL) a doubling of parameters.",
        ),
        Claim(
            "B1.scale",
            "Online beats offline at the same KL for every policy size.",
            (
                Test(
                    AtEvery("model", MatchedDifference("online", "offline")),
                    More(paper.REWARD_ROPE),
                ),
            ),
            "A policy size at which the gap is at most two percentage points.",
        ),
    ),
    presets=paper.presets("source.recorded", axes=axes, worlds=3),
)

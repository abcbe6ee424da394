"""The opening experiment of arXiv 2405.08448: online against offline IPO, outcome over KL (its figure 1).

All arms minimise the same loss from the same SFT policy; only the source of pairs differs. Offline learns from
D_golden; online learns from its own samples, labelled by a proxy that was trained on the same D_golden. Two arms have
equal settings and steps. Two more are the paper's comparison: online at its one setting, and offline tuned over rates,
betas and lengths.
"""

from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import BestDifference, InteriorMaximum, MatchedDifference
from sweeps.rules import More
from sweeps.study import Arm, Study
from testbed.sources.offline import Offline
from testbed.sources.online import Online

PAIR = ("online", "offline")
BASE, TUNED = "online, base", "offline, tuned"

study = Study(
    name="gap",
    title="Online against offline preference optimisation",
    question="Does sampling pairs from the policy beat learning from a fixed data set, at the same KL budget?",
    background=paper.__doc__ or "",
    base=paper.EXPERIMENT,
    arms=(
        Arm("online", {"source": Online()}, paper.RATE),
        Arm("offline", {"source": Offline()}, paper.RATE),
        Arm(BASE, {"source": Online()}, paper.BASE),
        Arm(TUNED, {"source": Offline()}),
    ),
    axes=paper.grid("paper"),
    claims=(
        Claim(
            "C1",
            "Goodhart: under both regimes the outcome rises and then falls as KL grows.",
            tuple(
                Test(InteriorMaximum(arm, end), More(paper.REWARD_ROPE))
                for arm in PAIR
                for end in ("start", "end")
            ),
            "A curve that does not rise by more than 0.07, or whose fall after the peak is at most 0.07. A curve still "
            "rising at the largest KL that was reached leaves the question open.",
        ),
        Claim(
            "C2",
            "At the same KL from the SFT policy, online beats offline.",
            (Test(MatchedDifference(*PAIR), More(paper.REWARD_ROPE)),),
            "A difference of golden reward of at most 0.07 between 0.5 and 3 nats.",
            beside=(
                MatchedDifference(*PAIR, low=3.0, high=8.0),
                MatchedDifference(*PAIR, low=0.04, high=0.25, per_token=True),
                MatchedDifference(*PAIR, outcome="win_rate"),
            ),
        ),
        Claim(
            "C3",
            "Online at its one setting reaches more than offline at its best over rates, betas and lengths.",
            (Test(BestDifference(BASE, TUNED), More(paper.REWARD_ROPE)),),
            "A best golden reward, by what the steps allow, at most 0.07 above offline's.",
            beside=(BestDifference(BASE, TUNED, outcome="win_rate"),),
        ),
        Claim(
            "C3.8",
            "Within 8 nats, at equal steps and tuning, online reaches more than offline.",
            (
                Test(
                    BestDifference(*PAIR, within=paper.BUDGET, equal=True), More(paper.REWARD_ROPE)
                ),
            ),
            "A best golden reward within 8 nats at most 0.07 above offline's.",
            beside=(
                BestDifference(*PAIR, within=4.0, equal=True),
                BestDifference(*PAIR, within=16.0, equal=True),
                BestDifference(*PAIR, within=paper.BUDGET, outcome="win_rate", equal=True),
            ),
        ),
    ),
    presets=paper.presets(longer=(TUNED,), worlds=paper.MANY_WORLDS, few_rates=True),
)

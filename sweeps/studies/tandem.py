"""Does coverage explain the gap? Offline on the same pairs that the online run saw (arXiv 2405.08448, section 5.1,
figures 4 and 13, appendices F and G).

The stream of pairs of one online run at the base configuration is recorded: D_online. A run that learns from D_online
in its original order must be identical to the online run. The shuffled D_online has the same texts with the same
labels; only their order is lost.
"""

from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import (
    BestDifference,
    Identical,
    MatchedDifference,
    PairedDifference,
    ShareOfGap,
)
from sweeps.rules import More, NoMore, Same
from sweeps.study import Arm, Study
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.sources.replay import Replay

RECORDED = paper.recorded()
BEST = "best_golden_reward"


def replayed(name: str, window: float) -> Arm:
    """The online run repeated from its recorded stream, shuffled within windows of ``window`` steps."""
    return Arm(name, {"source": Replay(RECORDED, shuffle_window=window)}, paper.BASE)


study = Study(
    name="tandem",
    title="Coverage: offline learning from the online run's own pairs",
    question="Would offline learning do as well if its data covered what the online run saw?",
    background=(__doc__ or "")
    + "\nThe paper's window of 500 of 4000 steps is one of 125 of 1000 here. The replays in order and within windows "
    "run at the base configuration, like the online run: nothing but the order differs. The uniformly shuffled replay "
    "is also run at every other rate and beta, as offline learning is.",
    base=paper.EXPERIMENT,
    arms=(
        Arm("online", {"source": Online()}, paper.BASE),
        replayed("replay", 1.0),
        replayed("shuffled by 4", 4.0),
        replayed("shuffled by 125", 125.0),
        Arm("shuffled", {"source": paper.shuffled(RECORDED)}),
        Arm("offline", {"source": Offline()}),
    ),
    axes=paper.grid("paper"),
    claims=(
        Claim(
            "C4",
            "Offline on D_online in its own order is the online run: the parameters agree to the last bit.",
            (Test(Identical("online", "replay"), Same(0.0)),),
            "One checkpoint of one run at which a single bit of the parameters differs.",
        ),
        Claim(
            "C5",
            "Offline on the shuffled D_online falls short of online: coverage does not explain the gap.",
            (Test(MatchedDifference("online", "shuffled"), More(paper.REWARD_ROPE)),),
            "A shuffled replay whose golden reward is at most 0.07 below online's between 0.5 and 3 nats.",
            beside=(
                MatchedDifference("shuffled", "offline"),
                BestDifference("online", "shuffled", within=paper.BUDGET),
                BestDifference("shuffled", "offline", within=paper.BUDGET),
                MatchedDifference("online", "shuffled", outcome="win_rate"),
            ),
        ),
        Claim(
            "C6",
            "A little shuffling (every 4 steps) costs nothing; a lot (an eighth of the run, uniform) does.",
            (
                Test(PairedDifference(BEST, "online", "shuffled by 4"), NoMore(paper.REWARD_ROPE)),
                Test(PairedDifference(BEST, "online", "shuffled by 125"), More(paper.REWARD_ROPE)),
                Test(PairedDifference(BEST, "online", "shuffled"), More(paper.REWARD_ROPE)),
            ),
            "A best golden reward more than 0.07 below online's for windows of 4, or within 0.07 for the others, at "
            "the same rate, beta and seed.",
        ),
        Claim(
            "B1.coverage",
            "The online run's coverage alone closes at least half of the gap at matched KL.",
            (Test(ShareOfGap("online", "offline", "shuffled"), More(0.0)),),
            "A shuffled replay whose curve lies nearer to offline's than to online's.",
        ),
    ),
    presets=paper.presets("source.recorded"),
)

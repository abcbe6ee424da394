"""At an equal budget of labels, not only of KL: what should a practitioner buy (question B5)?

Offline and online by proxy spend their labels on D_golden: both buy the labels of its pairs once, before training, and
online asks the proxy for all further labels. The third arm buys its labels online, one for every pair that it writes,
and stops when its labels are spent: 32 a step. This arm has no proxy that could mislead it, and needs no labels to
train a proxy.
"""

from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import BestDifference, MatchedDifference
from sweeps.grid import Axis, Grid, product
from sweeps.rules import More
from sweeps.study import Arm, Study
from testbed import config
from testbed.sources.offline import Offline
from testbed.sources.online import Online

#: Number of labels that every arm may buy.
BUDGET = 2560
#: Number of steps after which an online run that buys one label per pair has spent its labels.
LAST = BUDGET // paper.EXPERIMENT.batch_size
#: Fewer pairs; SFT and proxy see each pair as often as with the default number, at the base's constant rates.
_SHARE = BUDGET / paper.EXPERIMENT.data.pairs
SCARCE = {
    "data.pairs": BUDGET,
    "sft.steps": round(paper.EXPERIMENT.sft.steps * _SHARE),
    "proxy.fit.steps": round(paper.EXPERIMENT.proxy.fit.steps * _SHARE),
    **{path: config.get(paper.EXPERIMENT, path) for path in paper.FALLING if "steps" not in path},
}
FRESH = "labels for fresh samples"


def axes(size: str) -> Grid:
    """The common grid, and the number of steps."""
    steps = paper.preset(size).settings["steps"]
    return product(paper.tasks(size), paper.rates(size), paper.betas(size), Axis("steps", (steps,)))


study = Study(
    name="budget",
    title="An equal budget of labels",
    question="With so many labels to spend, is it better to buy them for a fixed data set or for fresh samples?",
    background=__doc__ or "",
    base=paper.EXPERIMENT,
    arms=(
        Arm("offline", {"source": Offline(), **SCARCE}),
        Arm("online by proxy", {"source": Online(), **SCARCE}, paper.RATE),
        Arm(FRESH, {"source": Online(), "teacher": "golden", **SCARCE}, {"steps": LAST}),
    ),
    axes=axes("paper"),
    claims=(
        Claim(
            "B5.proxy",
            "With the same labels, online by a proxy beats offline at the same KL.",
            (Test(MatchedDifference("online by proxy", "offline"), More(paper.REWARD_ROPE)),),
            "A difference of at most 0.07 between 0.5 and 3 nats.",
        ),
        Claim(
            "B5.fresh",
            "Labels are better spent on a proxy's training data than on fresh samples, one a pair.",
            (Test(BestDifference("online by proxy", FRESH), More(paper.REWARD_ROPE)),),
            "A best golden reward at most 0.07 above that of the run that buys its labels online.",
        ),
    ),
    presets=paper.presets(axes=axes),
)

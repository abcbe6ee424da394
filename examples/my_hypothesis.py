"""A user's own hypothesis in one file, tested with the loss and the task of the files beside it.

    testbed run examples/my_hypothesis.py --preset smoke

IPO pulls hardest on the pairs that are furthest from its target. Under wrong labels these pairs are often the wrongly
labelled ones. A loss with a bounded pull should therefore reach a better policy, above all with noisy labels.
"""

from my_loss import HuberIpo
from my_task import Paths

from envs.labelers.bradley_terry import BradleyTerry
from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import BestDifference, MatchedDifference
from sweeps.grid import product
from sweeps.rules import More
from sweeps.study import Arm, Study
from testbed.config import replace_all
from testbed.losses.ipo import Ipo

NOISY = BradleyTerry(temperature=1.0)
PAIR = ("Huber", "IPO")


def axes(size: str):
    """Rates and betas of a size: both arms have all of them."""
    return product(paper.rates(size), paper.betas(size))


study = Study(
    name="my_hypothesis",
    title="A bounded pull under noisy labels",
    question="Does Huber's distance beat the squared one, online, when labels are noisy?",
    base=replace_all(paper.EXPERIMENT, {"task": Paths(), "labeler": NOISY}),
    arms=(Arm("Huber", {"loss": HuberIpo()}), Arm("IPO", {"loss": Ipo()})),
    axes=axes("paper"),
    claims=(
        Claim(
            "H1",
            "At the same KL from the SFT policy, Huber's distance wins more often.",
            (Test(MatchedDifference(*PAIR), More(paper.REWARD_ROPE)),),
            "A golden reward at most 0.07 higher between 0.5 and 3 nats.",
        ),
        Claim(
            "H2",
            "Its best within 8 nats is higher.",
            (Test(BestDifference(*PAIR, within=paper.BUDGET), More(paper.REWARD_ROPE)),),
            "A best golden reward within 8 nats at most 0.07 above that of the squared distance.",
        ),
    ),
    presets=paper.presets(axes=axes),
)

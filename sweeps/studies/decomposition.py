"""Which of three approximations causes the gap? Each is replaced by its exact counterpart, one at a time (question B4).

In a world whose responses can be enumerated, three approximations can be removed:

- the proxy: the golden reward labels the responses of online instead;
- the narrow data: offline gets the same number of pairs from a flatter data policy, three pairs for each existing
  response, so that nearly all responses are among them;
- the network: the policy is a table of all responses, which starts from the same SFT policy.

All arms share the writers' texts, the SFT policy and the golden baseline.
"""

from envs.enumerable import Enumerable
from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import BestDifference, ShareOfGap
from sweeps.grid import Axis, Grid, product
from sweeps.rules import More
from sweeps.study import Arm, Study
from testbed import config
from testbed.sources.offline import Offline
from testbed.sources.online import Online

#: Pairs for 64 prompts of 341 responses, and two epochs of SFT and of the proxy on these pairs.
PLENTY = {"data.pairs": 65536, "sft.steps": 2000, "proxy.fit.steps": 2400}
#: A table's logits are its parameters, and each moves only at its own visits: at a network's rates the table stays at
#: SFT.
TABLE = {"optimiser.learning_rate": 0.03}


def axes(size: str) -> Grid:
    """The one world, rates and betas."""
    return product(Axis("task", (Enumerable(),)), paper.rates(size), paper.betas(size))


study = Study(
    name="decomposition",
    title="One exact piece at a time",
    question="How much of the gap comes from the proxy, how much from the data's support, how much from the network?",
    background=__doc__ or "",
    base=config.replace_all(paper.LISTED, PLENTY),
    arms=(
        Arm("online", {"source": Online()}, paper.RATE),
        Arm("offline", {"source": Offline()}),
        Arm("online, golden teacher", {"source": Online(), "teacher": "golden"}, paper.RATE),
        Arm("offline, full support", {"source": Offline(), "data.temperature": 1.5}),
        Arm("online, table", {"source": Online(), "tabular": True}, TABLE),
        Arm("offline, table", {"source": Offline(), "tabular": True}, TABLE),
    ),
    axes=axes("paper"),
    claims=(
        Claim(
            "B4.gap",
            "Online's best within 8 nats is higher than offline's in the enumerable world too.",
            (
                Test(
                    BestDifference("online", "offline", within=paper.BUDGET),
                    More(paper.REWARD_ROPE),
                ),
            ),
            "A best golden reward within 8 nats at most 0.07 above offline's.",
        ),
        Claim(
            "B4.support",
            "Full support closes at least half of the gap within 8 nats.",
            (
                Test(
                    ShareOfGap(
                        "online", "offline", "offline, full support", low=None, high=paper.BUDGET
                    ),
                    More(0.0),
                ),
            ),
            "A best golden reward within 8 nats nearer to that of offline on the writers' data than to online's.",
        ),
        Claim(
            "B4.network",
            "Online beats offline without a network as well.",
            (
                Test(
                    BestDifference("online, table", "offline, table", within=paper.BUDGET),
                    More(paper.REWARD_ROPE),
                ),
            ),
            "Tables whose best differ by at most 0.07: the gap was the network's.",
        ),
        Claim(
            "B4.proxy",
            "The proxy costs online some of its best.",
            (
                Test(
                    BestDifference("online, golden teacher", "online", within=paper.BUDGET),
                    More(paper.REWARD_ROPE),
                ),
            ),
            "A golden teacher that adds at most 0.07.",
        ),
    ),
    presets=paper.presets(axes=axes, longer=("offline", "offline, full support", "offline, table")),
)

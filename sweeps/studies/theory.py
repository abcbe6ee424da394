"""Where theory holds, and what breaks it (arXiv 2405.08448, section 5.2 and appendix H).

Theory puts the optimum of offline IPO at sft exp(p(y > mu) / beta) / Z, for data written by mu (arXiv 2310.12036), if
mu may write every response. In a world of 341 responses to each of 64 prompts this optimum and the learnt policy's
distance from it are known exactly. The policy is a table of all responses, so that only the data can keep the policy
from the optimum: support is the share of the writers' mass, the most likely responses first, that the data may hold.
There are many more pairs than responses, so that the data contain every response that they may hold.

Checked before the study was written: with 32,768 pairs (512 a prompt) a table at full support stays at a distance of
0.15 however long it trains, and with 262,144 the distance falls to 0.05. The distance that remains at full support
comes from the finite sample.
"""

from envs.enumerable import Enumerable
from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import Level
from sweeps.grid import Axis, Grid, product
from sweeps.rules import More, NoMore
from sweeps.study import Arm, Preset, Study
from testbed import config
from testbed.optimiser import OptimiserConfig
from testbed.sources.offline import Offline

BETA, RATE = 0.3, 0.01
#: Number of prompts, drawn with repetition: enough that all 64 prompts occur.
PROMPTS = 512
FULL, NARROW = 1.0, 0.2
_SUPPORT = {
    "smoke": (FULL, NARROW),
    "laptop": (FULL, 0.5, NARROW),
    "paper": (FULL, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, NARROW),
}
_PAIRS = {"smoke": 4096, "laptop": 262144, "paper": 262144}
_BATCH = {"smoke": 32, "laptop": 512, "paper": 512}


def axes(size: str) -> Grid:
    """Shares of the writers' mass."""
    return product(Axis("task", (Enumerable(),)), Axis("data.support", _SUPPORT[size]))


def preset(size: str) -> Preset:
    """The preset of a size: the more data, the larger the batch."""
    return paper.preset(
        size,
        axes=axes(size),
        data__pairs=_PAIRS[size],
        data__prompts=PROMPTS,
        data__temperature=1.5,
        batch_size=_BATCH[size],
        baseline__steps=100,
        proxy__fit__steps=20,
    )


study = Study(
    name="theory",
    title="Theory's optimum and the support of the data",
    question="Does offline IPO find the optimum that theory gives it, and what if the data leave responses out?",
    background=__doc__ or "",
    base=config.replace_all(
        paper.LISTED,
        {
            "tabular": True,
            "source": Offline(),
            "loss.beta": BETA,
            "optimiser": OptimiserConfig(learning_rate=RATE),
            "evaluation.optimum_beta": BETA,
        },
    ),
    arms=(
        Arm("any support", {}),
        Arm("full support", {}, {"data.support": FULL}),
        Arm("narrow support", {}, {"data.support": NARROW}),
    ),
    axes=axes("paper"),
    claims=(
        Claim(
            "C17",
            "Theory's optimum for offline IPO is what full support gives, and narrow support breaks it.",
            (
                Test(Level("optimum_distance", "full support", against=0.0), NoMore(0.1)),
                Test(Level("optimum_distance", "narrow support", against=0.0), More(0.2)),
            ),
            "A total variation above 0.1 between the learnt policy and the exact optimum at full support, or one of at "
            "most 0.2 where the data hold a fifth of the writers' mass.",
        ),
    ),
    presets={size: preset(size) for size in paper.PRESETS},
)

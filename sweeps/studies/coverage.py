"""Coverage and quality moved independently (question B3).

The paper's ablations of the data move both at once. Here both are parameters of the data policy, set by calibration and
then measured. Coverage is 1/concentrability of the target sft exp(r) over the data; quality is the mean golden reward
of the data in SFT standard deviations. In a world whose responses can be enumerated both are exact, and the settings
form a grid of the two.
"""

from envs.enumerable import Enumerable
from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import Slope
from sweeps.grid import Axis, Grid, product
from sweeps.rules import More
from sweeps.study import Arm, Study
from testbed.sources.offline import Offline

_COVERAGE = {"smoke": (0.1, 0.2), "laptop": (0.05, 0.1, 0.2), "paper": (0.03, 0.05, 0.1, 0.2)}
_QUALITY = {"smoke": (0.0, 0.5), "laptop": (0.0, 0.25, 0.5), "paper": (0.0, 0.25, 0.5, 0.75)}
COVERAGE, QUALITY = "ground.coverage", "ground.data_quality"


def axes(size: str) -> Grid:
    """The two parameters of the data policy, and betas."""
    return product(
        Axis("task", (Enumerable(),)),
        Axis("data.coverage", _COVERAGE[size]),
        Axis("data.quality", _QUALITY[size]),
        paper.betas(size),
    )


study = Study(
    name="coverage",
    title="Coverage and quality, one at a time",
    question="What helps offline learning: data that cover what it should write, or good data?",
    background=__doc__ or "",
    base=paper.LISTED,
    arms=(Arm("offline", {"source": Offline()}),),
    axes=axes("paper"),
    claims=(
        Claim(
            "B3.coverage",
            "At the same quality, offline learning gets better with coverage.",
            (Test(Slope("best_golden_reward", COVERAGE, (QUALITY,), "offline"), More(0.35)),),
            "A tenth more coverage that adds at most 0.035 to a run's best golden reward.",
        ),
        Claim(
            "B3.quality",
            "At the same coverage, offline learning gets better with the quality of its data.",
            (
                Test(
                    Slope("best_golden_reward", QUALITY, (COVERAGE,), "offline"),
                    More(paper.REWARD_ROPE),
                ),
            ),
            "A standard deviation of quality that adds at most 0.07 to a run's best golden reward.",
        ),
    ),
    presets=paper.presets(axes=axes),
)

"""Controls of the whole way from runs to verdicts: a comparison in which nothing differs, and one in which something
must.

*Negative*: "online again" is the arm "online" with other random numbers of training (`seeds.training_shift`). World,
SFT policy, data, labels and proxy are the same, so that its effects are 0 in every world but for training: claims that
there is practically no effect. *Positive*: with the golden reward as teacher in the proxy's place online must be better
at the same KL.

Six groups of 16 worlds are judged one by one, as six studies of the usual size: `python -m analysis.verdicts.controls
DIR`. Of the twelve 90% intervals of the negative control three or fewer should exclude 0, and no effect may be called
larger than what is practically nothing. Seeds 1000 to 1095 are kept for this study (`--seeds 1000:1096`).
"""

from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import BestDifference, MatchedDifference
from sweeps.grid import Axis, product
from sweeps.rules import More, Same
from sweeps.study import Arm, Preset, Study
from testbed.sources.online import Online

ONLINE, AGAIN, GOLDEN = "online", "online again", "online, golden teacher"
SHIFT = 1_000_000
"""Larger than the number of any world, so that no world trains with another's random numbers."""
BETA = 0.03
SMALL = {
    "data.pairs": 1024,
    "data.held_out": 128,
    "sft.steps": 300,
    "proxy.fit.steps": 200,
    "baseline.steps": 0,
    "steps": 128,
    "evaluation.points": 8,
    "evaluation.first": 4,
    "evaluation.prompts": 256,
    "evaluation.kl_prompts": 128,
    "evaluation.pairs": 64,
}


def _preset(seeds: int, note: str, **changes: int) -> Preset:
    """The small size, with ``changes`` (``__`` for a dot)."""
    axes = product(Axis("task", (paper.EXPERIMENT.task,)), Axis("loss.beta", (BETA,)))
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    return Preset({**SMALL, **changed}, axes, seeds, note)


study = Study(
    name="controls",
    title="Controls: nothing differs, and something must",
    question="Are effects found where there are none, and found where there are some?",
    background=__doc__ or "",
    base=paper.EXPERIMENT,
    arms=(
        Arm(ONLINE, {"source": Online()}),
        Arm(AGAIN, {"source": Online(), "seeds.training_shift": SHIFT}),
        Arm(GOLDEN, {"source": Online(), "teacher": "golden"}),
    ),
    axes=product(Axis("task", (paper.EXPERIMENT.task,)), Axis("loss.beta", (BETA,))),
    claims=(
        Claim(
            "N1",
            "The same arm twice: no difference at the same KL.",
            (Test(MatchedDifference(AGAIN, ONLINE), Same(paper.REWARD_ROPE)),),
            "A difference of golden reward beyond 0.07 between 0.5 and 3 nats.",
        ),
        Claim(
            "N2",
            "The same arm twice: no difference between the best within 8 nats.",
            (
                Test(
                    BestDifference(AGAIN, ONLINE, within=paper.BUDGET, equal=True),
                    Same(paper.REWARD_ROPE),
                ),
            ),
            "A difference of the best golden reward beyond 0.07.",
        ),
        Claim(
            "P1",
            "With the golden reward as teacher online is better at the same KL than with the proxy.",
            (Test(MatchedDifference(GOLDEN, ONLINE), More(paper.REWARD_ROPE)),),
            "A difference of golden reward of at most 0.07 between 0.5 and 3 nats.",
        ),
        Claim(
            "P2",
            "With the golden reward as teacher the best within 8 nats is better than with the proxy.",
            (
                Test(
                    BestDifference(GOLDEN, ONLINE, within=paper.BUDGET, equal=True),
                    More(paper.REWARD_ROPE),
                ),
            ),
            "A best golden reward at most 0.07 higher.",
        ),
    ),
    presets={
        "smoke": _preset(2, "Does everything run?", steps=32, evaluation__points=4),
        "laptop": _preset(16, "One group of worlds."),
        "paper": _preset(96, "Six groups of worlds, on two cores in an hour."),
    },
)

"""The whole dial between offline and online, one arm a position: the same loss on pairs from nine sources.

    testbed run examples/dial.py --preset smoke

Two claims of arXiv 2405.08448 can be read off: replaying D_online in its own order *is* the online run (C4), shuffling
it is not (C5). Its ablation of data quality is here too, as data written by the online run's last policy (C7).
"""

from envs.labelers.bradley_terry import BradleyTerry
from envs.neural import Neural
from sweeps.claims import Claim, PeakDifference, Rule
from sweeps.grid import Axis, product
from sweeps.study import Arm, Preset, Study
from testbed.experiment import Experiment
from testbed.losses.ipo import Ipo
from testbed.optimiser import OptimiserConfig
from testbed.recorded import Recorded
from testbed.sources.generated import Generated
from testbed.sources.mixture import Mixture
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.sources.replay import Replay
from testbed.sources.reuse import Reuse
from testbed.sources.snapshot import Snapshot
from testbed.train import OnlineRun

STEPS, RATE = 800, 1e-3
LOSS, OPTIMISER = Ipo(beta=0.1), OptimiserConfig(learning_rate=RATE)
RECORDED = Recorded(OnlineRun(LOSS, OPTIMISER, STEPS))

study = Study(
    name="dial",
    title="Between offline and online",
    question="Where between the two does the difference arise: freshness, order, coverage or quality of the pairs?",
    base=Experiment(
        task=Neural(),
        labeler=BradleyTerry(temperature=0.0),
        loss=LOSS,
        optimiser=OPTIMISER,
        steps=STEPS,
        baseline=OnlineRun(LOSS, OPTIMISER, STEPS),
    ),
    arms=(
        Arm("online", {"source": Online()}),
        Arm("snapshot of 64 steps", {"source": Snapshot(refresh_every=64)}),
        Arm("samples of SFT", {"source": Snapshot(refresh_every=1_000_000)}),
        Arm("half offline", {"source": Mixture(Offline(), Online(), share=0.5)}),
        Arm("four epochs", {"source": Reuse(epochs=4)}),
        Arm("replay", {"source": Replay(RECORDED)}),
        Arm("replay, shuffled", {"source": Replay(RECORDED, shuffle_window=float(STEPS))}),
        Arm("data of the last policy", {"source": Generated(1.0, 1.0, recorded=RECORDED)}),
        Arm("offline", {"source": Offline()}),
    ),
    axes=product(Axis("evaluation.prompts", (512,))),
    claims=(
        Claim(
            "C5",
            "Offline on the shuffled D_online falls short of online.",
            PeakDifference("online", "replay, shuffled"),
            Rule(rope=0.01),
            "A peak at most one percentage point above that of the shuffled replay.",
        ),
        Claim(
            "C7",
            "Data written by the last online policy, labelled by the golden reward, do not help offline.",
            PeakDifference("offline", "data of the last policy"),
            Rule(rope=0.01),
            "Offline's peak at least one percentage point below.",
        ),
    ),
    presets={
        "smoke": Preset(
            settings={
                "data.pairs": 512,
                "data.held_out": 128,
                "sft.steps": 200,
                "proxy.fit.steps": 100,
                "baseline.steps": 100,
                "evaluation.points": 4,
                "evaluation.kl_prompts": 64,
                "evaluation.pairs": 64,
            },
            seeds=1,
            note="Does everything run? Too small to believe.",
        ),
        "laptop": Preset(settings={"evaluation.points": 8}, seeds=3, note="Minutes on two cores."),
    },
)

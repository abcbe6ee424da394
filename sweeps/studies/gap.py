"""The opening experiment of arXiv 2405.08448: online against offline IPO, win rate over KL (its figure 1).

Both arms minimise the same loss from the same SFT policy; only the source of pairs differs. Offline learns from
D_golden; online learns from its own samples, labelled by a proxy that was trained on the same D_golden. The paper's
grid has learning rates {1/3, 1, 3} x base, betas {1, 5, 10} x 0.1 and steps {1, 5} x 4000. Here policies are small, so
rates are larger, and betas go down as well as up so that the curves run from a KL of about 0.1 to beyond the peak.

`Neural`'s ruggedness was set by one criterion, that the proxy agrees with the golden reward on about three of four
held-out pairs, as reward models do with people; no outcome of the study entered. Earlier forms of its golden reward
were given up because very short responses, then single repeated tokens, beat nearly all that the writers wrote: the
weight of variety is set so that no trivial answer passes the writers' 99th percentile.
"""

from envs.labelers.bradley_terry import BradleyTerry
from envs.neural import Neural
from sweeps.claims import (
    AllOf,
    Change,
    Claim,
    InteriorMaximum,
    MatchedGap,
    PairedDifference,
    PeakDifference,
    Rule,
)
from sweeps.grid import Axis, product
from sweeps.study import Arm, Preset, Study
from testbed.experiment import Experiment
from testbed.losses.ipo import Ipo
from testbed.optimiser import OptimiserConfig
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.train import OnlineRun

BASE_RATE = 3e-4
BASE_BETA = 0.1

study = Study(
    name="gap",
    title="Online against offline preference optimisation",
    question="Does sampling pairs from the policy beat learning from a fixed data set, at the same KL budget?",
    base=Experiment(
        task=Neural(),
        labeler=BradleyTerry(temperature=0.0),
        loss=Ipo(beta=BASE_BETA),
        optimiser=OptimiserConfig(learning_rate=BASE_RATE),
        baseline=OnlineRun(
            loss=Ipo(beta=BASE_BETA), optimiser=OptimiserConfig(BASE_RATE), steps=1000
        ),
    ),
    arms=(Arm("online", {"source": Online()}), Arm("offline", {"source": Offline()})),
    axes=product(
        Axis("optimiser.learning_rate", (1e-4, BASE_RATE, 1e-3)),
        Axis("loss.beta", (0.03, BASE_BETA, 0.3)),
        Axis("steps", (1000, 5000)),
    ),
    claims=(
        Claim(
            "C1",
            "Goodhart: under both regimes the win rate rises and then falls as KL grows.",
            InteriorMaximum(("online", "offline")),
            Rule(rope=0.01),
            "A curve that falls from the start, or whose fall after the peak is at most one percentage point. "
            "A curve still rising at the largest KL that was reached leaves the question open.",
        ),
        Claim(
            "C2",
            "At the same KL from the SFT policy, online beats offline.",
            MatchedGap("online", "offline"),
            Rule(rope=0.01),
            "A mean gap over the shared range of KL of at most one percentage point.",
        ),
        Claim(
            "C3",
            "Online's peak is higher than offline's.",
            PeakDifference("online", "offline"),
            Rule(rope=0.01),
            "A peak at most one percentage point above offline's.",
        ),
        Claim(
            "C9",
            "The offline policy classifies D_golden better than the online policy, and generates worse.",
            AllOf(
                (
                    PairedDifference("data_accuracy", "offline", "online"),
                    PairedDifference("win_rate", "online", "offline"),
                )
            ),
            Rule(rope=0.01),
            "Either difference at most one percentage point at the end of training.",
        ),
        Claim(
            "C11",
            "The log-probability of D_golden's winners falls under both regimes, more under offline.",
            AllOf(
                (
                    Change("winner_logprob_change", "online", sign=-1),
                    Change("winner_logprob_change", "offline", sign=-1),
                    PairedDifference("winner_logprob_change", "online", "offline"),
                )
            ),
            Rule(rope=0.1),
            "Winners whose log-probability falls by at most 0.1 nats under a regime, or not more under offline.",
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
                "evaluation.prompts": 128,
                "evaluation.kl_prompts": 64,
                "evaluation.pairs": 64,
            },
            axes=product(
                Axis("optimiser.learning_rate", (1e-3,)),
                Axis("loss.beta", (0.03, BASE_BETA)),
                Axis("steps", (100,)),
            ),
            seeds=2,
            note="Does everything run? Too small to believe.",
        ),
        "laptop": Preset(
            settings={"evaluation.points": 8},
            axes=product(
                Axis("optimiser.learning_rate", (BASE_RATE, 1e-3)),
                Axis("loss.beta", (0.03, BASE_BETA, 0.3)),
                Axis("steps", (320, 1600)),
            ),
            seeds=3,
            note="Minutes on two cores.",
        ),
        "paper": Preset(
            settings={"evaluation.points": 20, "evaluation.prompts": 2048},
            seeds=8,
            note="The paper's grid; meant for a GPU.",
        ),
    },
)

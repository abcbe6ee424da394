"""Do better classifiers make better writers (arXiv 2405.08448, section 5.3, figures 6 to 8, appendix E)?

A policy classifies a pair by the sign of h, its log-ratio against SFT on one response minus its log-ratio on the other.
Online and offline run at the base configuration, like the stream that is recorded, and are measured on ten windows of
this stream, beside the proxy. Both also run at other betas, and offline at other rates: at the base configuration
offline stays nearer to SFT than online, so that differences at the same step are beside differences at the same KL, at
settings that both arms took there.
"""

from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import (
    Change,
    Level,
    MatchedDifference,
    PairedDifference,
    RankCorrelation,
    WithinRun,
)
from sweeps.rules import More, NoMore, Same
from sweeps.study import Arm, Study
from testbed.sources.offline import Offline
from testbed.sources.online import Online

WINDOWS = range(1, 11)
POLICY = tuple(f"stream_accuracy_{window}" for window in WINDOWS)
PROXY = tuple(f"ground.proxy_stream_accuracy_{window}" for window in WINDOWS)
SWEPT, ONLINE_SWEPT = "offline, swept", "online, swept"
ON_STREAM = {"evaluation.stream": paper.recorded()}

study = Study(
    name="classification",
    title="Discriminating against generating",
    question="Does the proxy classify better than the policies, and does a better classifier write better?",
    background=__doc__ or "",
    base=paper.EXPERIMENT,
    arms=(
        Arm("online", {"source": Online(), **ON_STREAM}, paper.BASE),
        Arm("offline", {"source": Offline(), **ON_STREAM}, paper.BASE),
        Arm(ONLINE_SWEPT, {"source": Online()}, paper.RATE),
        Arm(SWEPT, {"source": Offline()}),
    ),
    axes=paper.grid("paper"),
    claims=(
        Claim(
            "C8",
            "On the online stream the proxy classifies better than either policy, and worse and worse as the stream "
            "drifts away.",
            (
                Test(WithinRun(PROXY, POLICY, "online"), More(paper.ROPE)),
                Test(WithinRun(PROXY, POLICY, "offline"), More(paper.ROPE)),
                Test(WithinRun(PROXY[:2], PROXY[-2:], "online"), More(paper.ROPE)),
            ),
            "A policy within two points of the proxy over the whole stream, or a proxy whose accuracy on the last "
            "fifth of it is within two points of that on the first.",
        ),
        Claim(
            "C9",
            "The offline policy classifies D_golden better than the online policy, and generates worse.",
            (
                Test(PairedDifference("data_accuracy", "offline", "online"), More(paper.ROPE)),
                Test(
                    MatchedDifference(SWEPT, ONLINE_SWEPT, outcome="data_accuracy"),
                    More(paper.ROPE),
                ),
                Test(
                    PairedDifference("golden_reward", "online", "offline"), More(paper.REWARD_ROPE)
                ),
                Test(MatchedDifference(ONLINE_SWEPT, SWEPT), More(paper.REWARD_ROPE)),
            ),
            "An accuracy at most two points higher, or a golden reward at most 0.07 lower, at the end of training at "
            "the base setting or between 0.5 and 3 nats.",
            beside=(PairedDifference("win_rate", "online", "offline"),),
        ),
        Claim(
            "C10",
            "Among offline policies, accuracy on D_golden does not predict the golden reward of what they write.",
            (
                Test(RankCorrelation("data_accuracy", "golden_reward", SWEPT), Same(0.3)),
                Test(
                    RankCorrelation("data_accuracy", "golden_reward", SWEPT, within=False),
                    Same(0.3),
                ),
            ),
            "A rank correlation beyond 0.3, up or down, along runs or between the ends of runs.",
            beside=(RankCorrelation("data_accuracy", "win_rate", SWEPT),),
        ),
        Claim(
            "C11",
            "The log-probability of D_golden's winners falls under both regimes, more under offline.",
            (
                Test(Change("winner_logprob_change", "online", sign=-1), More(0.1)),
                Test(Change("winner_logprob_change", "offline", sign=-1), More(0.1)),
                Test(PairedDifference("winner_logprob_change", "online", "offline"), More(0.1)),
                Test(
                    MatchedDifference(ONLINE_SWEPT, SWEPT, outcome="winner_logprob_change"),
                    More(0.1),
                ),
            ),
            "Winners whose log-probability falls by at most 0.1 nats under a regime, or not more under offline, at the "
            "end of training at the base setting or between 0.5 and 3 nats.",
        ),
        Claim(
            "C12",
            "No policy classifies its own samples better than chance.",
            (
                Test(Level("self_accuracy", "online", against=0.5), NoMore(paper.ROPE)),
                Test(Level("self_accuracy", "offline", against=0.5), NoMore(paper.ROPE)),
            ),
            "A policy right about more than 52% of pairs of its own samples at the end of training.",
        ),
    ),
    presets=paper.presets("evaluation.stream", worlds=paper.MANY_WORLDS),
)

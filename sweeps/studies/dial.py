"""The whole range between offline and online, one arm per position: the same loss on pairs from nine sources (question
B2).

How fresh must samples be? The pairs are written by a snapshot of the policy, which is renewed every s steps: s = 1 is
online; a snapshot that is never renewed is the SFT policy. In one arm half of the pairs come from D_golden, and in
another every pair is used four times.
"""

from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import BestDifference, ShareOfGap
from sweeps.rules import More, NoMore
from sweeps.study import Arm, Study
from testbed.sources.mixture import Mixture
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.sources.reuse import Reuse
from testbed.sources.snapshot import Snapshot

study = Study(
    name="dial",
    title="Between offline and online",
    question="How much of online's advantage is left when samples are stale, mixed with data, or used again?",
    background=__doc__ or "",
    base=paper.EXPERIMENT,
    arms=(
        Arm("online", {"source": Online()}, paper.RATE),
        Arm("renewed every 16", {"source": Snapshot(refresh_every=16)}, paper.RATE),
        Arm("renewed every 64", {"source": Snapshot(refresh_every=64)}, paper.RATE),
        Arm("renewed every 256", {"source": Snapshot(refresh_every=256)}, paper.RATE),
        Arm("samples of SFT", {"source": Snapshot(refresh_every=1_000_000)}),
        Arm("half offline", {"source": Mixture(Offline(), Online(), share=0.5)}, paper.RATE),
        Arm("four epochs", {"source": Reuse(epochs=4)}, paper.RATE),
        Arm("offline", {"source": Offline()}),
    ),
    axes=paper.grid("paper"),
    claims=(
        Claim(
            "B2.fresh",
            "Samples from a policy renewed every 16 steps are as good as fresh ones.",
            (
                Test(
                    BestDifference("online", "renewed every 16", within=paper.BUDGET),
                    NoMore(paper.REWARD_ROPE),
                ),
            ),
            "A best golden reward within 8 nats more than 0.07 below online's.",
        ),
        Claim(
            "B2.stale",
            "Samples of the SFT policy, never renewed, close less than half of the gap within 8 nats.",
            (
                Test(
                    ShareOfGap("online", "offline", "samples of SFT", low=None, high=paper.BUDGET),
                    NoMore(0.0),
                ),
            ),
            "A best golden reward within 8 nats nearer to online's than to offline's.",
        ),
        Claim(
            "B2.half",
            "Half of the pairs online close at least half of the gap within 8 nats.",
            (
                Test(
                    ShareOfGap("online", "offline", "half offline", low=None, high=paper.BUDGET),
                    More(0.0),
                ),
            ),
            "A best golden reward within 8 nats nearer to offline's than to online's.",
        ),
        Claim(
            "B2.reuse",
            "Learning from every pair four times costs nothing.",
            (
                Test(
                    BestDifference("online", "four epochs", within=paper.BUDGET),
                    NoMore(paper.REWARD_ROPE),
                ),
            ),
            "A best golden reward within 8 nats more than 0.07 below online's.",
        ),
    ),
    presets=paper.presets(longer=("offline", "samples of SFT")),
)

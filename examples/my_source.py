"""A user's own source in one file, and a study of this source: first the data, then fresh pairs.

testbed run examples/my_source.py --preset smoke
"""

import jax
from jaxtyping import Array, Int, PRNGKeyArray

from sweeps import paper
from sweeps.claims import Claim, Test
from sweeps.estimands import MatchedDifference
from sweeps.rules import More
from sweeps.study import Arm, Study
from testbed.config.ranges import hyper
from testbed.logprob import Policy
from testbed.source import (
    AbstractSource,
    Batch,
    Request,
    Rows,
    TrainingInputs,
    from_data,
    write_pairs,
)
from testbed.sources.online import Online
from testbed.streams import Stream, stream


class DataFirst(AbstractSource):
    """D_golden's pairs for the first ``first`` steps, after them pairs that the policy has just written.

    Attributes:
        first: steps on the data, 0 or more.
    """

    first: int = hyper(50, least=0)

    @property
    def writes(self) -> bool:
        """Whether the source gives any batch that a loss asks for; this source always gives labelled pairs."""
        return False

    def work(self, request: Request) -> tuple[float, float]:
        """For plans: responses written and judgements made for each prompt of a step."""
        return 2.0, 1.0

    def init(self, inputs: TrainingInputs, policy: Policy, request: Request) -> Rows:
        """The state before the first step: the order of the prompts."""
        return Rows.init(inputs.data.size)

    def draw(
        self,
        state: Rows,
        inputs: TrainingInputs,
        policy: Policy,
        request: Request,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> tuple[Batch, Rows]:
        """The pairs of one step, and the next state."""
        rows, _, after = state.next(key, step, request)
        samples = jax.random.fold_in(stream(key, Stream.SAMPLES), step)
        return jax.lax.cond(
            step < self.first,
            lambda: from_data(state, inputs, inputs.data, request, key, step),
            lambda: (write_pairs(inputs, policy, rows, samples), after),
        )


study = Study(
    name="my_source",
    title="Data first",
    question="Do some steps on the data before fresh pairs help?",
    base=paper.EXPERIMENT,
    arms=(Arm("online", {"source": Online()}), Arm("data first", {"source": DataFirst()})),
    axes=paper.grid("paper"),
    claims=(
        Claim(
            "D1",
            "At the same KL from the SFT policy, data first wins more often.",
            (Test(MatchedDifference("data first", "online"), More(paper.REWARD_ROPE)),),
            "A golden reward at most 0.07 higher between 0.5 and 3 nats.",
        ),
    ),
    presets=paper.presets(),
)

"""Generated: a fixed data set written by checkpoints of an online run."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from testbed import decode
from testbed.batches import choose, long_map
from testbed.config.ranges import hyper
from testbed.data.collect import Corpus, balanced, label
from testbed.errors import InvalidInput
from testbed.logprob import Policy
from testbed.policies.trainable import rebuilt
from testbed.recorded_runs.recorded_run import Given, Recorded
from testbed.source import (
    AbstractSource,
    Batch,
    Dataset,
    Ledger,
    Request,
    Rows,
    TrainingInputs,
    from_data,
)
from testbed.streams import Stream, stream
from testbed.types import Pair, PairScores, Prompt, Response, Scalar


class Generated(AbstractSource):
    """Offline learning from pairs whose sides were written by two policies of an online run, on the prompts of
    D_golden: D_sft_vs_800, D_4k_vs_4k and the like (Tang et al. 2024, arXiv 2405.08448, section 5.2 and appendix F).

    Attributes:
        first, second: the policies that write, by the share of the run that they have completed; 0 is the SFT policy.
        judge: who labels: D_golden's labeler, the golden reward without noise, or the proxy.
        recorded: the run; it keeps a checkpoint at each share named here.
    """

    first: float = hyper(0.0, least=0, most=1)
    second: float = hyper(1.0, least=0, most=1)
    judge: Literal["labeler", "golden", "proxy"] = eqx.field(static=True, default="golden")
    recorded: Recorded = Recorded()

    def __check_init__(self) -> None:
        for name in ("first", "second"):
            share = getattr(self, name)
            if share not in self.recorded.stages:
                known = ", ".join(f"{share:g}" for share in self.recorded.stages)
                raise InvalidInput(
                    f"{name} must be a checkpoint of the recorded run ({known}), got {share}"
                )

    @property
    def recorded_run(self) -> Recorded:
        """See `AbstractSource`."""
        return self.recorded

    @property
    def preparation(self) -> "Generated":
        """This source: every field affects the preparation."""
        return self

    def prepare(self, given: Given) -> tuple[Dataset, dict[str, Array]]:
        """Write and label as many pairs as D_golden has. Measured: their mean golden reward, and the share of labels
        that contradict the golden reward."""
        key = stream(given.key, Stream.GENERATED)
        texts = Corpus(
            given.inputs.data.pairs.prompt,
            *(
                self._write(given, share, jax.random.fold_in(stream(key, Stream.SAMPLES), side))
                for side, share in enumerate((self.first, self.second))
            ),
        )
        labels, sft = stream(key, Stream.LABELS), given.inputs.reference
        data, reward = label(given.world, sft, given.labeler, texts, labels)
        data = self._judged(given, data)
        return data, {
            "generated_quality": jnp.mean(reward),
            "generated_label_noise": jnp.mean(data.golden_margin < 0),
        }

    def init(self, inputs: TrainingInputs, policy: Policy, request: Request) -> Rows:
        """The order of the present epoch."""
        return Rows.init(inputs.prepared.size)

    def draw(
        self,
        state: Rows,
        inputs: TrainingInputs,
        policy: Policy,
        request: Request,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> tuple[Batch, Rows]:
        """The next pairs, in the order in which `Offline` takes those of D_golden."""
        batch, state = from_data(state, inputs, inputs.prepared, request, key, step)
        spent, pairs = batch.spent, batch.pairs
        labels, judgements = spent.labels, spent.judgements
        if self.judge == "proxy":
            labels, judgements = judgements, labels
        tokens = spent.distinct.astype(jnp.int32) * (pairs.winner.length + pairs.loser.length)
        spent = Ledger(spent.pairs, spent.distinct, labels, judgements, tokens)
        return eqx.tree_at(lambda b: b.spent, batch, spent), state

    def _judged(self, given: Given, data: Dataset) -> Dataset:
        """Pairs labelled by the labeler, relabelled by the judge if it is another one."""
        if self.judge == "labeler":
            return balanced(data)
        if self.judge == "golden":
            return relabelled(data, data.golden_margin)

        def judge(pair: Pair) -> Scalar:
            one = jax.tree.map(lambda x: x[None], pair)
            return given.inputs.teacher.margin(one.prompt, one.winner, one.loser)[0]

        return relabelled(data, long_map(judge, data.pairs))

    def _write(self, given: Given, share: float | Float[Array, ""], key: PRNGKeyArray) -> Response:
        """A response to each of the data's prompts by the policy at a share of the run. The share is traced, so one
        compiled program writes the data of any two checkpoints."""
        which = jnp.argmin(jnp.abs(jnp.asarray(self.recorded.stages) - share))
        part = jax.tree.map(lambda x: x[which], given.made.policies)
        writer = rebuilt(part, given.inputs.reference)
        prompts, time = given.inputs.data.pairs.prompt, given.inputs.response_length

        def one(asked: tuple[Prompt, PRNGKeyArray]) -> Response:
            prompt, key = jax.tree.map(lambda x: x[None], asked)
            written = decode.sample(writer, prompt, key, time, count=1).response
            return jax.tree.map(lambda x: x[0, 0], written)

        return long_map(one, (prompts, jax.random.split(key, prompts.length.shape[0])))


def relabelled(data: Dataset, margin: Float[Array, " n"]) -> Dataset:
    """The same pairs with the winner that has the positive ``margin`` (of the old winner over the old loser); a margin
    of 0 keeps the label."""
    swap = margin < 0
    certain = jnp.ones_like(margin)

    def ordered(first: PyTree, second: PyTree) -> tuple[PyTree, PyTree]:
        return choose(swap, second, first), choose(swap, first, second)

    winner, loser = ordered(data.pairs.winner, data.pairs.loser)
    scores = PairScores(*ordered(data.reference.winner, data.reference.loser))
    pairs = Pair(data.pairs.prompt, winner, loser, certain, certain)
    return Dataset(pairs, scores, jnp.where(swap, -data.golden_margin, data.golden_margin))

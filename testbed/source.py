"""Sources: where the texts of a training step come from, and what the texts cost."""

import abc
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from testbed import decode, logprob, moved
from testbed.batches import minibatch
from testbed.config.ranges import Checked
from testbed.logprob import Policy
from testbed.preference import AbstractPreference
from testbed.streams import Stream, stream
from testbed.types import Pair, PairScores, Prompt, Response, arrange, certain


class Dataset(eqx.Module):
    """Labelled pairs with what is known about them.

    Attributes:
        pairs: the data, winner first. reference: its log-probabilities under the SFT policy.
        golden_margin: golden reward of the winner less that of the loser (negative where the label is noise).
    """

    pairs: Pair
    reference: PairScores
    golden_margin: Array

    @property
    def size(self) -> int:
        """Number of pairs."""
        return self.golden_margin.shape[-1]


class Ledger(eqx.Module):
    """What learning has consumed, per item of a batch or in total.

    Attributes:
        pairs: pairs learnt from, repetitions included; a group of k responses counts as k/2 pairs.
        distinct: how many of these pairs had not been learnt from before.
        labels: how many of the distinct pairs D_golden's labeler was asked about.
        judgements: comparisons answered by the run's teacher (the proxy, or the golden reward itself).
        tokens: tokens sampled, end tokens included.
    """

    pairs: Float[Array, "*n"]
    distinct: Float[Array, "*n"]
    labels: Int[Array, "*n"]
    judgements: Int[Array, "*n"]
    tokens: Int[Array, "*n"]

    @classmethod
    def zero(cls, *shape: int) -> Self:
        """An empty ledger."""
        fraction, count = jnp.zeros(shape), jnp.zeros(shape, dtype=jnp.int32)
        return cls(fraction, fraction, count, count, count)

    @classmethod
    def fresh(cls, responses: Response, judgements: int) -> Self:
        """The ledger of newly written texts: ``count`` responses to each of ``n`` prompts, with ``judgements``
        judgements a prompt."""
        n, count = responses.length.shape
        pairs, none = jnp.full(n, count / 2.0), jnp.zeros(n, dtype=jnp.int32)
        judged = jnp.full(n, judgements, dtype=jnp.int32)
        return cls(pairs, pairs, none, judged, jnp.sum(responses.length, axis=1))


class Batch(eqx.Module):
    """Pairs to learn from, each with the data that a loss may need.

    Attributes:
        pairs: ``n`` labelled pairs.
        reference: their log-probabilities under the reference policy.
        reward_margin: the teacher's reward of the winner less that of the loser.
        rows: which of the data's prompts each pair answers.
        spent: what each pair cost.
    """

    pairs: Pair
    reference: PairScores
    reward_margin: Float[Array, " n"]
    rows: Int[Array, " n"]
    spent: Ledger


class TrainingInputs(eqx.Module):
    """The inputs that a source may use.

    Attributes:
        data: D_golden. reference: the reference policy. teacher: who labels new pairs.
        prepared: the result of `AbstractSource.prepare`, made once before training.
        fixed: whether ``reference`` is the SFT policy, under which the scores of the data were computed once.
    """

    data: Dataset
    reference: Policy
    teacher: AbstractPreference
    prepared: PyTree = None
    fixed: bool = eqx.field(static=True, default=True)

    @property
    def response_length(self) -> int:
        """Length limit of responses in tokens."""
        return self.data.pairs.winner.tokens.shape[-1]

    def prompts(self, rows: Int[Array, " n"]) -> Prompt:
        """The data's prompts at the given rows."""
        return jax.tree.map(lambda x: x[rows], self.data.pairs.prompt)

    def preferred(self, rows: Int[Array, " n"]) -> Response:
        """The data's preferred responses to the prompts at the given rows."""
        return jax.tree.map(lambda x: x[rows], self.data.pairs.winner)

    def sample(
        self, policy: Policy, rows: Int[Array, " n"], key: PRNGKeyArray, count: int
    ) -> decode.Sample:
        """``count`` responses by a policy to each of the data's prompts at the given rows."""
        keys = jax.random.split(key, rows.shape[0])
        return decode.sample(policy, self.prompts(rows), keys, self.response_length, count)


@runtime_checkable
class RolloutFunction(Protocol):
    """Writes and judges texts for some of the data's prompts."""

    def __call__(
        self, inputs: TrainingInputs, policy: Policy, rows: Int[Array, " n"], key: PRNGKeyArray
    ) -> PyTree:
        """Texts by ``policy``: a module with a field ``spent``, every leaf with a leading axis ``n``."""


class Request(NamedTuple):
    """What a loss or method asks of a source: the number of items a step, and the rollout that writes fresh ones, with
    ``responses`` responses to each prompt and ``judgements`` judgements of them. ``kept`` marks the items that will be
    learnt from; None means all."""

    batch_size: int
    rollout: RolloutFunction
    responses: int = 2
    judgements: int = 1
    kept: Bool[Array, " n"] | None = None

    def learnt(self, before: Bool[Array, " n"]) -> Bool[Array, " n"]:
        """Items that have been learnt from after this step, given the items that had been learnt from ``before``."""
        return jnp.ones_like(before) if self.kept is None else before | self.kept


class AbstractSource(Checked):
    """A supply of texts, anywhere between offline and online."""

    family: ClassVar[str] = "testbed.sources"
    #: Whether texts are written by `Request.rollout`; if not, the source gives labelled pairs, whatever was requested.
    writes: ClassVar[bool] = False

    @property
    def recorded_run(self) -> Any:
        """The plan of the online run (`testbed.recorded_runs.recorded_run.Recorded`) that the source uses; None for
        most sources."""
        return None

    @property
    def preparation(self) -> "AbstractSource | None":
        """A source that prepares the same data, with fields that do not affect the preparation set to a common value;
        the prepared data are kept under its name. None if nothing is prepared."""
        return None

    def prepare(self, given: Any) -> tuple[PyTree, dict[str, Array]]:
        """Data that the source needs once before training, made from what `testbed.recorded_runs.recorded_run.Given`
        holds, and numbers measured of them. The source finds the data as `TrainingInputs.prepared`."""
        return None, {}

    def work(self, request: Request) -> tuple[float, float]:
        """Average number of responses written and of judgements made for each prompt of a step; used by plans."""
        share = 1.0 if self.writes else 0.0
        return share * request.responses, share * request.judgements

    @abc.abstractmethod
    def init(self, inputs: TrainingInputs, policy: Policy, request: Request) -> PyTree:
        """The source's state before training from ``policy``."""

    @abc.abstractmethod
    def draw(
        self,
        state: PyTree,
        inputs: TrainingInputs,
        policy: Policy,
        request: Request,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> tuple[PyTree, PyTree]:
        """The texts of one step and the next state. ``key`` is the run's, the same at every step."""


class Rows(eqx.Module):
    """An iteration over a fixed number of items, each epoch in a new order, with a record of which items have been
    learnt from."""

    order: Int[Array, " n"]
    met: Bool[Array, " n"]

    @classmethod
    def init(cls, size: int) -> Self:
        """The state before the first epoch."""
        return cls(jnp.arange(size), jnp.zeros(size, dtype=bool))

    def next(
        self, key: PRNGKeyArray, step: Int[Array, ""], request: Request
    ) -> tuple[Int[Array, " batch"], Float[Array, " batch"], Self]:
        """Indices of the items at ``step``; for each, 1 if it was never learnt from before, else 0; and the next state.
        ``key`` is the run's: iterations over equally many items with the same key use the same order."""
        order, index = minibatch(self.order, stream(key, Stream.ORDER), step, request.batch_size)
        before = self.met[index]
        met = self.met.at[index].set(request.learnt(before))
        return index, (~before).astype(jnp.float32), type(self)(order, met)


def write_pairs(
    inputs: TrainingInputs, policy: Policy, rows: Int[Array, " n"], key: PRNGKeyArray
) -> Batch:
    """Two responses by the policy to each prompt, labelled by the sign of the teacher's margin: a `RolloutFunction`."""
    texts = inputs.sample(policy, rows, key, count=2).response
    return judged(inputs, rows, texts, Ledger.fresh(texts, judgements=1))


def judged(inputs: TrainingInputs, rows: Int[Array, " n"], texts: Response, spent: Ledger) -> Batch:
    """Two responses to each prompt, labelled by the sign of the teacher's margin."""
    prompts = inputs.prompts(rows)
    first, second = (jax.tree.map(lambda x, i=i: x[:, i], texts) for i in range(2))
    margin = inputs.teacher.margin(prompts, first, second)
    pairs = jax.vmap(arrange)(certain(margin > 0), prompts, first, second)
    reference = logprob.score_pairs(inputs.reference, pairs)
    return Batch(pairs, reference, jnp.abs(margin), rows, spent)


def from_data(
    state: Rows,
    inputs: TrainingInputs,
    data: Dataset,
    request: Request,
    key: PRNGKeyArray,
    step: Int[Array, ""],
) -> tuple[Batch, Rows]:
    """The next pairs of a data set on D_golden's prompts; the labeler was asked for each that it did not skip."""
    index, new, state = state.next(key, step, request)
    asked = (new * (data.pairs.weight[index] > 0)).astype(jnp.int32)
    none = jnp.zeros_like(asked)
    spent = Ledger(jnp.ones_like(new), new, asked, none, none)
    return taken(inputs, data, index, spent), state


def taken(inputs: TrainingInputs, data: Dataset, index: Int[Array, " n"], spent: Ledger) -> Batch:
    """Some pairs of a data set on D_golden's prompts."""
    pairs, reference = jax.tree.map(lambda x: x[index], (data.pairs, data.reference))
    if not inputs.fixed:
        reference = logprob.score_pairs(inputs.reference, pairs)
    # Compilers drop this comparison if the loss does not read its result.
    margin = inputs.teacher.margin(pairs.prompt, pairs.winner, pairs.loser)
    return Batch(pairs, reference, margin, index, spent)


__getattr__ = moved.renamed(__name__, Supply="TrainingInputs", Author="RolloutFunction")

"""Where the texts of a training step come from, and what they cost."""

import abc
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from testbed import decode, logprob
from testbed.batches import minibatch
from testbed.config import ranges
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
    """What learning has consumed, by item of a batch or in all.

    Attributes:
        pairs: pairs learnt from, repetitions included; of a group of k responses, k/2.
        distinct: of these, how many had not been learnt from before.
        labels: of the distinct pairs, how many D_golden's labeler was asked about.
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
        """Nothing yet."""
        fraction, count = jnp.zeros(shape), jnp.zeros(shape, dtype=jnp.int32)
        return cls(fraction, fraction, count, count, count)

    @classmethod
    def fresh(cls, responses: Response, judgements: int) -> Self:
        """Of texts just written: ``count`` responses to each of ``n`` prompts, with so many judgements a prompt."""
        n, count = responses.length.shape
        pairs, none = jnp.full(n, count / 2.0), jnp.zeros(n, dtype=jnp.int32)
        judged = jnp.full(n, judgements, dtype=jnp.int32)
        return cls(pairs, pairs, none, judged, jnp.sum(responses.length, axis=1))


class Batch(eqx.Module):
    """Pairs to learn from, each with what a loss may need to know.

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


class Supply(eqx.Module):
    """What a source may draw on.

    Attributes:
        data: D_golden. reference: the reference policy. teacher: who labels new pairs.
        prepared: what the source had made before training (`AbstractSource.prepare`).
        fixed: whether ``reference`` is the SFT policy, under which the data's scores were computed once for all.
    """

    data: Dataset
    reference: Policy
    teacher: AbstractPreference
    prepared: PyTree = None
    fixed: bool = eqx.field(static=True, default=True)

    @property
    def response_length(self) -> int:
        """Length limit in tokens."""
        return self.data.pairs.winner.tokens.shape[-1]

    def prompts(self, rows: Int[Array, " n"]) -> Prompt:
        """Some of the data's prompts."""
        return jax.tree.map(lambda x: x[rows], self.data.pairs.prompt)

    def preferred(self, rows: Int[Array, " n"]) -> Response:
        """The data's preferred responses to some of its prompts."""
        return jax.tree.map(lambda x: x[rows], self.data.pairs.winner)


@runtime_checkable
class Author(Protocol):
    """Writes and judges texts for some of the data's prompts."""

    def __call__(
        self, supply: Supply, policy: Policy, rows: Int[Array, " n"], key: PRNGKeyArray
    ) -> PyTree:
        """Texts by ``policy``: a module with a field ``spent``, every leaf with a leading axis ``n``."""
        ...


class Request(NamedTuple):
    """What a loss or method asks of a source: how many items a step, and how fresh ones are written, with so many
    ``responses`` to each prompt and ``judgements`` of them; ``kept`` says which items will be learnt from, None that
    all will be."""

    batch_size: int
    author: Author
    responses: int = 2
    judgements: int = 1
    kept: Bool[Array, " n"] | None = None

    def learnt(self, before: Bool[Array, " n"]) -> Bool[Array, " n"]:
        """Which items have been learnt from after this step, from which had been before."""
        return jnp.ones_like(before) if self.kept is None else before | self.kept


class AbstractSource(eqx.Module):
    """A supply of texts, anywhere between offline and online."""

    family: ClassVar[str] = "testbed.sources"

    def __check_init__(self) -> None:
        ranges.check(self)

    @property
    def recorded_run(self) -> Any:
        """The plan of the online run (`testbed.recorded_runs.recorded_run.Recorded`) that it draws on; None for
        most."""
        return None

    @property
    def preparation(self) -> "AbstractSource | None":
        """A source that prepares the same, without the fields that make no difference to it: what is prepared is kept
        under its name. None if nothing is."""
        return None

    def prepare(self, given: Any) -> tuple[PyTree, dict[str, Array]]:
        """What it needs made once before training, of what `testbed.recorded_runs.recorded_run.Given` holds: it will
        find it as `Supply.prepared`. And what was measured of it."""
        return None, {}

    @property
    @abc.abstractmethod
    def writes(self) -> bool:
        """Whether texts are written by `Request.author`; otherwise they are labelled pairs, whatever was asked for."""

    def work(self, request: Request) -> tuple[float, float]:
        """Responses written and judgements made for each prompt of a step, on average; for plans."""
        share = 1.0 if self.writes else 0.0
        return share * request.responses, share * request.judgements

    @abc.abstractmethod
    def init(self, supply: Supply, policy: Policy, request: Request) -> PyTree:
        """The source's state before training from ``policy``."""

    @abc.abstractmethod
    def draw(
        self,
        state: PyTree,
        supply: Supply,
        policy: Policy,
        request: Request,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> tuple[PyTree, PyTree]:
        """The texts of one step and the next state. ``key`` is the run's, the same at every step."""


class Rows(eqx.Module):
    """Going through a fixed number of things, each epoch in a new order; and which have been learnt from."""

    order: Int[Array, " n"]
    met: Bool[Array, " n"]

    @classmethod
    def init(cls, size: int) -> Self:
        """Before the first epoch."""
        return cls(jnp.arange(size), jnp.zeros(size, dtype=bool))

    def next(
        self, key: PRNGKeyArray, step: Int[Array, ""], request: Request
    ) -> tuple[Int[Array, " batch"], Float[Array, " batch"], Self]:
        """Which come at ``step``, 1 for those that were never learnt from, and the state to carry on. ``key`` is the
        run's: with the same key, all that go through as many things take them in the same order."""
        order, index = minibatch(self.order, stream(key, Stream.ORDER), step, request.batch_size)
        before = self.met[index]
        met = self.met.at[index].set(request.learnt(before))
        return index, (~before).astype(jnp.float32), type(self)(order, met)


def write_pairs(supply: Supply, policy: Policy, rows: Int[Array, " n"], key: PRNGKeyArray) -> Batch:
    """The `Author` of labelled pairs: two responses by the policy, and the sign of the teacher's margin."""
    prompts = supply.prompts(rows)
    keys = jax.random.split(key, rows.shape[0])
    texts = decode.sample(policy, prompts, keys, supply.response_length, count=2).response
    return judged(supply, rows, texts, Ledger.fresh(texts, judgements=1))


def judged(supply: Supply, rows: Int[Array, " n"], texts: Response, spent: Ledger) -> Batch:
    """Two responses to each prompt, labelled by the sign of the teacher's margin."""
    prompts = supply.prompts(rows)
    first, second = (jax.tree.map(lambda x, i=i: x[:, i], texts) for i in range(2))
    margin = supply.teacher.margin(prompts, first, second)
    pairs = jax.vmap(arrange)(certain(margin > 0), prompts, first, second)
    reference = logprob.score_pairs(supply.reference, pairs)
    return Batch(pairs, reference, jnp.abs(margin), rows, spent)


def from_data(
    state: Rows,
    supply: Supply,
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
    return taken(supply, data, index, spent), state


def taken(supply: Supply, data: Dataset, index: Int[Array, " n"], spent: Ledger) -> Batch:
    """Some pairs of a data set on D_golden's prompts."""
    pairs, reference = jax.tree.map(lambda x: x[index], (data.pairs, data.reference))
    if not supply.fixed:
        reference = logprob.score_pairs(supply.reference, pairs)
    # Compilers drop this comparison where the loss does not read it.
    margin = supply.teacher.margin(pairs.prompt, pairs.winner, pairs.loser)
    return Batch(pairs, reference, margin, index, spent)

"""Reuse: fresh texts that are learnt from several times."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

from testbed import config
from testbed.config.ranges import hyper
from testbed.errors import InvalidInput
from testbed.logprob import Policy
from testbed.source import AbstractSource, Ledger, Request, TrainingInputs
from testbed.sources.online import Online
from testbed.streams import Stream, stream


class Held(eqx.Module):
    """The wrapped source's state, the texts it gave last, the order in which this epoch takes them, and which of them
    have been learnt from."""

    inner: PyTree
    texts: PyTree
    order: Int[Array, " item"]
    met: Bool[Array, " item"]


class Reuse(AbstractSource):
    """Batches of fresh texts are gathered and learnt from several times before new ones are written: the epochs and
    minibatches of proximal policy optimisation, for any loss or method (Schulman et al. 2017, arXiv 1707.06347,
    algorithm 1).

    The first epoch takes the texts in the order of writing, later epochs in random order. A step is one gradient step,
    as everywhere; all batches of a round are gathered in its first step. Reference scores and behaviour
    log-probabilities are those of the time of writing.

    Attributes:
        epochs: times that each batch is learnt from. batches: how many are gathered at a time. source: who writes; each
            of its steps is one batch.
    """

    writes: ClassVar[bool] = True

    epochs: int = hyper(4, least=1, static=True)
    batches: int = hyper(1, least=1, static=True)
    source: AbstractSource = Online()

    def __check_init__(self) -> None:
        if not self.source.writes:
            raise InvalidInput(
                f"source must write fresh texts to be gathered, such as Online(), got {config.spell(self.source)}"
            )

    def work(self, request: Request) -> tuple[float, float]:
        """The cost of the wrapped source, shared by all epochs."""
        written, judged = self.source.work(request)
        return written / self.epochs, judged / self.epochs

    def init(self, inputs: TrainingInputs, policy: Policy, request: Request) -> Held:
        """The state before anything is gathered."""
        inner = self.source.init(inputs, policy, request)
        key, step = jax.random.key(0), jnp.asarray(0)
        shapes, _ = jax.eval_shape(
            lambda inner: self.source.draw(inner, inputs, policy, request, key, step), inner
        )
        items = self.batches * request.batch_size
        texts = jax.tree.map(lambda x: jnp.zeros((items, *x.shape[1:]), x.dtype), shapes)
        return Held(inner, texts, jnp.arange(items), jnp.zeros(items, dtype=bool))

    def draw(
        self,
        state: Held,
        inputs: TrainingInputs,
        policy: Policy,
        request: Request,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> tuple[PyTree, Held]:
        """At the beginning of a round gather texts, at the beginning of a later epoch shuffle them; then take the next
        batch."""
        around = self.epochs * self.batches
        position = step % around
        items = state.order.shape[0]
        whole = request._replace(kept=None)

        def gather() -> Held:
            def one(inner: PyTree, number: Int[Array, ""]) -> tuple[PyTree, PyTree]:
                texts, inner = self.source.draw(inner, inputs, policy, whole, key, number)
                return inner, texts

            numbers = step // around * self.batches + jnp.arange(self.batches)
            inner, texts = jax.lax.scan(one, state.inner, numbers)
            texts = jax.tree.map(lambda x: x.reshape(items, *x.shape[2:]), texts)
            return Held(inner, texts, jnp.arange(items), jnp.zeros(items, dtype=bool))

        def shuffle() -> Held:
            fresh = jax.random.fold_in(stream(key, Stream.REUSED), step)
            order = jax.random.permutation(fresh, items)
            return Held(state.inner, state.texts, order, state.met)

        begins = (position % self.batches == 0).astype(jnp.int32) + (position == 0)
        held = jax.lax.switch(begins, [lambda: state, shuffle, gather])
        size = request.batch_size
        index = jax.lax.dynamic_slice(held.order, (position % self.batches * size,), (size,))
        texts, before = jax.tree.map(lambda x: x[index], (held.texts, held.met))
        again = Ledger.zero(size)
        again = eqx.tree_at(lambda ledger: ledger.pairs, again, texts.spent.pairs)
        spent = jax.tree.map(
            lambda first, later: jnp.where(before, later, first), texts.spent, again
        )
        held = eqx.tree_at(lambda h: h.met, held, held.met.at[index].set(request.learnt(before)))
        return eqx.tree_at(lambda texts: texts.spent, texts, spent), held

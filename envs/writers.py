"""Human writers: a mixture of randomly initialised transformers, or a pretrained one."""

from typing import NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, PRNGKeyArray

from testbed import decode, logprob
from testbed.batches import CHUNK
from testbed.environment import AbstractWriters
from testbed.policies.pretrained import Pretrained
from testbed.streams import Stream, stream
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig
from testbed.types import END_TOKEN, Prompt, Response, Scalar


class TransformerWriters(AbstractWriters):
    """Each response comes from one of several random transformers, picked at random.

    ``models`` is a stack (leading axis: writer); ``time`` is the length limit in tokens.
    """

    models: Transformer
    time: int = eqx.field(static=True)

    @classmethod
    def init(
        cls,
        key: PRNGKeyArray,
        config: TransformerConfig,
        vocabulary: int,
        time: int,
        count: int,
        closing: float | Array,
    ) -> Self:
        """``count`` writers. ``closing`` sets how readily they end: all embeddings share a first feature that only the
        end token's row reads, so it acts as the bias of the end token's logit."""

        def one(key: PRNGKeyArray) -> Transformer:
            model = Transformer.init(key, config, vocabulary)
            assert model.head is not None
            head = model.head.at[0].set(0.0).at[:, END_TOKEN].set(0.0)
            shared = model.embedding.at[:, 0].set(config.width**0.5)
            return eqx.tree_at(
                lambda m: (m.embedding, m.head), model, (shared, head.at[0, END_TOKEN].set(closing))
            )

        return cls(jax.vmap(one)(jax.random.split(key, count)), time)

    @property
    def count(self) -> int:
        """Number of writers."""
        return self.models.embedding.shape[0]

    def __call__(self, key: PRNGKeyArray, prompt: Prompt) -> Response:
        """Write one response."""
        alone = jax.tree.map(lambda x: x[None], prompt)
        return jax.tree.map(lambda x: x[0, 0], self.write(key[None, None], alone))

    def write(self, keys: Key[Array, "n count"], prompts: Prompt) -> Response:
        """See `AbstractWriters`. Only the writer who was picked writes: responses are sorted by writer and written
        `CHUNK` at a time, and a writer's last chunk is filled up."""
        n, count = keys.shape
        keys, owner = keys.reshape(-1), jnp.repeat(jnp.arange(n), count)
        who = jax.vmap(self._picked)(keys)
        chunks = Chunks.of(who, self.count)

        def chunk(given: tuple[Array, Array]) -> Response:
            writer, index = given
            model = jax.tree.map(lambda x: x[writer], self.models)
            asked = jax.tree.map(lambda x: x[owner[index]], prompts)
            samples = jax.vmap(lambda key: stream(key, Stream.SAMPLES))(keys[index])
            drawn = decode.sample(model, asked, samples, self.time, count=1).response
            return jax.tree.map(lambda x: x[:, 0], drawn)

        written = jax.lax.map(chunk, (chunks.group, chunks.index))
        return jax.tree.map(lambda x: chunks.undone(x).reshape(n, count, *x.shape[2:]), written)

    def _picked(self, key: PRNGKeyArray) -> Int[Array, ""]:
        """The writer of the response with this key."""
        return jax.random.randint(stream(key, Stream.WORLD), (), 0, self.count)

    def log_likelihood(self, prompt: Prompt, response: Response) -> Scalar:
        """log p(response | prompt) in nats under the mixture, one writer after the other: under `jax.vmap` over texts
        each writer's products stay those of one matrix."""
        alone = jax.tree.map(lambda x: x[None], prompt)
        single = jax.tree.map(lambda x: x[None, None], response)
        each = jax.lax.map(lambda model: logprob.score(model, alone, single)[0, 0], self.models)
        return jax.nn.logsumexp(each) - jnp.log(self.count)


class Chunks(NamedTuple):
    """Items arranged in chunks of one group each: the group of every chunk, and the items in its places. Places that a
    group leaves free repeat any item; ``place`` is where each item stands in the chunks one after the other."""

    group: Int[Array, " chunk"]
    index: Int[Array, "chunk place"]
    place: Int[Array, " item"]

    @classmethod
    def of(cls, group: Int[Array, " item"], groups: int, size: int = CHUNK) -> Self:
        """Chunks of ``size`` places, as many as the most uneven ``groups`` need."""
        items = group.shape[0]
        size = min(size, items)
        order = jnp.argsort(group)
        counts = jnp.bincount(group, length=groups)
        used = -(-counts // size)
        # Where a group begins: among the sorted items, and among the chunks.
        first, begin = jnp.cumsum(counts) - counts, jnp.cumsum(used) - used
        most = (items + groups * (size - 1)) // size
        owner = jnp.clip(jnp.searchsorted(begin, jnp.arange(most), side="right") - 1, 0)
        within = (jnp.arange(most) - begin[owner])[:, None] * size + jnp.arange(size)[None]
        index = order[jnp.minimum(first[owner][:, None] + within, items - 1)]
        ranks = jnp.zeros_like(order).at[order].set(jnp.arange(items))
        return cls(owner, index, begin[group] * size + ranks - first[group])

    def undone(self, found: Array) -> Array:
        """Results (chunk, place, ...) in the order of the items."""
        return found.reshape(-1, *found.shape[2:])[self.place]


class PretrainedWriters(AbstractWriters):
    """A pretrained transformer; ``time`` is the length limit in tokens."""

    portion = 32

    model: Pretrained
    time: int = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray, prompt: Prompt) -> Response:
        """Write one response."""
        alone = jax.tree.map(lambda x: x[None], prompt)
        drawn = decode.sample(self.model.model, alone, key[None], self.time, count=1).response
        return jax.tree.map(lambda x: x[0, 0], drawn)

    def log_likelihood(self, prompt: Prompt, response: Response) -> Scalar:
        """log p(response | prompt) in nats."""
        alone = jax.tree.map(lambda x: x[None], prompt)
        single = jax.tree.map(lambda x: x[None, None], response)
        return logprob.score(self.model.model, alone, single)[0, 0]

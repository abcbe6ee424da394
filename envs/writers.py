"""Human writers: a mixture of randomly initialised transformers, or a pretrained one."""

from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from testbed import decode, logprob
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
        who = jax.random.randint(stream(key, Stream.WORLD), (), 0, self.count)
        keys = stream(key, Stream.SAMPLES)[None]
        alone = jax.tree.map(lambda x: x[None], prompt)
        draws = jax.vmap(
            lambda model: decode.sample(model, alone, keys, self.time, count=1).response
        )(self.models)
        return jax.tree.map(lambda x: x[who, 0, 0], draws)

    def log_likelihood(self, prompt: Prompt, response: Response) -> Scalar:
        """log p(response | prompt) in nats under the mixture."""
        alone = jax.tree.map(lambda x: x[None], prompt)
        single = jax.tree.map(lambda x: x[None, None], response)
        each = jax.vmap(lambda model: logprob.score(model, alone, single)[0, 0])(self.models)
        return jax.nn.logsumexp(each) - jnp.log(self.count)


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

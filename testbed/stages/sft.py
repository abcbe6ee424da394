"""The SFT policy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from testbed import logprob
from testbed.data.collect import Corpus, Written
from testbed.environment import AbstractTask
from testbed.optimiser import FitConfig, fit
from testbed.stages.world import Seed
from testbed.streams import Stream, stream
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig


class FineTuned(NamedTuple):
    """An SFT policy, and facts measured of it."""

    policy: Transformer
    facts: dict[str, Array]


def fine_tune(
    task: AbstractTask,
    shape: TransformerConfig,
    sft: FitConfig,
    seed: Seed,
    material: PyTree,
    texts: Written,
) -> FineTuned:
    """SFT on both of the writers' responses to every prompt (arXiv 2405.08448, appendix C): nats a token, averaged over
    tokens. If the task brings the policy, the result is that policy, unchanged."""
    brought = task.policy(material)
    if brought is not None:
        return FineTuned(brought, {})
    corpus = texts.corpus
    k_init, k_fit = jax.random.split(stream(jax.random.key(seed), Stream.SFT))

    model = Transformer.init(k_init, shape, task.vocabulary)
    model, final = fit(loss, model, corpus, sft, k_fit)
    return FineTuned(model, {"sft_loss": final})


def loss(model: Transformer, batch: Corpus) -> Float[Array, " n"]:
    """Nats of both responses to each prompt, divided so that their mean over the batch is the mean over its tokens."""
    both = jax.tree.map(lambda a, b: jnp.stack([a, b], axis=1), batch.first, batch.second)
    scores = jnp.sum(logprob.score(model, batch.prompts, both), axis=1)
    tokens = jnp.sum(both.length, axis=1)
    return -scores / jnp.mean(tokens.astype(jnp.float32))

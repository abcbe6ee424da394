"""Merging of several end tokens into one: some pretrained models have several tokens that end a response.

A model gives the probability of all end tokens to `END_TOKEN` and none to the others. So sampled and scored responses
contain one end token only, and their probabilities still sum to one. In prompts the other end tokens are ordinary
tokens.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from testbed.nn.activations import MASKED
from testbed.types import END_TOKEN


def merged_logits(
    logits: Float[Array, "*n vocabulary"], ends: tuple[int, ...]
) -> Float[Array, "*n vocabulary"]:
    """Next-token logits in which `END_TOKEN` has its own probability plus that of ``ends``, and ``ends`` have none."""
    alike = jnp.take(logits, jnp.asarray((END_TOKEN, *ends)), axis=-1)
    together = jax.nn.logsumexp(alike, axis=-1, keepdims=True)
    index = jnp.arange(logits.shape[-1])
    logits = jnp.where(jnp.isin(index, jnp.asarray(ends)), MASKED, logits)
    return jnp.where(index == END_TOKEN, together, logits)


def merged_tokens(tokens: Int[Array, "*n"], ends: tuple[int, ...]) -> Int[Array, "*n"]:
    """Drawn tokens with `END_TOKEN` in place of ``ends``: because of rounding, a token without probability may still be
    drawn."""
    return jnp.where(jnp.isin(tokens, jnp.asarray(ends)), END_TOKEN, tokens)

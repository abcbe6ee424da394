"""Features of a text: mean activations after the first blocks of a transformer.

A *trunk* is a transformer cut off behind a block (`truncated`). Its final norm only divides every state by its root
mean square. Without it, a few directions would dominate the mean: pretrained transformers carry activations there that
are hundreds of times larger than all others, above all at the first token.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from testbed.errors import InvalidInput
from testbed.logprob import Packed
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig
from testbed.types import END_TOKEN, Prompt, Response, within


def refuse_layers(model: TransformerConfig, layers: int, name: str = "layers") -> None:
    """Raise `InvalidInput` for a trunk with more blocks than the model has. ``name`` is the setting that gives
    ``layers``."""
    if not 1 <= layers <= model.layers:
        raise InvalidInput(
            f"{name} must be between 1 and the {model.layers} of the model, got {layers}"
        )


def truncated(model: Transformer, layers: int, name: str = "layers") -> Transformer:
    """The first ``layers`` blocks, and a norm without weights. The trunk shares its arrays with the model and has no
    head. Raises `InvalidInput` for more blocks than there are (`refuse_layers`)."""
    refuse_layers(model.config, layers, name)
    config = dataclasses.replace(model.config, layers=layers, tied=True)
    blocks = tuple(dataclasses.replace(block, config=config) for block in model.blocks[:layers])
    norm = jnp.ones(config.width)
    return dataclasses.replace(model, blocks=blocks, norm=norm, head=None, config=config)


def packed(prompt: Prompt, response: Response) -> Packed:
    """One prompt followed by one response, both with their padding. Positions count tokens of text, and a padding token
    is visible only to itself."""
    width, time = prompt.tokens.shape[0], response.tokens.shape[0]
    index = jnp.arange(width + time)
    valid = jnp.concatenate([within(prompt.length, width), response.mask])
    positions = jnp.concatenate([index[:width], prompt.length + jnp.arange(time)])
    mask = ((index[:, None] >= index[None]) & valid[None]) | (index[:, None] == index[None])
    return Packed(jnp.concatenate([prompt.tokens, response.tokens]), positions, mask)


def words(response: Response) -> Bool[Array, "*n response"]:
    """Mask of the tokens over which a response's features are averaged: all except padding and the end token, which
    says nothing about the content. For an empty response it is the end token."""
    text = response.mask & (response.tokens != END_TOKEN)
    return jnp.where(jnp.any(text, axis=-1, keepdims=True), text, response.mask)


def features(trunk: Transformer, prompts: Prompt, responses: Response) -> Float[Array, "n width"]:
    """Mean final states of a trunk over the `words` of each of ``n`` responses, each read behind its prompt."""
    states, _ = trunk.hidden(*jax.vmap(packed)(prompts, responses), skip=prompts.tokens.shape[1])
    weight = words(responses).astype(jnp.float32)
    total = jnp.einsum("ntw,nt->nw", states, weight)
    return total / jnp.sum(weight, axis=1, keepdims=True)


def one_by_one(
    trunk: Transformer, prompts: Prompt, responses: Response, batch: int = 64
) -> Float[Array, "n width"]:
    """`features` of any number of texts, ``batch`` of them in memory at a time."""

    def one(text: tuple[Prompt, Response]) -> Float[Array, " width"]:
        return features(trunk, *jax.tree.map(lambda x: x[None], text))[0]

    return jax.lax.map(one, (prompts, responses), batch_size=batch)


def alone(texts: Response, begin: Sequence[int] = ()) -> tuple[Prompt, Response]:
    """``n`` whole texts as responses to a prompt without content: the tokenizer's ``begin`` tokens or, if there are
    none, one end token. So the prompt takes the place of the first token, whose activations differ from all others."""
    n, first = texts.length.shape[0], jnp.asarray(tuple(begin) or (END_TOKEN,), jnp.int32)
    prompts = jnp.broadcast_to(first, (n, first.size))
    return Prompt(prompts, jnp.full(n, first.size, jnp.int32)), texts

"""A random network as golden reward (after Gao et al. 2023, arXiv 2210.10760: a larger model stands for people)."""

from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from testbed.environment import AbstractGolden
from testbed.transformer import Transformer, TransformerConfig
from testbed.types import END_TOKEN, Prompt, Response, Scalar


class NeuralGolden(AbstractGolden):
    """A transformer reads prompt and response; a tanh layer reads its mean final state over the response window.

    The window is the whole of the response's room, so a short response (whose rest holds end tokens) is not an
    average over fewer tokens, which would make the shortest responses the most extreme. Features are centred and
    scaled over responses of the writers before the tanh, which then saturates outside their range: without that, the
    best response is one good token repeated.
    """

    trunk: Transformer
    centre: Float[Array, " width"]
    scale: Float[Array, " width"]
    mix: Float[Array, "width feature"]
    readout: Float[Array, " feature"]

    @classmethod
    def init(
        cls,
        key: PRNGKeyArray,
        config: TransformerConfig,
        vocabulary: int,
        ruggedness: float | Array,
        prompts: Prompt,
        responses: Response,
    ) -> Self:
        """Random parameters, standardised over ``n`` responses. ``ruggedness`` multiplies what enters the transformer's
        nonlinearities: larger makes the reward hang on more specific combinations of tokens, and harder to learn."""
        k_trunk, k_mix, k_readout = jax.random.split(key, 3)
        trunk = Transformer.init(k_trunk, config, vocabulary)
        trunk = eqx.tree_at(
            lambda t: [w for b in t.blocks for w in (b.query, b.key, b.value, b.gate, b.up)],
            trunk,
            replace_fn=lambda w: ruggedness * w,
        )
        width = config.width
        pooled = jax.vmap(lambda p, r: pool(trunk, p, r))(prompts, responses)
        return cls(
            trunk,
            jnp.mean(pooled, axis=0),
            jnp.maximum(jnp.std(pooled, axis=0), 1e-6),
            jax.random.normal(k_mix, (width, width)) * width**-0.5,
            jax.random.normal(k_readout, (width,)) * width**-0.5,
        )

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """Reward in the readout's unit."""
        features = (pool(self.trunk, prompt, response) - self.centre) / self.scale
        return jnp.tanh(features @ self.mix) @ self.readout


def pool(trunk: Transformer, prompt: Prompt, response: Response) -> Float[Array, " width"]:
    """Mean final hidden state over the response window."""
    width, time = prompt.tokens.shape[0], response.tokens.shape[0]
    index = jnp.arange(width + time)
    valid = (index < prompt.length) | (index >= width)
    mask = ((index[:, None] >= index[None]) & valid[None]) | (index[:, None] == index[None])
    text = jnp.where(response.mask, response.tokens, END_TOKEN)
    tokens = jnp.concatenate([prompt.tokens, text])
    positions = jnp.concatenate([index[:width], prompt.length + jnp.arange(time)])
    hidden, _ = trunk.hidden(tokens, positions, mask)
    return jnp.mean(hidden[width:], axis=0)

"""A random transformer as golden reward (after Gao et al. 2023, arXiv 2210.10760: a larger model stands for people)."""

from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from testbed.environment import AbstractGolden
from testbed.transformer import Transformer, TransformerConfig
from testbed.types import Prompt, Response, Scalar


class NeuralGolden(AbstractGolden):
    """A linear readout of the final hidden states, averaged over the response's tokens."""

    trunk: Transformer
    readout: Float[Array, " width"]

    @classmethod
    def init(
        cls, key: PRNGKeyArray, config: TransformerConfig, vocabulary: int, ruggedness: float = 1.0
    ) -> Self:
        """Random parameters. ``ruggedness`` multiplies what enters the nonlinearities (queries, keys, values, gates):
        larger makes the reward hang on more specific combinations of tokens, and harder to learn."""
        k_trunk, k_readout = jax.random.split(key)
        trunk = Transformer.init(k_trunk, config, vocabulary)
        trunk = eqx.tree_at(
            lambda t: [w for block in t.blocks for w in (block.qkv, block.gate_up)],
            trunk,
            replace_fn=lambda w: ruggedness * w,
        )
        return cls(trunk, jax.random.normal(k_readout, (config.width,)))

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """Reward in the readout's unit."""
        width = prompt.tokens.shape[0]
        step = jnp.arange(response.tokens.shape[0])
        index = jnp.arange(width + step.shape[0])
        valid = jnp.concatenate([jnp.arange(width) < prompt.length, response.mask])
        mask = ((index[:, None] >= index) & valid) | (index[:, None] == index)
        tokens = jnp.concatenate([prompt.tokens, response.tokens])
        positions = jnp.concatenate([jnp.arange(width), prompt.length + step])
        hidden, _ = self.trunk.hidden(tokens, positions, mask)
        values = hidden[width:] @ self.readout
        return jnp.sum(jnp.where(response.mask, values, 0.0)) / response.length

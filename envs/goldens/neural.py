"""A random network as golden reward (after Gao et al. 2023, arXiv 2210.10760: a larger model stands for people)."""

from typing import ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from testbed.environment import AbstractGolden
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig
from testbed.types import END_TOKEN, Prompt, Response, Scalar


class NeuralGolden(AbstractGolden):
    """A transformer reads prompt and response; a tanh layer reads its mean final state over the response window.

    The window has the full response length, also for a short response, whose rest holds end tokens. Otherwise short
    responses would be averages over fewer tokens, and the shortest would have the most extreme rewards. Features are
    centred and scaled over responses of the writers before the tanh, which saturates outside their range. Without this,
    the best response is one good token repeated.

    ``order`` k >= 1 limits what a position of the response reads: the prompt, its own place, and the last k tokens of
    the response up to and including its own (`states`). The reward is then a readout of tanh features of a sum of
    k-token interactions. With order 0 a position reads every earlier token.
    """

    reads_room: ClassVar[bool] = True

    trunk: Transformer
    centre: Float[Array, " width"]
    scale: Float[Array, " width"]
    mix: Float[Array, "width feature"]
    readout: Float[Array, " feature"]
    order: int = eqx.field(static=True, default=0)

    @classmethod
    def init(
        cls,
        key: PRNGKeyArray,
        config: TransformerConfig,
        vocabulary: int,
        ruggedness: float | Array,
        prompts: Prompt,
        responses: Response,
        order: int = 0,
    ) -> Self:
        """Random parameters, standardised over ``n`` responses. ``ruggedness`` multiplies the inputs of the
        transformer's nonlinearities: with a larger value the reward depends on more specific combinations of tokens,
        and is harder to learn."""
        k_trunk, k_mix, k_readout = jax.random.split(key, 3)
        trunk = Transformer.init(k_trunk, config, vocabulary)
        trunk = eqx.tree_at(
            lambda t: [w for b in t.blocks for w in (b.query, b.key, b.value, b.gate, b.up)],
            trunk,
            replace_fn=lambda w: ruggedness * w,
        )
        width = config.width
        pooled = jax.vmap(lambda p, r: pool(trunk, p, r, order))(prompts, responses)
        return cls(
            trunk,
            jnp.mean(pooled, axis=0),
            jnp.maximum(jnp.std(pooled, axis=0), 1e-6),
            jax.random.normal(k_mix, (width, width)) * width**-0.5,
            jax.random.normal(k_readout, (width,)) * width**-0.5,
            order,
        )

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """Reward in the readout's unit."""
        features = (pool(self.trunk, prompt, response, self.order) - self.centre) / self.scale
        return jnp.tanh(features @ self.mix) @ self.readout


def pool(
    trunk: Transformer, prompt: Prompt, response: Response, order: int = 0
) -> Float[Array, " width"]:
    """Mean of `states` over the response window."""
    return jnp.mean(states(trunk, prompt, response, order), axis=0)


def states(
    trunk: Transformer, prompt: Prompt, response: Response, order: int = 0
) -> Float[Array, "response width"]:
    """Final hidden states of the response window. They are causal for order 0. For order k >= 1, changing token j
    changes only positions j to j + k - 1, because a position attends only to the prompt and to itself, and its input is

        k^(-1/2) sum_{l=0}^{k-1} R^l e(y_{t-l}),

    with embeddings e rolled by one place a lag (R), and without terms before the response. The entries of embeddings
    are independent, so a rolled embedding is as good as one from another table; k^(-1/2) keeps the residual stream's
    size.
    """
    width, time = prompt.tokens.shape[0], response.tokens.shape[0]
    index = jnp.arange(width + time)
    valid = (index < prompt.length) | (index >= width)
    text = jnp.where(response.mask, response.tokens, END_TOKEN)
    tokens = jnp.concatenate([prompt.tokens, text])
    positions = jnp.concatenate([index[:width], prompt.length + jnp.arange(time)])
    extra = None
    if order:
        valid = valid & (index < width)
        each = trunk.embedding[text]
        lagged = [
            jnp.pad(jnp.roll(each, lag, axis=1), ((lag, 0), (0, 0)))[:time] for lag in range(order)
        ]
        extra = jnp.pad(order**-0.5 * sum(lagged) - each, ((width, 0), (0, 0)))
    mask = ((index[:, None] >= index[None]) & valid[None]) | (index[:, None] == index[None])
    hidden, _ = trunk.hidden(tokens, positions, mask, extra=extra)
    return hidden[width:]

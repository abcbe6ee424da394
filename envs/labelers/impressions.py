"""How a response strikes a labeler while it reads."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from testbed.environment import World
from testbed.types import END_TOKEN, Prompt, Response, Scalar


def impressions(world: World, prompt: Prompt, response: Response) -> Float[Array, " response"]:
    """Golden reward, in SFT standard deviations, of the first 1, 2, ... tokens; behind the end, of all of them."""
    time = jnp.arange(response.tokens.shape[0], dtype=response.length.dtype)

    def impression(length: Int[Array, ""]) -> Scalar:
        tokens = jnp.where(time < length, response.tokens, END_TOKEN)
        return world.reward(prompt, Response(tokens, length))

    return jax.vmap(impression)(jnp.minimum(time + 1, response.length))


def remembered(
    world: World,
    prompt: Prompt,
    response: Response,
    discount: float | Scalar,
    age: Int[Array, " response"],
) -> Scalar:
    """Mean impression, each weighted by ``discount ** age``."""
    # A running product, because the slope of a power of 0 is not finite; behind the end ages may be negative.
    factors = jnp.full(response.tokens.shape[0], discount, jnp.float32).at[0].set(1.0)
    powers = jnp.cumprod(factors)[jnp.where(response.mask, age, 0)]
    weights = jnp.where(response.mask, powers, 0.0)
    return jnp.sum(weights * impressions(world, prompt, response)) / jnp.sum(weights)

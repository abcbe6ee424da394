"""The style of a response: features that depend only on the tokens that the response uses.

Token x has the angle 2 pi k phi x in harmonic k, where phi is the golden ratio. The multiples of phi are spread most
evenly round the circle, so any two tokens differ, and the size of the vocabulary is not needed.
"""

import math
from typing import Final

import jax.numpy as jnp
from jaxtyping import Array, Float

from testbed.types import Response

#: The fractional part of the golden ratio in units of 2^-32: products wrap round as angles do, exactly.
_TURN: Final = 2654435769


def features(response: Response, harmonics: int) -> Float[Array, " feature"]:
    """Means over a response's tokens of sqrt(2) cos and sqrt(2) sin of harmonics 1 to ``harmonics``, cosines first.

    Over random tokens every feature of one token has mean 0 and variance 1. If a response repeats one token, the
    squares of its features sum to their number.
    """
    multiples = jnp.arange(1, harmonics + 1, dtype=jnp.uint32) * jnp.uint32(_TURN)
    turns = response.tokens.astype(jnp.uint32)[:, None] * multiples[None]
    angles = turns.astype(jnp.float32) * (2.0 * math.pi / 2**32)
    waves = math.sqrt(2.0) * jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
    total = jnp.sum(jnp.where(response.mask[:, None], waves, 0.0), axis=0)
    return total / response.length.astype(jnp.float32)

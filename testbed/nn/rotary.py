"""Rotary positions, and the scaling of their frequencies for contexts longer than those of a model's first training."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from testbed.config import ranges
from testbed.config.ranges import hyper
from testbed.errors import InvalidInput


class Llama3Scaling(eqx.Module):
    """Slower rotations as in Llama 3.1 (arXiv 2407.21783, and the model's published code).

    Attributes:
        factor: divides frequencies of less than ``low`` turns within ``context`` positions. Frequencies of more than
            ``high`` turns stay; between the two, the divided share falls linearly in the number of turns.
        context: positions of the first training.
    """

    factor: float = hyper(8.0, least=1, static=True)
    low: float = hyper(1.0, above=0, static=True)
    high: float = hyper(4.0, above=0, static=True)
    context: int = hyper(8192, least=1, static=True)

    def __check_init__(self) -> None:
        ranges.check(self)
        if self.low >= self.high:
            raise InvalidInput(f"low must be less than high={self.high}, got {self.low}")

    def __call__(self, frequency: Float[Array, " half"]) -> Float[Array, " half"]:
        """The scaled frequencies (radians a position)."""
        turns = self.context * frequency / (2 * math.pi)
        kept = jnp.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
        return frequency * (kept + (1.0 - kept) / self.factor)


def rotary_angles(
    positions: Int[Array, " time"],
    head_size: int,
    base: float,
    scaling: Llama3Scaling | None = None,
) -> tuple[Float[Array, "time size"], Float[Array, "time size"]]:
    """Cosine and signed sine of position times inverse frequency (arXiv 2104.09864, eq. 15), for both halves."""
    frequency = base ** (-jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size)
    if scaling is not None:
        frequency = scaling(frequency)
    angle = positions.astype(jnp.float32)[:, None] * frequency[None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)


def rotate(
    x: Float[Array, "n heads time size"], rotary: tuple[Array, Array] | None
) -> Float[Array, "n heads time size"]:
    """Rotate the pairs (x_i, x_{i+size/2}) of every head by their position's angles; return ``x`` if there are no
    angles.

    Written with a roll: (l, r) cos + (-r, l) sin is one fused loop, two concatenated halves are not."""
    if rotary is None:
        return x
    cos, sin = rotary
    return x * cos[:, None] + jnp.roll(x, x.shape[-1] // 2, axis=-1) * sin[:, None]

"""Normalisation over the width of a residual stream, or over the size of a head."""

from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class LayerNorm(eqx.Module):
    """Parameters of layer normalisation (arXiv 1607.06450)."""

    scale: Float[Array, "*n width"]
    shift: Float[Array, "*n width"]


#: Parameters of a norm; RMSNorm has only a scale.
Norm: TypeAlias = Float[Array, "*n width"] | LayerNorm


def normalise(x: Float[Array, "rows width"], norm: Norm, epsilon: float) -> Array:
    """Apply the norm whose parameters are given."""
    if isinstance(norm, LayerNorm):
        return layer_norm(x, norm, epsilon)
    return rms_norm(x, norm, epsilon)


def rms_norm(x: Float[Array, "rows width"], scale: Float[Array, " width"], epsilon: float) -> Array:
    """Divide by the root mean square over the last axis and scale (arXiv 1910.07467, eq. 4)."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon) * scale[None]


def layer_norm(x: Float[Array, "rows width"], norm: LayerNorm, epsilon: float) -> Array:
    """Subtract the mean over the last axis, divide by the standard deviation, scale and shift (arXiv 1607.06450)."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return rms_norm(centred, norm.scale, epsilon) + norm.shift[None]

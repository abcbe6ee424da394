"""Softmax and the two activations of an MLP, with gradients written for XLA's CPU backend where it needs them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

#: Attention logit of an invisible key: finite, so that a row that sees nothing has no NaN in its gradient.
MASKED = -1e30


@jax.custom_vjp
def softmax(x: Float[Array, "*n keys"], mask: Bool[Array, "*#n keys"]) -> Float[Array, "*n keys"]:
    """Softmax over those keys of the last axis that ``mask`` allows; over all of them if there is none. Its gradient is
    spelt out: the library's compiles to a reduction that costs XLA's CPU backend a tenth of a training step, and masks
    once more what is zero already. A test compares the two."""
    x = jnp.where(mask, x, MASKED)
    unnormalised = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))
    return unnormalised / jnp.sum(unnormalised, axis=-1, keepdims=True)


def _softmax_forward(x: Array, mask: Array) -> tuple[Array, Array]:
    y = softmax(x, mask)
    return y, y


def _softmax_backward(y: Array, g: Array) -> tuple[Array, None]:
    return y * (g - jnp.sum(y * g, axis=-1, keepdims=True)), None


softmax.defvjp(_softmax_forward, _softmax_backward)


@jax.custom_vjp
def swiglu(
    gate: Float[Array, "rows hidden"], up: Float[Array, "rows hidden"]
) -> Float[Array, "rows hidden"]:
    """silu(gate) * up (arXiv 2002.05202). For its gradient it keeps the sigmoid alone; the library keeps, and so writes
    and reads, silu(gate) too."""
    return _swiglu_forward(gate, up)[0]


def _swiglu_forward(gate: Array, up: Array) -> tuple[Array, tuple[Array, ...]]:
    opened = jax.nn.sigmoid(gate)
    return gate * opened * up, (gate, up, opened)


def _swiglu_backward(kept: tuple[Array, ...], g: Array) -> tuple[Array, Array]:
    gate, up, opened = kept
    passed = g * opened
    return up * passed * (1.0 + gate * (1.0 - opened)), gate * passed


swiglu.defvjp(_swiglu_forward, _swiglu_backward)


def gelu(x: Float[Array, "rows hidden"]) -> Float[Array, "rows hidden"]:
    """x times the normal distribution function of x, approximated by a hyperbolic tangent (arXiv 1606.08415)."""
    return jax.nn.gelu(x, approximate=True)

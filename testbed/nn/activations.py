"""Softmax and the two activations of an MLP. Some have hand-written gradients that are faster on XLA's CPU backend."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

#: Attention logit of an invisible key: finite, so that a row without any visible key has no NaN in its gradient.
MASKED = -1e30


@jax.custom_vjp
def softmax(x: Float[Array, "*n keys"], mask: Bool[Array, "*#n keys"]) -> Float[Array, "*n keys"]:
    """Softmax over the keys of the last axis that ``mask`` allows; over all keys if there is no mask. The gradient is
    written by hand: the library's gradient compiles to a reduction that costs XLA's CPU backend a tenth of a training
    step, and masks entries again that are zero already. A test compares the two gradients."""
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
    """silu(gate) * up (arXiv 2002.05202). This version keeps only the sigmoid for its gradient; the library also keeps
    silu(gate), which must be written and read."""
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

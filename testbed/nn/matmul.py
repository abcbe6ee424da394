"""Matrix products of the networks; each one states the precision to which its factors are rounded.

Parameters, norms, softmaxes, losses and the optimiser are float32 whatever the precision.
"""

from typing import Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

#: The precision of the factors of a matrix product. float32: not rounded. tensorfloat32: rounded to the 10 bits of
#: mantissa that an NVIDIA GPU's matrix units read of a float32; on other devices not rounded. bfloat16: rounded to 7
#: bits of mantissa, and so are products that are kept for the backward pass. Sums are float32.
Precision: TypeAlias = Literal["float32", "tensorfloat32", "bfloat16"]


def dtype(precision: Precision) -> DTypeLike:
    """Data type of the factors."""
    return jnp.bfloat16 if precision == "bfloat16" else jnp.float32


def _contract(
    spec: str, left: Array, right: Array, precision: Precision, out: DTypeLike | None = None
) -> Array:
    """`jnp.einsum` of two factors; the result has the factors' type, or type ``out``. Every index appears exactly
    twice.

    The gradients are products of the same precision: the library's gradients would mix types if ``out`` is another
    type."""
    kind = dtype(precision)
    limit = {"float32": jax.lax.Precision.HIGHEST, "tensorfloat32": jax.lax.Precision.HIGH}
    factors = (left.astype(kind), right.astype(kind))
    return jnp.einsum(
        spec, *factors, precision=limit.get(precision), preferred_element_type=out or kind
    )


#: See `_contract`.
contract = jax.custom_vjp(_contract, nondiff_argnums=(0, 3, 4))


def _contract_forward(
    spec: str, left: Array, right: Array, precision: Precision, out: DTypeLike | None
) -> tuple[Array, tuple[Array, Array]]:
    return contract(spec, left, right, precision, out), (left, right)


def _contract_backward(
    spec: str, precision: Precision, _: DTypeLike | None, kept: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
    factors, whole = spec.split("->")
    first, second = factors.split(",")
    left, right = kept
    by_left = contract(f"{whole},{second}->{first}", g, right, precision, left.dtype)
    if len(second) == 2:
        return by_left, contract(f"{whole},{first}->{second}", g, left, precision, right.dtype)
    return by_left, _gathered({whole: g, first: left}, second, precision, right.dtype)


def _gathered(
    factors: dict[str, Array], wanted: str, precision: Precision, out: DTypeLike
) -> Array:
    """The product of two stacks of matrices, summed over their rows: for example, ``nhqk`` and ``nhqd`` make ``nhkd``.

    Both factors would be read by columns, which XLA's CPU backend does half as fast. So the smaller factor is
    transposed in a copy; the barriers keep XLA from undoing this."""
    (few, small), (many, large) = sorted(factors.items(), key=lambda factor: factor[1].size)
    turned = jax.lax.optimization_barrier(small.astype(dtype(precision)).swapaxes(-1, -2))
    across = few[:-2] + few[-1]
    made = f"{across}{many[-1]}"
    product = contract(f"{across}{few[-2]},{many}->{made}", turned, large, precision, out)
    return product if made == wanted else jax.lax.optimization_barrier(product).swapaxes(-1, -2)


contract.defvjp(_contract_forward, _contract_backward)


class LowRank(eqx.Module):
    """A fixed weight plus a trained product of low rank: W + scale A B (Hu et al. 2021, arXiv 2106.09685, section 4.1,
    with the transposes of its A and B).

    Attributes:
        weight: W. It never has a gradient. down: A. up: B.
        scale: the paper's alpha / rank.
    """

    weight: Float[Array, "width out"]
    down: Float[Array, "width rank"]
    up: Float[Array, "rank out"]
    scale: float = eqx.field(static=True)

    def merged(self, precision: Precision = "float32") -> Float[Array, "width out"]:
        """The sum, as one weight."""
        added = contract("wr,ro->wo", self.down, self.up, precision, jnp.float32)
        return self.weight + self.scale * added


def linear(
    x: Float[Array, "rows width"],
    weight: Float[Array, "width out"] | LowRank,
    precision: Precision = "float32",
    out: DTypeLike | None = None,
    turn: bool = True,
) -> Float[Array, "rows out"]:
    """x @ weight, in the type of the factors or in type ``out``.

    With ``turn`` the gradient with respect to the weight is computed from a transposed copy: XLA's CPU backend is half
    as fast for a product whose left side it must read by columns, and without a barrier it would remove the copy. For a
    `LowRank` weight the result is x W + scale (x A) B: two more small products, and no gradient with respect to W,
    which would cost as much as x W itself."""
    if isinstance(weight, LowRank):
        fixed = _fixed(x, weight.weight, precision, out, x.dtype)
        added = contract("rw,wk->rk", x, weight.down, precision)
        return fixed + weight.scale * contract("rk,ko->ro", added, weight.up, precision, out)
    if turn:
        return _turned(x, weight, precision, out)
    return contract("rw,wo->ro", x, weight, precision, out)


def _by_rows(x: Array, weight: Array, precision: Precision, out: DTypeLike | None) -> Array:
    return contract("rw,wo->ro", x, weight, precision, out)


_turned = jax.custom_vjp(_by_rows, nondiff_argnums=(2, 3))


def _turned_forward(
    x: Array, weight: Array, precision: Precision, out: DTypeLike | None
) -> tuple[Array, tuple[Array, Array]]:
    return _turned(x, weight, precision, out), (x, weight)


def _turned_backward(
    precision: Precision, _: DTypeLike | None, kept: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
    x, weight = kept
    turned = jax.lax.optimization_barrier(x.astype(dtype(precision)).T)
    return (
        contract("ro,wo->rw", g, weight, precision, x.dtype),
        contract("wr,ro->wo", turned, g, precision, weight.dtype),
    )


_turned.defvjp(_turned_forward, _turned_backward)


def _by_rows_of(
    x: Array, weight: Array, precision: Precision, out: DTypeLike | None, _: DTypeLike
) -> Array:
    return contract("rw,wo->ro", x, weight, precision, out)


#: The product with a weight that has no gradient: only the type of ``x`` is kept for the backward pass.
_fixed = jax.custom_vjp(_by_rows_of, nondiff_argnums=(2, 3, 4))


def _fixed_forward(
    x: Array, weight: Array, precision: Precision, out: DTypeLike | None, kind: DTypeLike
) -> tuple[Array, Array]:
    return _fixed(x, weight, precision, out, kind), weight


def _fixed_backward(
    precision: Precision, _: DTypeLike | None, kind: DTypeLike, weight: Array, g: Array
) -> tuple[Array, None]:
    return contract("ro,wo->rw", g, weight, precision, kind), None


_fixed.defvjp(_fixed_forward, _fixed_backward)

"""The fixed prompts that policies answer in evaluations, and the count of correctly classified pairs.

Worlds are built with this module; `testbed.metrics` measures policies, and its code is not part of a world's address.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from testbed.types import Prompt, Response, Scalar


class Opponent(eqx.Module):
    """The opponent's fixed ``k`` answers to each of ``n`` fixed evaluation prompts, (n, k), and their golden rewards in
    SFT standard deviations."""

    prompts: Prompt
    responses: Response
    reward: Float[Array, "n k"]


def agreement(h: Float[Array, " n"], truth: Float[Array, " n"]) -> Scalar:
    """Share of pairs on which the margin ``h`` has the sign of ``truth``; an exact 0 counts one half."""
    return jnp.mean(0.5 * (1.0 + jnp.sign(h) * jnp.sign(truth)))


def numbered(name: str, values: Array) -> dict[str, Array]:
    """A list of numbers as columns ``name_1``, ``name_2`` and so on; a list of lists as ``name_1_1`` and so on; a
    single number as ``name``."""
    if not values.ndim:
        return {name: values}
    parts = (numbered(f"{name}_{i + 1}", values[i]) for i in range(values.shape[0]))
    return {key: value for part in parts for key, value in part.items()}

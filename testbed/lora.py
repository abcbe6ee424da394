"""Low-rank adapters (LoRA) on a transformer's weights: which weights have one, how they start, and how they are merged.

A policy with adapters is an ordinary `Transformer`, some of whose weights are `testbed.nn.matmul.LowRank`;
`testbed.policies.trainable` defines which part of the policy is trained.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from testbed.config import ranges
from testbed.config.ranges import hyper
from testbed.errors import InvalidInput
from testbed.nn.matmul import LowRank
from testbed.transformer import Block, Transformer
from testbed.transformer_config import TransformerConfig

#: Weights of a block that may have an adapter, by letter.
TARGETS: dict[str, str] = {
    "q": "query",
    "k": "key",
    "v": "value",
    "o": "attention_out",
    "g": "gate",
    "u": "up",
    "d": "down",
}


class Lora(eqx.Module):
    """A product of low rank is trained for some weights of every block, W + (alpha / rank) A B, and all other
    parameters stay fixed (Hu et al. 2021, arXiv 2106.09685, section 4).

    Attributes:
        rank: of the products.
        targets: which weights, a letter each: ``q``, ``k``, ``v`` and ``o`` of attention (query, key, value, out),
            ``g``, ``u`` and ``d`` of the MLP (gate, up, down). ``qv`` is the paper's.
        alpha: strength of the products, over their rank.
    """

    rank: int = hyper(8, least=1, static=True)
    targets: str = eqx.field(static=True, default="qv")
    alpha: float = hyper(16.0, above=0, static=True)

    def __check_init__(self) -> None:
        ranges.check(self)
        chosen = set(self.targets)
        if not chosen or not chosen <= TARGETS.keys() or len(chosen) < len(self.targets):
            raise InvalidInput(
                f"targets must be one or more different letters of {''.join(TARGETS)}, got '{self.targets}'"
            )

    @property
    def weights(self) -> tuple[str, ...]:
        """Fields of a `Block` that have an adapter."""
        return tuple(TARGETS[letter] for letter in TARGETS if letter in self.targets)

    def refuse(self, model: TransformerConfig) -> None:
        """Raise `InvalidInput` for targets that the model lacks, or a rank larger than the weights allow."""
        known = shapes(model)
        for name in self.weights:
            if name not in known:
                raise InvalidInput(
                    f"targets must be weights that the model has, got {name} for {model.mlp} MLPs"
                )
        most = min(min(known[name]) for name in self.weights)
        if self.rank > most:
            raise InvalidInput(
                f"rank must be at most {most}, the smallest side of the targets' weights, got {self.rank}"
            )

    def parameters(self, model: TransformerConfig) -> int:
        """Number of trained parameters."""
        known = shapes(model)
        return model.layers * self.rank * sum(sum(known[name]) for name in self.weights)


@functools.cache
def shapes(model: TransformerConfig) -> dict[str, tuple[int, int]]:
    """Shapes (in, out) of the weights that a block has, by field."""
    block = jax.eval_shape(lambda: Block.init(jax.random.key(0), model))
    weights = ((name, getattr(block, name)) for name in TARGETS.values())
    return {name: weight.shape for name, weight in weights if weight is not None}


def adapted(key: PRNGKeyArray, model: Transformer, config: Lora) -> Transformer:
    """The same policy with adapters that change nothing yet: A is normal of variance 1/fan-in, B is 0.

    The paper says "random Gaussian"; its authors' code and PEFT draw A from the uniform distribution of variance 1/(3
    fan-in). Existing adapters of the model are first merged into its weights. Raises `InvalidInput` if the rank is
    larger than the weights allow."""
    config.refuse(model.config)
    model = merged(model)

    def block(number: int, old: Block) -> Block:
        own = jax.random.fold_in(key, number)
        for place, name in enumerate(TARGETS.values()):
            if name in config.weights:
                weight = _low_rank(jax.random.fold_in(own, place), getattr(old, name), config)
                old = eqx.tree_at(lambda b, name=name: getattr(b, name), old, weight)
        return old

    blocks = tuple(block(number, old) for number, old in enumerate(model.blocks))
    return eqx.tree_at(lambda m: m.blocks, model, blocks)


def _low_rank(key: PRNGKeyArray, weight: Array, config: Lora) -> LowRank:
    width, out = weight.shape
    down = width**-0.5 * jax.random.normal(key, (width, config.rank))
    return LowRank(weight, down, jnp.zeros((config.rank, out)), config.alpha / config.rank)


def merged(model: Transformer) -> Transformer:
    """The same policy without adapters: each adapter is added to its weight. A policy without adapters is returned as
    it is.

    In bfloat16 the sum is rounded like the factors of products, so contributions smaller than 1/256 of a weight are
    lost."""
    precision = model.config.precision

    def one(node: Any) -> Any:
        return node.merged(precision) if isinstance(node, LowRank) else node

    return jax.tree.map(one, model, is_leaf=lambda node: isinstance(node, LowRank))

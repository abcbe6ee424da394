"""Arrays of loaded checkpoints: they are left out of pytrees, and put back when needed.

Half a gigabyte of weights never changes and is part of every world, of its SFT policy, its proxy and its golden reward.
So wherever pytrees are stored, stacked or sent, each of these arrays is replaced by a `Weight`, which has no leaves.
Compiled programs take the arrays once, for all worlds and runs, as a separate argument (`sharing`), and leave them out
of their results again.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeVar

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

Model = TypeVar("Model", bound=PyTree)


class Source(NamedTuple):
    """The checkpoint that weights come from: its name, and a checksum of its content."""

    checkpoint: str
    checksum: str


@jax.tree_util.register_static
@dataclass(frozen=True, order=True)
class Weight:
    """A placeholder for an array: leaf number ``place`` of a checkpoint's model, of ``size`` numbers."""

    source: Source
    place: int
    size: int


#: Leaves of the models that this process has loaded, and the placeholder for each of these arrays, by identity.
_LEAVES: dict[Source, list[Array]] = {}
_PLACES: dict[int, Weight] = {}


def hold(source: Source, model: Model) -> Model:
    """A checkpoint's model with arrays that are registered here. If a model of the same source was registered before,
    the arrays of the first one are used."""
    leaves = _LEAVES.setdefault(source, jax.tree.leaves(model))
    for place, leaf in enumerate(leaves):
        _PLACES[id(leaf)] = Weight(source, place, leaf.size)
    return jax.tree.unflatten(jax.tree.structure(model), leaves)


def held(source: Source) -> bool:
    """Whether a checkpoint's arrays are registered."""
    return source in _LEAVES


def left_out(tree: PyTree, known: Mapping[int, Weight] | None = None) -> PyTree:
    """A pytree in which the checkpoints' arrays are replaced by placeholders. Arrays are ``known`` by identity; by
    default all registered arrays."""
    places = _PLACES if known is None else known
    return jax.tree.map(lambda leaf: places.get(id(leaf), leaf), tree)


def missing(tree: PyTree) -> tuple[Weight, ...]:
    """The placeholders in a pytree, each once, in order."""
    found = filter(_is_weight, jax.tree.leaves(tree, is_leaf=_is_weight))
    return tuple(sorted(set(found)))


def size(tree: PyTree) -> int:
    """Number of parameters in a pytree, including arrays that are left out."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree, is_leaf=_is_weight))


class Weights(eqx.Module):
    """The arrays that are left out of other pytrees, and their placeholders."""

    names: tuple[Weight, ...] = eqx.field(static=True)
    arrays: tuple[Any, ...]

    @classmethod
    def of(cls, names: tuple[Weight, ...]) -> Self:
        """The arrays of registered checkpoints. Raises `KeyError` for a checkpoint that is not loaded
        (`testbed.policies.pretrained.held`)."""
        return cls(names, tuple(_LEAVES[name.source][name.place] for name in names))

    def put_in(self, tree: PyTree) -> PyTree:
        """A pytree with its placeholders replaced by the arrays."""
        known = dict(zip(self.names, self.arrays, strict=True))
        return jax.tree.map(
            lambda leaf: known[leaf] if _is_weight(leaf) else leaf, tree, is_leaf=_is_weight
        )

    def left_out(self, tree: PyTree) -> PyTree:
        """A pytree with these arrays replaced by placeholders."""
        pairs = zip(self.arrays, self.names, strict=True)
        return left_out(tree, {id(array): name for array, name in pairs})


@functools.cache
def sharing(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The function with an additional first argument, the weights: its other arguments and its result leave the weights
    out. In the result they are left out if the function returns the arrays unchanged."""

    @functools.wraps(function)
    def shared(weights: Weights, *arguments: PyTree) -> PyTree:
        return weights.left_out(function(*weights.put_in(arguments)))

    return shared


def _is_weight(node: Any) -> bool:
    return isinstance(node, Weight)

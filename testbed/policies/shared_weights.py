"""Arrays of loaded checkpoints, left out of pytrees and put back in.

Half a gigabyte of weights stands in a world, in its SFT policy, its proxy and its golden reward, in all worlds alike,
and never changes. So wherever pytrees are stored, stacked or sent, each such array is left out: a `Weight` stands in
its place, which has no leaves. Compiled programs take the arrays once, for all worlds and runs, as an argument of their
own (`sharing`), and what they hand back leaves them out again.
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
    """Which checkpoint weights are from: its name, and what identifies its content."""

    checkpoint: str
    checksum: str


@jax.tree_util.register_static
@dataclass(frozen=True, order=True)
class Weight:
    """In place of an array: leaf number ``place`` of a checkpoint's model, of ``size`` numbers."""

    source: Source
    place: int
    size: int


#: Leaves of the models that this process has loaded, and which leaf each of these arrays is.
_LEAVES: dict[Source, list[Array]] = {}
_PLACES: dict[int, Weight] = {}


def hold(source: Source, model: Model) -> Model:
    """A checkpoint's model, whose arrays are known from now on, and kept: those of the first such model."""
    leaves = _LEAVES.setdefault(source, jax.tree.leaves(model))
    for place, leaf in enumerate(leaves):
        _PLACES[id(leaf)] = Weight(source, place, leaf.size)
    return jax.tree.unflatten(jax.tree.structure(model), leaves)


def held(source: Source) -> bool:
    """Whether a checkpoint's arrays are known."""
    return source in _LEAVES


def left_out(tree: PyTree, known: Mapping[int, Weight] | None = None) -> PyTree:
    """A pytree without the checkpoints' arrays in it. Arrays are ``known`` by identity; by default those of the
    checkpoints that were loaded."""
    places = _PLACES if known is None else known
    return jax.tree.map(lambda leaf: places.get(id(leaf), leaf), tree)


def missing(tree: PyTree) -> tuple[Weight, ...]:
    """What is left out of a pytree, each once, in order."""
    found = filter(_is_weight, jax.tree.leaves(tree, is_leaf=_is_weight))
    return tuple(sorted(set(found)))


def size(tree: PyTree) -> int:
    """Numbers in a pytree, those that are left out included."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree, is_leaf=_is_weight))


class Weights(eqx.Module):
    """Arrays that are left out of other pytrees."""

    names: tuple[Weight, ...] = eqx.field(static=True)
    arrays: tuple[Any, ...]

    @classmethod
    def of(cls, names: tuple[Weight, ...]) -> Self:
        """Those of loaded checkpoints. Raises `KeyError` for one that is not loaded
        (`testbed.policies.pretrained.held`)."""
        return cls(names, tuple(_LEAVES[name.source][name.place] for name in names))

    def put_in(self, tree: PyTree) -> PyTree:
        """A pytree with all that was left out of it."""
        known = dict(zip(self.names, self.arrays, strict=True))
        return jax.tree.map(
            lambda leaf: known[leaf] if _is_weight(leaf) else leaf, tree, is_leaf=_is_weight
        )

    def left_out(self, tree: PyTree) -> PyTree:
        """A pytree without these arrays."""
        pairs = zip(self.arrays, self.names, strict=True)
        return left_out(tree, {id(array): name for array, name in pairs})


@functools.cache
def sharing(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The function for arguments that leave out what is given in front; its result leaves it out too, wherever it hands
    an array on as it is."""

    @functools.wraps(function)
    def shared(weights: Weights, *arguments: PyTree) -> PyTree:
        return weights.left_out(function(*weights.put_in(arguments)))

    return shared


def _is_weight(node: Any) -> bool:
    return isinstance(node, Weight)

"""One run over several devices: its weights and its batches are split, all other arrays are copied to every device.

Each product of a block is split along its hidden units or heads, so that two consecutive products need one sum over
devices (Shoeybi et al. 2019, arXiv 1909.08053, section 3); the vocabulary is split along its entries. XLA derives the
communication from the placement of the arguments (arXiv 2105.04663); no other code depends on the splitting. All
devices belong to one process.
"""

from typing import Any

import equinox as eqx
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from testbed import config
from testbed.errors import InvalidInput
from testbed.logprob import Policy
from testbed.objective import AbstractObjective
from testbed.source import AbstractSource, Request, TrainingInputs
from testbed.train import TrainConfig
from testbed.transformer import Transformer
from testbed.types import Scalar

#: The axis along which each of a transformer's weights is split.
CUT = {"embedding": 0, "head": 1}
#: The axes for the weights of the transformer's blocks.
CUT |= {"query": 1, "key": 1, "value": 1, "attention_out": 0, "gate": 1, "up": 1, "down": 0}


def mesh(batch: int, model: int) -> Mesh:
    """A mesh of all devices of this process: each batch is split over ``batch`` of them, each weight over ``model``.

    Raises `InvalidInput` if their product is not the number of devices."""
    if batch < 1 or model < 1 or batch * model != jax.device_count():
        raise InvalidInput(
            f"batch * model must be the {jax.device_count()} devices of this process, got {batch} * {model}"
        )
    return jax.make_mesh((batch, model), ("batch", "model"), axis_types=(AxisType.Auto,) * 2)


def placements(tree: PyTree, over: Mesh) -> PyTree:
    """The placement of each array of a tree. Weights of transformers, their trained parts and the moments of these are
    split as `CUT` says if the devices divide them evenly. All other arrays are copied to every device."""
    everywhere = NamedSharding(over, PartitionSpec())

    def network(node: Any) -> bool:
        return isinstance(node, Transformer)

    def place(node: Any) -> Any:
        if not network(node):
            return everywhere
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: NamedSharding(over, _cut(path, leaf, over.shape["model"])), node
        )

    return jax.tree.map(place, tree, is_leaf=network)


def spread(tree: PyTree, over: Mesh) -> PyTree:
    """Place a tree, such as a `TrainingInputs` or a `TrainState`, as `placements` says."""
    return jax.device_put(tree, placements(tree, over))


def _cut(path: tuple[Any, ...], leaf: Any, parts: int) -> PartitionSpec:
    """Where to split a transformer's weight. Of the two factors of an adapter, the one with the weight's split axis is
    split."""
    fields = [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)]
    name, *inside = fields[1:] if fields[0] == "blocks" else fields
    axis = CUT.get(name)
    held = {"down": 0, "up": 1}.get(inside[0]) if inside else None
    if axis is None or held not in (None, axis) or leaf.shape[axis] % parts:
        return PartitionSpec()
    return PartitionSpec(*(None,) * axis, "model")


class Spread(AbstractObjective):
    """A loss or method whose batches are split over devices by their rows.

    Attributes:
        loss: what is minimised. over: the devices.
    """

    loss: AbstractObjective
    over: Mesh = eqx.field(static=True)

    def refuse(self, source: AbstractSource) -> None:
        """Refuse the sources that the loss refuses."""
        self.loss.refuse(source)

    def request(self, batch_size: int) -> Request:
        """The loss's request. Raises `InvalidInput` if the devices do not divide the batch evenly."""
        parts = self.over.shape["batch"]
        if batch_size % parts:
            raise InvalidInput(
                f"batch_size must be a multiple of the {parts} devices it is cut over, got {batch_size}"
            )
        return self.loss.request(batch_size)

    def critic(self, policy: Policy) -> PyTree:
        """The critic of the loss."""
        return self.loss.critic(policy)

    @property
    def fresh(self) -> int:
        """The fresh samples of the loss."""
        return self.loss.fresh

    def prepare(
        self,
        batch: PyTree,
        inputs: TrainingInputs,
        policy: Policy,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> PyTree:
        """The batch as the loss prepares it, with its rows on different devices."""
        batch = self.loss.prepare(batch, inputs, policy, key, step)
        return jax.lax.with_sharding_constraint(
            batch, NamedSharding(self.over, PartitionSpec("batch"))
        )

    def value(
        self, policy: Policy, critic: PyTree, inputs: TrainingInputs, batch: PyTree
    ) -> Scalar:
        """The value of the loss."""
        return self.loss.value(policy, critic, inputs, batch)


def cut_batches(plan: TrainConfig, over: Mesh) -> TrainConfig:
    """The same training config with batches split over devices.

    Raises `InvalidInput` if the devices do not divide the batches evenly."""
    plan = config.replace(plan, "loss", Spread(plan.loss, over))
    plan.loss.request(plan.batch_size)
    return plan

"""One run over several devices: its weights and its batches are cut up, all else is on every device.

Each product of a block is cut along its hidden units or heads, so that two products in a row need one sum over devices
(Shoeybi et al. 2019, arXiv 1909.08053, section 3), and the vocabulary along its entries. XLA finds out what to send
from where arguments lie (arXiv 2105.04663); no other code knows of it. Devices are of one process.
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
from testbed.source import AbstractSource, Request, Supply
from testbed.train import TrainConfig
from testbed.transformer import Transformer
from testbed.types import Scalar

#: Which axis of a transformer's weights is cut.
CUT = {"embedding": 0, "head": 1}
#: The same of its blocks' weights.
CUT |= {"query": 1, "key": 1, "value": 1, "attention_out": 0, "gate": 1, "up": 1, "down": 0}


def mesh(batch: int, model: int) -> Mesh:
    """All devices of this process: each batch over ``batch`` of them, each weight over ``model``.

    Raises `InvalidInput` if their product is not the number of devices."""
    if batch < 1 or model < 1 or batch * model != jax.device_count():
        raise InvalidInput(
            f"batch * model must be the {jax.device_count()} devices of this process, got {batch} * {model}"
        )
    return jax.make_mesh((batch, model), ("batch", "model"), axis_types=(AxisType.Auto,) * 2)


def placements(tree: PyTree, over: Mesh) -> PyTree:
    """Where each array of a tree lies: those of transformers, trained parts and moments of them cut as `CUT` says where
    the devices divide them evenly, all others on every device."""
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
    """A tree, such as a `Supply` or a `TrainState`, with its arrays where `placements` says."""
    return jax.device_put(tree, placements(tree, over))


def _cut(path: tuple[Any, ...], leaf: Any, parts: int) -> PartitionSpec:
    """Where to cut a transformer's weight. Of an adapter's factors, that is cut which has the axis of its weight."""
    fields = [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)]
    name, *inside = fields[1:] if fields[0] == "blocks" else fields
    axis = CUT.get(name)
    held = {"down": 0, "up": 1}.get(inside[0]) if inside else None
    if axis is None or held not in (None, axis) or leaf.shape[axis] % parts:
        return PartitionSpec()
    return PartitionSpec(*(None,) * axis, "model")


class Spread(AbstractObjective):
    """A loss or method whose batches are cut over devices by their rows.

    Attributes:
        loss: what is minimised. over: the devices.
    """

    loss: AbstractObjective
    over: Mesh = eqx.field(static=True)

    def refuse(self, source: AbstractSource) -> None:
        """What the loss refuses."""
        self.loss.refuse(source)

    def request(self, batch_size: int) -> Request:
        """What the loss asks for. Raises `InvalidInput` if the devices do not divide the batch evenly."""
        parts = self.over.shape["batch"]
        if batch_size % parts:
            raise InvalidInput(
                f"batch_size must be a multiple of the {parts} devices it is cut over, got {batch_size}"
            )
        return self.loss.request(batch_size)

    def critic(self, policy: Policy) -> PyTree:
        """What the loss trains along."""
        return self.loss.critic(policy)

    @property
    def fresh(self) -> int:
        """Those of the loss."""
        return self.loss.fresh

    def prepare(
        self,
        batch: PyTree,
        supply: Supply,
        policy: Policy,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> PyTree:
        """What the loss makes of it, its rows on different devices."""
        batch = self.loss.prepare(batch, supply, policy, key, step)
        return jax.lax.with_sharding_constraint(
            batch, NamedSharding(self.over, PartitionSpec("batch"))
        )

    def value(self, policy: Policy, critic: PyTree, supply: Supply, batch: PyTree) -> Scalar:
        """That of the loss."""
        return self.loss.value(policy, critic, supply, batch)


def cut_batches(plan: TrainConfig, over: Mesh) -> TrainConfig:
    """The same policy optimisation with batches cut over devices.

    Raises `InvalidInput` if they do not divide evenly."""
    plan = config.replace(plan, "loss", Spread(plan.loss, over))
    plan.loss.request(plan.batch_size)
    return plan

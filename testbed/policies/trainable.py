"""Which part of a policy is trained. What changes in a run, and what is kept of a policy anywhere in it, are parts; the
rest is held once, by the reference policy that the run started from.

Of a policy with adapters the part is their factors; of any other it is the policy itself.
"""

from typing import Any

import equinox as eqx
import jax

from testbed.logprob import Policy
from testbed.nn.matmul import LowRank


def trained(policy: Policy) -> Policy:
    """The trained part: the policy with None for each array that is held fixed."""
    if not any(map(_adapter, jax.tree.leaves(policy, is_leaf=_adapter))):
        return policy

    def part(node: Any) -> Any:
        return eqx.tree_at(lambda n: n.weight, node, None) if _adapter(node) else None

    return jax.tree.map(part, policy, is_leaf=_adapter)


def rebuilt(part: Policy, policy: Policy) -> Policy:
    """The policy that has a trained part, and else what another of its kind has: ``rebuilt(trained(p), p)`` is p."""

    def absent(node: Any) -> bool:
        return node is None

    return jax.tree.map(
        lambda own, other: other if own is None else own, part, policy, is_leaf=absent
    )


def _adapter(node: Any) -> bool:
    return isinstance(node, LowRank)

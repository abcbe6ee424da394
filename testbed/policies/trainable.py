"""The trained part of a policy: its adapters, or the whole policy if it has none.

Only this part changes in a run, and only this part of a policy is stored. The rest is kept once, by the reference
policy from which the run started.
"""

from typing import Any

import equinox as eqx
import jax

from testbed.logprob import Policy
from testbed.nn.matmul import LowRank


def trained(policy: Policy) -> Policy:
    """The trained part: the policy with None in place of each fixed array."""
    if not any(map(_adapter, jax.tree.leaves(policy, is_leaf=_adapter))):
        return policy

    def part(node: Any) -> Any:
        return eqx.tree_at(lambda n: n.weight, node, None) if _adapter(node) else None

    return jax.tree.map(part, policy, is_leaf=_adapter)


def rebuilt(part: Policy, policy: Policy) -> Policy:
    """The policy with a given trained part and the fixed arrays of another policy of its kind: ``rebuilt(trained(p),
    p)`` is p."""

    def absent(node: Any) -> bool:
        return node is None

    return jax.tree.map(
        lambda own, other: other if own is None else own, part, policy, is_leaf=absent
    )


def _adapter(node: Any) -> bool:
    return isinstance(node, LowRank)

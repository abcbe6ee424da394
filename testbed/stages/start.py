"""The policy from which optimisation starts."""

import jax

from testbed.environment import AbstractTask
from testbed.logprob import Policy
from testbed.lora import Lora, adapted
from testbed.policies.tabular import tabulated
from testbed.stages.sft import FineTuned
from testbed.stages.world import Seed
from testbed.streams import Stream, stream


def start_policy(
    task: AbstractTask, tabular: bool, lora: Lora | None, seed: Seed, sft: FineTuned
) -> Policy:
    """The initial policy of the optimisation, which is also its reference: the SFT policy, as a transformer, as a table
    or with adapters."""
    if lora is not None:
        return adapted(stream(jax.random.key(seed), Stream.ADAPTERS), sft.policy, lora)
    return tabulated(sft.policy, task) if tabular else sft.policy

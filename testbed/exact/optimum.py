"""Distance between a policy and the exact optimum."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from testbed.exact import quantities
from testbed.logprob import Policy
from testbed.types import Prompt, Response, Scalar


class Optimum(eqx.Module):
    """The policy that learning should reach in theory, where all prompts and responses can be listed: its
    log-probability of every response to every prompt, in the order of `testbed.exact.enumeration`."""

    prompts: Prompt
    responses: Response
    policy: Float[Array, "prompt response"]

    def apart(self, policy: Policy) -> tuple[Scalar, Scalar]:
        """Total variation between a policy and the optimum, and KL(policy || optimum) in nats: exact, averaged over
        prompts."""
        ours = quantities.log_table(policy, self.prompts, self.responses)
        each = (
            jax.vmap(measure)(ours, self.policy)
            for measure in (quantities.total_variation, quantities.kl)
        )
        distance, divergence = map(jnp.mean, each)
        return distance, divergence

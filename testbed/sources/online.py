"""Online: two fresh responses from the present policy, labelled by the teacher."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from testbed import decode, logprob
from testbed.batches import minibatch
from testbed.logprob import Policy
from testbed.sources.base import AbstractSource, Batch, Supply
from testbed.streams import Stream, stream
from testbed.types import Response, arrange, certain


class Online(AbstractSource):
    """On-policy pairs on the data's prompts (arXiv 2405.08448, section 2; Guo et al. 2024, arXiv 2402.04792).

    The prompts come in the order in which `Offline` would take them from the same data with the same key.
    """

    def init(self, supply: Supply) -> Int[Array, " n"]:
        """The order of prompts of the present epoch."""
        return jnp.arange(supply.data.size)

    def draw(
        self,
        state: Int[Array, " n"],
        supply: Supply,
        policy: Policy,
        key: PRNGKeyArray,
        step: Int[Array, ""],
        batch_size: int,
    ) -> tuple[Batch, Int[Array, " n"]]:
        """Sample, label and score ``batch_size`` pairs. The sign of the teacher's margin is the label."""
        state, index = minibatch(state, stream(key, Stream.ORDER), step, batch_size)
        prompts = jax.tree.map(lambda x: x[index], supply.data.pairs.prompt)
        time = supply.data.pairs.winner.tokens.shape[-1]
        step_key = jax.random.fold_in(stream(key, Stream.SAMPLES), step)
        keys = jax.random.split(step_key, batch_size)
        sampled = decode.sample(policy, prompts, keys, time, count=2).response
        first, second = (Response(sampled.tokens[:, i], sampled.length[:, i]) for i in range(2))
        label = certain(supply.teacher.margin(prompts, first, second) > 0)
        pairs = jax.vmap(arrange)(label, prompts, first, second)
        return Batch(pairs, logprob.score_pairs(supply.reference, pairs)), state

"""Hybrid preference optimisation: a pairwise loss, and a KL penalty on fresh responses."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from testbed import decode, logprob
from testbed.config.ranges import hyper
from testbed.logprob import Policy
from testbed.losses.base import AbstractLoss
from testbed.losses.dpo import Dpo
from testbed.methods.base import less_others
from testbed.objective import AbstractObjective
from testbed.source import AbstractSource, Batch, Ledger, Request, TrainingInputs
from testbed.streams import Stream, stream
from testbed.types import Prompt, Response, Scalar


class Hybrid(eqx.Module):
    """Pairs, and ``count`` fresh responses to the prompt of each.

    Attributes:
        reference: log-probabilities (nats, summed over tokens) of the responses under the reference policy.
    """

    pairs: Batch
    prompts: Prompt
    responses: Response
    reference: Float[Array, "n count"]
    spent: Ledger


class Hypo(AbstractObjective):
    """loss of the source's pairs + kl_weight rho(y) log pi(y|x), rho held fixed, y fresh responses by the policy to the
    pairs' prompts; so that the gradient of the second is that of kl_weight KL(pi || ref) (Song et al. 2024, arXiv
    2406.01462, algorithm 1; its lambda is our kl_weight).

    The paper's loss is Dpo on the data. The policy gradient is by whole responses; the baseline of each response is the
    mean of the others in its group (the authors' leave-one-out with k responses). Codes that use each token's squared
    log-ratio get only a part of the gradient (`testbed.methods.base`). Every step pays for fresh responses to every
    prompt, whatever the source.

    Attributes:
        loss: what is learnt from the pairs; its beta is not the weight of the penalty.
        kl_weight: strength of the KL regularisation that is measured on the policy's own responses.
        group: fresh responses to a prompt; 1 has no baseline.
    """

    loss: AbstractLoss = Dpo()
    kl_weight: float = hyper(0.01, least=0)
    group: int = hyper(2, least=1, static=True)

    def refuse(self, source: AbstractSource) -> None:
        """Refuse the sources that the loss refuses."""
        self.loss.refuse(source)

    def request(self, batch_size: int) -> Request:
        """The request of the loss."""
        return self.loss.request(batch_size)

    def critic(self, policy: Policy) -> PyTree:
        """The additional parameters of the loss."""
        return self.loss.critic(policy)

    @property
    def fresh(self) -> int:
        """The size of the group."""
        return self.group + self.loss.fresh

    def prepare(
        self,
        batch: PyTree,
        inputs: TrainingInputs,
        policy: Policy,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> Hybrid:
        """Generate responses by the present policy to every pair's prompt."""
        batch = self.loss.prepare(batch, inputs, policy, key, step)
        prompts: Prompt = batch.pairs.prompt
        fresh = jax.random.fold_in(stream(key, Stream.FRESH), step)
        keys = jax.random.split(fresh, prompts.length.shape[0])
        texts = decode.sample(policy, prompts, keys, inputs.response_length, self.group).response
        tokens = batch.spent.tokens + jnp.sum(texts.length, axis=1)
        return Hybrid(
            batch,
            prompts,
            texts,
            logprob.score(inputs.reference, prompts, texts),
            eqx.tree_at(lambda spent: spent.tokens, batch.spent, tokens),
        )

    def value(
        self, policy: Policy, critic: PyTree, inputs: TrainingInputs, batch: Hybrid
    ) -> Scalar:
        """Mean loss of the pairs, and the penalty, whose value also estimates its KL."""
        ours = logprob.score(policy, batch.prompts, batch.responses)
        now = jax.lax.stop_gradient(ours)
        rho = now - batch.reference
        # The difference is 0, and has the gradient of log pi.
        scores = (less_others(rho, axis=1) if self.group > 1 else rho) * (ours - now)
        penalty = jnp.mean(rho + scores)
        return self.loss.value(policy, critic, inputs, batch.pairs) + self.kl_weight * penalty

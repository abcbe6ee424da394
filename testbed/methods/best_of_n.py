"""Fine-tuning on the best of several responses by the policy."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from testbed import logprob
from testbed.config.ranges import hyper
from testbed.logprob import Policy
from testbed.methods.base import AbstractWriting, rewards
from testbed.source import Ledger, Request, RolloutFunction, TrainingInputs
from testbed.types import Prompt, Response, Scalar


class Best(eqx.Module):
    """The best of several responses to each of ``n`` prompts (the axis of responses is kept, of size 1).

    Attributes:
        rows: which of the data's prompts they answer. spent: their cost, including the responses that were not kept.
    """

    prompts: Prompt
    responses: Response
    rows: Int[Array, " n"]
    spent: Ledger


@functools.cache
def write_best(count: int) -> RolloutFunction:
    """The rollout function of the best of ``count`` responses; one function for each count, because compiled programs
    are cached by this function."""

    def rollout(
        inputs: TrainingInputs, policy: Policy, rows: Int[Array, " n"], key: PRNGKeyArray
    ) -> Best:
        texts = inputs.sample(policy, rows, key, count).response
        best = jnp.argmax(rewards(inputs, rows, texts), axis=1)
        kept = jax.tree.map(lambda x: jax.vmap(lambda each, i: each[i][None])(x, best), texts)
        return Best(inputs.prompts(rows), kept, rows, Ledger.fresh(texts, judgements=count))

    return rollout


class BestOfN(AbstractWriting):
    """-log pi(y|x), y the best of n responses by the policy as the teacher judges them: imitate it, summed over tokens
    (Dong et al. 2023, arXiv 2304.06767, algorithm 1, RAFT, with K for n and a batch of one step).

    Public codes average over tokens. Reward and reference do not enter except in the choice of the best response, so
    only the number of steps holds the policy back; its KL from the writer is at most log n - (n - 1)/n for one round
    fitted exactly. With n = 2 and a teacher that compares rewards the method is `BestOfTwo` on source `Online` (arXiv
    2405.08448, eq. 3).

    Attributes:
        n: responses to a prompt.
    """

    n: int = hyper(4, least=1, static=True)

    def request(self, batch_size: int) -> Request:
        """The best of n responses to every prompt."""
        return Request(batch_size, write_best(self.n), self.n, judgements=self.n)

    def value(self, policy: Policy, critic: PyTree, inputs: TrainingInputs, batch: Best) -> Scalar:
        """Mean loss over prompts."""
        return -jnp.mean(logprob.score(policy, batch.prompts, batch.responses))

"""Exploratory preference optimisation."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

from testbed import logprob
from testbed.config.ranges import hyper
from testbed.logprob import Policy
from testbed.methods.base import AbstractWriting
from testbed.source import Ledger, Request, TrainingInputs, judged
from testbed.types import Pair, PairScores, Scalar


class Explored(eqx.Module):
    """Pairs of a response by the policy and one by the reference.

    Attributes:
        pairs: ``n`` labelled pairs. reference: their log-probabilities under the reference policy.
        reference_won: whether the winner is the reference's response.
        rows: which of the data's prompts each pair answers. spent: what each cost.
    """

    pairs: Pair
    reference: PairScores
    reference_won: Bool[Array, " n"]
    rows: Int[Array, " n"]
    spent: Ledger


def explore(
    inputs: TrainingInputs, policy: Policy, rows: Int[Array, " n"], key: PRNGKeyArray
) -> Explored:
    """The rollout function of `Explored`."""
    texts = [
        inputs.sample(writer, rows, part, count=1).response
        for writer, part in zip((policy, inputs.reference), jax.random.split(key), strict=True)
    ]
    both = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *texts)
    batch = judged(inputs, rows, both, Ledger.fresh(both, judgements=1))
    # If both texts are the same, everything that is read of them is the same.
    policy_won = jnp.all(batch.pairs.winner.tokens == texts[0].tokens[:, 0], axis=-1)
    return Explored(batch.pairs, batch.reference, ~policy_won, rows, batch.spent)


class Xpo(AbstractWriting):
    """-log sigmoid(beta h) + alpha log pi(y'|x) of pairs of y by the policy and y' by the reference (Xie et al. 2024,
    arXiv 2405.21046, algorithm 1).

    The second term makes the reference's responses less likely, which is optimism about all others. As in TRL, a pair
    is judged by the sign of the teacher's margin, and log-probabilities are summed over tokens. The paper's algorithm
    fits all pairs written so far anew; here a step learns from its own batch (`Reuse` gathers more). TRL's alpha is
    1e-5.

    Attributes:
        beta: strength of the KL regularisation, > 0; larger stays closer to the reference.
        alpha: strength of the optimism; 0 is Dpo on such pairs.
    """

    beta: float = hyper(0.1, above=0)
    alpha: float = hyper(1e-3, least=0)

    def request(self, batch_size: int) -> Request:
        """A response by the policy and one by the reference to every prompt, and the label of the pair."""
        return Request(batch_size, explore)

    def value(
        self, policy: Policy, critic: PyTree, inputs: TrainingInputs, batch: Explored
    ) -> Scalar:
        """Mean loss over pairs."""
        scores = logprob.score_pairs(policy, batch.pairs)
        winner, loser = (
            scores.winner - batch.reference.winner,
            scores.loser - batch.reference.loser,
        )
        theirs = jnp.where(batch.reference_won, scores.winner, scores.loser)
        each = -jax.nn.log_sigmoid(self.beta * (winner - loser)) + self.alpha * theirs
        return jnp.mean(each)

"""Pairwise losses: their input, their interface, and the mean loss of a batch of pairs."""

import abc
import enum

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from testbed import logprob
from testbed.logprob import Policy
from testbed.objective import AbstractObjective
from testbed.source import AbstractSource, Batch, Request, TrainingInputs, write_pairs
from testbed.types import Pair, PairScores, Response, Scalar


class Extra(enum.Enum):
    """Inputs that a loss may request beyond the scores of its own pair; each costs additional forward passes."""

    #: `ScoredPair.kl`
    KL = enum.auto()
    #: `ScoredPair.target`
    TARGET = enum.auto()


class ScoredPair(eqx.Module):
    """The inputs of a loss for one pair.

    Attributes:
        policy, reference: log-probabilities (nats, summed over tokens) of both responses.
        winner_length, loser_length: tokens, end token included.
        preference: the probability that the label gives to the winner being the better one.
        reward_margin: reward of the winner less that of the loser, as the teacher of the run judges them.
        kl: estimate of KL(policy || reference) over the batch's prompts (nats), without a gradient; only if the loss
            asks for `Extra.KL`.
        target: log-probability (nats, summed) of the data's preferred response to the prompt under the policy; only if
            the loss asks for `Extra.TARGET`.
    """

    policy: PairScores
    reference: PairScores
    winner_length: Int[Array, "*n"]
    loser_length: Int[Array, "*n"]
    preference: Float[Array, "*n"]
    reward_margin: Float[Array, "*n"]
    kl: Float[Array, "*n"]
    target: Float[Array, "*n"]

    @property
    def swapped(self) -> "ScoredPair":
        """The same pair under the opposite label."""
        policy, reference = (PairScores(s.loser, s.winner) for s in (self.policy, self.reference))
        lengths = (self.loser_length, self.winner_length)
        opposite = (1.0 - self.preference, -self.reward_margin)
        return ScoredPair(policy, reference, *lengths, *opposite, self.kl, self.target)

    def log_ratios(self, length_normalised: bool = False) -> PairScores:
        """rho = log pi(y|x) - log ref(y|x) of both responses; per token if ``length_normalised``."""
        winner = self.policy.winner - self.reference.winner
        loser = self.policy.loser - self.reference.loser
        rho = PairScores(winner, loser)
        return self._a_token(rho) if length_normalised else rho

    def margin(self, length_normalised: bool = False) -> Float[Array, "*n"]:
        """h = rho(y_w) - rho(y_l)."""
        rho = self.log_ratios(length_normalised)
        return rho.winner - rho.loser

    def mean_logprobs(self) -> PairScores:
        """log pi(y|x) of both responses, averaged over tokens."""
        return self._a_token(self.policy)

    def _a_token(self, scores: PairScores) -> PairScores:
        """Scores averaged over tokens."""
        return PairScores(
            scores.winner / self.winner_length.astype(scores.winner.dtype),
            scores.loser / self.loser_length.astype(scores.loser.dtype),
        )


class AbstractLoss(AbstractObjective):
    """A pairwise loss: one value a pair, unreduced. It can learn from any source of pairs."""

    @property
    def extras(self) -> frozenset[Extra]:
        """The inputs that the loss needs beyond the scores of its own pair; most losses need none."""
        return frozenset()

    @abc.abstractmethod
    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""

    def refuse(self, source: AbstractSource) -> None:
        """Accepts every source, because every source can give pairs."""

    def request(self, batch_size: int) -> Request:
        """Two responses to every prompt, and the label of each pair."""
        return Request(batch_size, write_pairs)

    def value(self, policy: Policy, critic: PyTree, inputs: TrainingInputs, batch: Batch) -> Scalar:
        """Mean over pairs, each the expectation over its label and times its weight.

        With a soft label that gives the winner probability p, a pair costs
        p l(winner, loser) + (1 - p) l(loser, winner).
        """
        pair = self.scored(policy, inputs, batch)
        each = jax.vmap(lambda pair: expected(self, pair))(pair)
        return jnp.mean(batch.pairs.weight * each)

    def scored(self, policy: Policy, inputs: TrainingInputs, batch: Batch) -> ScoredPair:
        """The inputs of the loss for each pair."""
        pairs, nothing = batch.pairs, jnp.zeros_like(batch.reward_margin)
        kl, target = nothing, nothing
        if Extra.KL in self.extras:
            kl = jnp.broadcast_to(estimated_kl(policy, inputs.reference, pairs), nothing.shape)
        if Extra.TARGET in self.extras:
            target = logprob.score(policy, pairs.prompt, _alone(inputs.preferred(batch.rows)))[:, 0]
        return ScoredPair(
            logprob.score_pairs(policy, pairs),
            batch.reference,
            pairs.winner.length,
            pairs.loser.length,
            pairs.preference,
            batch.reward_margin,
            kl,
            target,
        )


def expected(loss: AbstractLoss, pair: ScoredPair) -> Scalar:
    """The loss of one pair in expectation over its label."""
    p = pair.preference
    return p * loss(pair) + (1.0 - p) * loss(pair.swapped)


def estimated_kl(policy: Policy, reference: Policy, pairs: Pair) -> Scalar:
    """KL(policy || reference) as KTO estimates it (arXiv 2402.01306, section 4.2): the mean log-ratio of responses that
    were written to other prompts of the batch, at least 0, without a gradient. Pair i's prompt is combined with both
    responses of pair i + 1. The estimate is biased, because the responses are not samples of the policy.

    For a `testbed.policies.tabular` policy the exact value is returned instead."""
    policy = jax.lax.stop_gradient(policy)
    exact = logprob.exact_kl(policy, reference, pairs.prompt)
    if exact is not None:
        return jnp.mean(exact)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b], axis=1), pairs.winner, pairs.loser)
    others = jax.tree.map(lambda x: jnp.roll(x, -1, axis=0), both)
    ours, theirs = (logprob.score(model, pairs.prompt, others) for model in (policy, reference))
    return jnp.maximum(jnp.mean(ours - theirs), 0.0)


def _alone(responses: Response) -> Response:
    """One response a prompt."""
    return jax.tree.map(lambda x: x[:, None], responses)

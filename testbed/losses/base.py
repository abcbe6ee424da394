"""What a pairwise loss is given, and the interface it fills."""

import abc
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float, Int

from testbed.types import PairScores, Scalar


class ScoredPair(eqx.Module):
    """One pair's log-probabilities (nats, summed over tokens) under policy and reference, and its lengths."""

    policy: PairScores
    reference: PairScores
    winner_length: Int[Array, "*n"]
    loser_length: Int[Array, "*n"]

    @property
    def swapped(self) -> "ScoredPair":
        """The same pair under the opposite label."""
        policy, reference = (PairScores(s.loser, s.winner) for s in (self.policy, self.reference))
        return ScoredPair(policy, reference, self.loser_length, self.winner_length)

    def log_ratios(self, length_normalised: bool = False) -> PairScores:
        """rho = log pi(y|x) - log ref(y|x) of both responses; per token if ``length_normalised``."""
        winner = self.policy.winner - self.reference.winner
        loser = self.policy.loser - self.reference.loser
        if length_normalised:
            winner, loser = winner / self.winner_length, loser / self.loser_length
        return PairScores(winner, loser)

    def margin(self, length_normalised: bool = False) -> Float[Array, "*n"]:
        """h = rho(y_w) - rho(y_l)."""
        rho = self.log_ratios(length_normalised)
        return rho.winner - rho.loser


class AbstractLoss(eqx.Module):
    """A pairwise loss: one value a pair, unreduced."""

    family: ClassVar[str] = "testbed.losses"

    @abc.abstractmethod
    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""

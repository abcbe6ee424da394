"""Where the pairs of a training step come from."""

import abc
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from testbed.logprob import Policy
from testbed.preference import AbstractPreference
from testbed.types import Pair, PairScores


class Dataset(eqx.Module):
    """Labelled pairs with what is known about them.

    Attributes:
        pairs: the data, winner first. reference: its log-probabilities under the SFT policy.
        golden_margin: golden reward of the winner less that of the loser (negative where the label is noise).
    """

    pairs: Pair
    reference: PairScores
    golden_margin: Array

    @property
    def size(self) -> int:
        """Number of pairs."""
        return self.golden_margin.shape[-1]


class Batch(eqx.Module):
    """Pairs to learn from, with their log-probabilities under the reference."""

    pairs: Pair
    reference: PairScores


class Supply(eqx.Module):
    """What a source may draw on: the data, the reference policy, and who labels new pairs."""

    data: Dataset
    reference: Policy
    teacher: AbstractPreference


class AbstractSource(eqx.Module):
    """A supply of labelled pairs, anywhere between offline and online."""

    family: ClassVar[str] = "testbed.sources"

    @abc.abstractmethod
    def init(self, supply: Supply) -> PyTree:
        """The source's state before training."""

    @abc.abstractmethod
    def draw(
        self,
        state: PyTree,
        supply: Supply,
        policy: Policy,
        key: PRNGKeyArray,
        step: Int[Array, ""],
        batch_size: int,
    ) -> tuple[Batch, PyTree]:
        """The batch of one step and the next state. ``key`` is the run's, the same at every step."""

"""Learned proxies of the golden preference: what every kind offers."""

import abc
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from testbed.environment import AbstractTask
from testbed.optimiser import FitConfig
from testbed.preference import AbstractPreference
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig
from testbed.types import Pair


class AbstractProxy(AbstractPreference):
    """A preference model that can be trained on labelled pairs."""

    @abc.abstractmethod
    def loss(self, pairs: Pair) -> Float[Array, " n"]:
        """Cross-entropy (nats) of each label, soft or hard; weights are the caller's."""


def cross_entropy(log_odds: Float[Array, " n"], probability: Float[Array, " n"]) -> Array:
    """-p log sigmoid(x) - (1 - p) log sigmoid(-x), in nats."""
    log_p, log_not_p = jax.nn.log_sigmoid(log_odds), jax.nn.log_sigmoid(-log_odds)
    return -probability * log_p - (1.0 - probability) * log_not_p


class Reading(NamedTuple):
    """What a proxy does to compare two responses, and to learn how: what plans are made from.

    Attributes:
        shape: of the network that reads, twice a comparison: each response, or the pair in each order.
        tokens: of one reading. wanted: of those, whose last hidden states are read; outputs: numbers from each.
        embedded: embeddings that the readings of a batch look up; none: one a token.
        parameters: numbers that it does not share with the policy.
        learning: its training, in forward passes of comparisons.
    """

    shape: TransformerConfig
    tokens: int
    wanted: int
    outputs: int
    embedded: int | None
    parameters: int
    learning: int


class AbstractProxyConfig(eqx.Module):
    """How a proxy is built and trained, by ``fit``."""

    family: ClassVar[str] = "testbed.proxies"

    fit: eqx.AbstractVar[FitConfig]

    def refuse(self, model: TransformerConfig, base: TransformerConfig, task: AbstractTask) -> None:
        """Raise `InvalidInput`, before anything is built, for a proxy that cannot read the task's texts.

        ``model``: shape of policies; ``base``: of the policy that the data stand on."""

    def form(self, model: TransformerConfig) -> tuple[Any, ...]:
        """What compiled programs that use the proxy depend on, where policies have the shape ``model``: every static
        field, unless a kind of proxy knows better which of them change the trained proxy's shapes."""
        return jax.tree.structure(self), model

    def trained_by(self, model: TransformerConfig) -> tuple[Any, ...]:
        """Everything in configs that `train` depends on: trained proxies are found again by it. All of this config, and
        the policies' shape ``model``; a kind of proxy that does not depend on the shape may leave that out, so that
        policies of several sizes share one proxy."""
        return self, model

    @abc.abstractmethod
    def train(
        self, key: PRNGKeyArray, model: TransformerConfig, sft: Transformer, pairs: Pair
    ) -> AbstractProxy:
        """A proxy that has learnt from ``n`` pairs, where policies have the shape ``model`` and the data stand on a
        policy ``sft``."""

    @abc.abstractmethod
    def reading(self, model: TransformerConfig, task: AbstractTask, pairs: int) -> Reading:
        """How it reads responses, and learns to from ``pairs`` of them, where policies have the shape ``model``."""

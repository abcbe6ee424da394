"""The interface of proxies: learned approximations of the golden preference."""

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
        """Cross-entropy (nats) of each label, soft or hard; the caller applies the weights."""


def cross_entropy(log_odds: Float[Array, " n"], probability: Float[Array, " n"]) -> Array:
    """-p log sigmoid(x) - (1 - p) log sigmoid(-x), in nats."""
    log_p, log_not_p = jax.nn.log_sigmoid(log_odds), jax.nn.log_sigmoid(-log_odds)
    return -probability * log_p - (1.0 - probability) * log_not_p


class Reading(NamedTuple):
    """The cost of a proxy's comparisons and of its training, for plans.

    Attributes:
        shape: of the network that reads twice for each comparison: each response, or the pair in each order.
        tokens: of one reading. wanted: how many of these tokens have their last hidden state read; outputs: numbers
            from each.
        embedded: embeddings that the readings of a batch look up; none: one a token.
        parameters: numbers that the proxy does not share with the policy.
        learning: cost of its training, in forward passes of comparisons.
    """

    shape: TransformerConfig
    tokens: int
    wanted: int
    outputs: int
    embedded: int | None
    parameters: int
    learning: float


class AbstractProxyConfig(eqx.Module):
    """How a proxy is built, and trained by ``fit``."""

    family: ClassVar[str] = "testbed.proxies"

    fit: eqx.AbstractVar[FitConfig]

    def refuse(self, model: TransformerConfig, base: TransformerConfig, task: AbstractTask) -> None:
        """Raise `InvalidInput`, before anything is built, for a proxy that cannot read the task's texts.

        ``model`` is the shape of policies; ``base`` is the shape of the policy on which the data are built."""

    def form(self, model: TransformerConfig) -> tuple[Any, ...]:
        """The part of the config on which compiled programs that use the proxy depend, for policies of shape ``model``.
        By default every static field; a kind of proxy may limit this to fields that change the shapes of the trained
        proxy."""
        return jax.tree.structure(self), model

    def trained_by(self, model: TransformerConfig) -> tuple[Any, ...]:
        """The part of the configs on which `train` depends; trained proxies are cached by it. By default this config
        and the policies' shape ``model``. A kind of proxy that does not depend on the shape may leave it out, so that
        policies of several sizes share one proxy."""
        return self, model

    @abc.abstractmethod
    def train(
        self, key: PRNGKeyArray, model: TransformerConfig, sft: Transformer, pairs: Pair
    ) -> AbstractProxy:
        """A proxy trained on ``n`` pairs, for policies of shape ``model``. ``sft`` is the policy on which the data are
        built."""

    @abc.abstractmethod
    def reading(self, model: TransformerConfig, task: AbstractTask, pairs: int) -> Reading:
        """The cost of comparisons and of training on ``pairs`` pairs, for policies of shape ``model``."""

"""Heads on the features of a frozen trunk, and a preference model with such a head. Training is cheap, since the
features of every text are computed once (`testbed.policies.features`).
"""

import dataclasses
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from testbed.environment import AbstractTask
from testbed.optimiser import FitConfig, OptimiserConfig, fit
from testbed.policies.features import features, one_by_one, refuse_layers, truncated
from testbed.proxies.base import AbstractProxy, AbstractProxyConfig, Reading, cross_entropy
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig
from testbed.types import Pair, Prompt, Response


class Head(eqx.Module):
    """A function from feature vectors to numbers. Features are standardised by ``centre`` and ``scale``; the function
    is linear, or has a layer of tanh units if there is a ``mix``."""

    centre: Float[Array, " width"]
    scale: Float[Array, " width"]
    mix: Float[Array, "width unit"] | None
    readout: Float[Array, " input"]
    constant: Float[Array, ""]

    @classmethod
    def init(
        cls,
        key: PRNGKeyArray,
        found: Float[Array, "n width"],
        units: int = 0,
        gain: float | Array = 1.0,
    ) -> Self:
        """A head standardised over the ``n`` features ``found``, with ``units`` hidden units; 0 units make a linear
        head. The readout is zero; weights into the units have variance gain^2 / width."""
        width = found.shape[1]
        mix = None
        if units:
            mix = gain * width**-0.5 * jax.random.normal(key, (width, units))
        spread = jnp.std(found, axis=0)
        return cls(
            jnp.mean(found, axis=0),
            jnp.where(spread > 0, spread, 1.0),
            mix,
            jnp.zeros(units or width),
            jnp.zeros(()),
        )

    def __call__(self, found: Float[Array, "n width"]) -> Float[Array, " n"]:
        """The head's value for each of ``n`` feature vectors."""
        inputs = (found - self.centre[None]) / self.scale[None]
        if self.mix is not None:
            inputs = jnp.tanh(inputs @ self.mix)
        return inputs @ self.readout + self.constant


class HeadPairs(eqx.Module):
    """The training data of a head: both responses' features, and the preference and weight of the `Pair`."""

    winner: Float[Array, "n width"]
    loser: Float[Array, "n width"]
    preference: Float[Array, " n"]
    weight: Float[Array, " n"]


class HeadProxy(AbstractProxy):
    """A Bradley-Terry reward model r(x, y) (Christiano et al. 2017, arXiv 1706.03741, eq. 1) with a frozen trunk: a
    head on the mean activations over the response. `HeadConfig.train` trains it; `loss` only measures it."""

    trunk: Transformer
    head: Head

    def reward(self, prompts: Prompt, responses: Response) -> Float[Array, " n"]:
        """The head's value of ``n`` responses, in log-odds."""
        return self.head(jax.lax.stop_gradient(features(self.trunk, prompts, responses)))

    def margin(self, prompts: Prompt, first: Response, second: Response) -> Float[Array, " n"]:
        """Difference of rewards, in log-odds."""
        return self.reward(prompts, first) - self.reward(prompts, second)

    def loss(self, pairs: Pair) -> Float[Array, " n"]:
        """-log sigmoid(r_w - r_l), in expectation over the label."""
        margin = self.margin(pairs.prompt, pairs.winner, pairs.loser)
        return cross_entropy(margin, pairs.preference)


class HeadConfig(AbstractProxyConfig):
    """How a `HeadProxy` is built and trained: its trunk consists of the first blocks of the policy on which the data
    are built.

    Attributes:
        layers: blocks of its trunk. units: hidden units of its head, 0 for a linear one.
        fit: its training on D_golden.
    """

    layers: int = eqx.field(static=True, default=15)
    units: int = eqx.field(static=True, default=0)
    fit: FitConfig = FitConfig(
        steps=600, batch_size=64, optimiser=OptimiserConfig(learning_rate=3e-3, weight_decay=0.1)
    )

    def refuse(self, model: TransformerConfig, base: TransformerConfig, task: AbstractTask) -> None:
        """Raise `InvalidInput` if the policy on which the data are built has fewer blocks."""
        refuse_layers(base, self.layers, "proxy.layers")

    def form(self, model: TransformerConfig) -> tuple[Any, ...]:
        """The sizes of trunk and head."""
        return "head", self.layers, self.units

    def trained_by(self, model: TransformerConfig) -> tuple[Any, ...]:
        """This config alone: the trunk comes from the policy on which the data are built."""
        return (self,)

    def train(
        self, key: PRNGKeyArray, model: TransformerConfig, sft: Transformer, pairs: Pair
    ) -> HeadProxy:
        """A proxy trained on ``n`` pairs; the trunk runs over each text once. Raises `InvalidInput` if the policy has
        fewer blocks."""
        trunk = truncated(sft, self.layers, "proxy.layers")
        return HeadProxy(trunk, self.train_head(key, measure(trunk, pairs)))

    def reading(self, model: TransformerConfig, task: AbstractTask, pairs: int) -> Reading:
        """One reading is a response behind its prompt; training reads each response once."""
        return Reading(
            dataclasses.replace(model, layers=self.layers),
            tokens=task.prompt_length + task.response_length,
            wanted=task.response_length,
            outputs=0,
            embedded=None,
            parameters=3 * model.width * max(1, self.units),
            learning=pairs,
        )

    def train_head(self, key: PRNGKeyArray, pairs: HeadPairs) -> Head:
        """The head that `train` fits, from features."""
        k_init, k_fit = jax.random.split(key)
        head = Head.init(k_init, jnp.concatenate([pairs.winner, pairs.loser]), self.units)

        def set_to(weights: tuple[Array | None, Array]) -> Head:
            return dataclasses.replace(head, mix=weights[0], readout=weights[1])

        def loss(weights: tuple[Array | None, Array], batch: HeadPairs) -> Float[Array, " n"]:
            own = set_to(weights)
            return batch.weight * cross_entropy(
                own(batch.winner) - own(batch.loser), batch.preference
            )

        # Centre and scale are not trained: weight decay would shrink them.
        weights, _ = fit(loss, (head.mix, head.readout), pairs, self.fit, k_fit)
        return set_to(weights)


def measure(trunk: Transformer, pairs: Pair) -> HeadPairs:
    """Features of both responses of ``n`` pairs."""
    winner, loser = (one_by_one(trunk, pairs.prompt, text) for text in (pairs.winner, pairs.loser))
    return HeadPairs(winner, loser, pairs.preference, pairs.weight)

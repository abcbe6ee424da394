"""A user's own proxy in one file, and the first study, `gap`, with it: a reward model that sees which tokens are used.

testbed inspect examples/my_proxy.py --quick
testbed run examples/my_proxy.py --preset smoke
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from sweeps.studies import gap
from testbed.environment import AbstractTask
from testbed.optimiser import FitConfig, OptimiserConfig, fit
from testbed.proxies.base import AbstractProxy, AbstractProxyConfig, Reading, cross_entropy
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig
from testbed.types import Pair, Prompt, Response


class BagProxy(AbstractProxy):
    """r(y) = the summed worth of the response's tokens, in log-odds; the prompt is not read."""

    worth: Float[Array, " vocabulary"]

    def reward(self, texts: Response) -> Float[Array, " n"]:
        """Rewards of ``n`` responses."""
        return jnp.sum(jnp.where(texts.mask, self.worth[texts.tokens], 0.0), axis=-1)

    def margin(self, prompts: Prompt, first: Response, second: Response) -> Float[Array, " n"]:
        """Difference of rewards."""
        return self.reward(first) - self.reward(second)

    def loss(self, pairs: Pair) -> Float[Array, " n"]:
        """Cross-entropy of each label."""
        return cross_entropy(self.margin(pairs.prompt, pairs.winner, pairs.loser), pairs.preference)


class BagConfig(AbstractProxyConfig):
    """A `BagProxy`, trained on D_golden by ``fit``."""

    fit: FitConfig = FitConfig(steps=300, batch_size=64, optimiser=OptimiserConfig(1e-2))

    def form(self, model: TransformerConfig) -> tuple[Any, ...]:
        """The facts besides its arrays that compiled programs depend on."""
        return ("bag",)

    def train(
        self, key: PRNGKeyArray, model: TransformerConfig, sft: Transformer, pairs: Pair
    ) -> BagProxy:
        """Token worths, trained on ``n`` pairs."""
        start = BagProxy(jnp.zeros(sft.vocabulary))
        return fit(lambda proxy, some: some.weight * proxy.loss(some), start, pairs, self.fit, key)[
            0
        ]

    def reading(self, model: TransformerConfig, task: AbstractTask, pairs: int) -> Reading:
        """For plans of time and memory: the proxy reads each token of a response once."""
        learning = 3 * self.fit.batch_size * self.fit.steps
        return Reading(model, task.response_length, 1, 1, None, task.vocabulary, learning)


study = gap.study.derived(
    "my_proxy", "Online against offline, by a bag of words", proxy=BagConfig()
)

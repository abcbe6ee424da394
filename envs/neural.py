"""The neural world, after Gao et al. 2023 (arXiv 2210.10760).

Prompts are random tokens. Human writers are a mixture of randomly initialised transformers of moderate entropy. The
golden reward is a larger random transformer over prompt and response, plus the writers' log-likelihood per token, plus
tastes for variety and for length, each standardised. Other tasks share `AbstractNetworkTask` with this one.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from envs.goldens.fluency import Fluency
from envs.goldens.length import Length
from envs.goldens.neural import NeuralGolden
from envs.goldens.variety import Variety
from envs.goldens.weighted import WeightedGolden
from envs.writers import TransformerWriters
from testbed.config import ranges
from testbed.config.ranges import hyper
from testbed.environment import AbstractPrompts, AbstractTask, World
from testbed.errors import InvalidInput
from testbed.transformer_config import TransformerConfig
from testbed.types import Prompt, Response

#: Writers' responses over which the parts of the golden reward are standardised.
STANDARDISING = 512


class UniformPrompts(AbstractPrompts):
    """Independent uniform tokens, the end token excluded."""

    vocabulary: int = eqx.field(static=True)
    length: int = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray) -> Prompt:
        """Draw one prompt."""
        tokens = jax.random.randint(key, (self.length,), 1, self.vocabulary)
        return Prompt(tokens, jnp.asarray(self.length))


class AbstractNetworkTask(AbstractTask):
    """A task with uniform prompts, and with random transformers as writers and in the golden reward."""

    writers: eqx.AbstractVar[int]
    writer: eqx.AbstractVar[TransformerConfig]
    closing: eqx.AbstractVar[float]
    order: eqx.AbstractVar[int]

    def __check_init__(self) -> None:
        ranges.check(self)
        if self.order > self.response_length:
            raise InvalidInput(
                f"order must be between 0 and response_length={self.response_length}, "
                f"got {self.order}"
            )

    def written(
        self, k_writers: PRNGKeyArray, k_prompts: PRNGKeyArray, k_responses: PRNGKeyArray
    ) -> tuple[UniformPrompts, TransformerWriters, Prompt, Response]:
        """The distribution of prompts, the writers, and sampled prompts and responses to standardise over."""
        writers = TransformerWriters.init(
            k_writers,
            self.writer,
            self.vocabulary,
            self.response_length,
            self.writers,
            self.closing,
        )
        prompts = UniformPrompts(self.vocabulary, self.prompt_length)
        sample = jax.vmap(prompts)(jax.random.split(k_prompts, STANDARDISING))
        keys = jax.random.split(k_responses, STANDARDISING)
        responses = jax.tree.map(lambda x: x[:, 0], writers.write(keys[:, None], sample))
        return prompts, writers, sample, responses


class Neural(AbstractNetworkTask):
    """A world of random networks.

    Attributes:
        vocabulary: token ids, the end token included. prompt_length, response_length: tokens.
        writers: how many. writer: their shape; its temperature sets their entropy. closing: how readily they end a
            response (logit of the end token).
        golden: shape of the reward network. ruggedness: how specific the token combinations are that the network
            rewards.
        order: interaction order of the reward network. For k >= 1 each position of the response reads the prompt and
            the last k tokens of the response, its own included, so the features before the saturating layer are a sum
            of k-token interactions; for 0 it reads every earlier token. The writers' log-likelihood covers the whole
            text at any order.
        fluency_weight, variety_weight, length_bias: weights of the writers' log-likelihood per token, of the number of
            different tokens and of the length, against 1 for the network, all in standard deviations over writers'
            responses. Without variety, one good token repeated is hard to beat.
    """

    vocabulary: int = hyper(32, least=2, static=True)
    prompt_length: int = hyper(6, least=2, static=True)
    response_length: int = hyper(12, least=1, static=True)
    writers: int = hyper(4, least=1, static=True)
    writer: TransformerConfig = TransformerConfig(
        width=32, layers=2, heads=2, key_value_heads=2, temperature=0.4
    )
    golden: TransformerConfig = TransformerConfig(width=64, layers=3, heads=4, key_value_heads=4)
    ruggedness: float = hyper(1.5)
    order: int = hyper(0, least=0, static=True)
    closing: float = hyper(0.1)
    fluency_weight: float = hyper(0.5)
    variety_weight: float = hyper(0.5)
    length_bias: float = hyper(0.0)

    def world(self, key: PRNGKeyArray) -> World:
        """Draw writers and golden reward; the reward has unit scale until SFT samples exist."""
        return self.world_with(None, key, key)

    def world_with(self, material: None, key: PRNGKeyArray, writers: PRNGKeyArray) -> World:
        """`world` with the writers of another world. The golden reward's network is that of ``key``; fluency is that of
        these writers, and the parts are standardised over their responses."""
        _, k_golden, k_prompts, k_responses = jax.random.split(key, 4)
        k_writers = jax.random.split(writers, 4)[0]
        prompts, people, sample, responses = self.written(k_writers, k_prompts, k_responses)
        network = NeuralGolden.init(
            k_golden, self.golden, self.vocabulary, self.ruggedness, sample, responses, self.order
        )
        golden = WeightedGolden.standardised(
            [network, Fluency(people), Variety(), Length()],
            [1.0, self.fluency_weight, self.variety_weight, self.length_bias],
            sample,
            responses,
        )
        return World(prompts, people, golden)

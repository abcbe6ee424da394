"""The enumerable world: few enough prompts and responses to list them all, so that no quantity has to be estimated.

Prompts are random tokens of full length and human writers are random transformers, as in `envs.neural`, so their
likelihood is exact. The golden reward counts n-grams whose worth depends on the prompt, plus a weak random network,
which separates texts that have the same n-grams and would otherwise tie. Exact values, divergences and optima are in
`testbed.exact.quantities`, a tabular policy in `testbed.policies.tabular`; transformers run here as on any other task.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from envs.goldens.neural import NeuralGolden
from envs.goldens.ngram import NGram
from envs.goldens.weighted import WeightedGolden
from envs.neural import AbstractNetworkTask
from testbed.config.ranges import hyper
from testbed.environment import AbstractGolden, AbstractWriters, World
from testbed.exact import enumeration
from testbed.transformer_config import TransformerConfig
from testbed.types import Prompt, Response


class BestResponse(AbstractWriters):
    """Writes the response of the largest golden reward, found by trying all responses."""

    golden: AbstractGolden
    vocabulary: int = eqx.field(static=True)
    time: int = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray, prompt: Prompt) -> Response:
        """The best response; nothing is random."""
        every = enumeration.all_responses(self.vocabulary, self.time)
        best = jnp.argmax(jax.vmap(lambda response: self.golden(prompt, response))(every))
        return jax.tree.map(lambda x: x[best], every)


class Enumerable(AbstractNetworkTask):
    """A world whose prompts and responses can all be listed.

    Attributes:
        vocabulary: token ids, the end token included. prompt_length, response_length: tokens; with the defaults there
            are 64 prompts and 341 responses to each.
        writers: how many. writer: their shape; its temperature sets their entropy. closing: how readily they end a
            response (logit of the end token).
        order: longest n-gram that is rewarded. interaction: the part of an n-gram's worth that depends on the prompt,
            relative to the part that does not. repeat: factor on an n-gram's worth for every earlier occurrence.
        taste: shape of the random network. taste_weight: its weight, against 1 for the n-grams, both in standard
            deviations over writers' responses.
    """

    enumerable: ClassVar[bool] = True

    vocabulary: int = hyper(5, least=2, static=True)
    prompt_length: int = hyper(3, least=2, static=True)
    response_length: int = hyper(4, least=1, static=True)
    writers: int = hyper(4, least=1, static=True)
    writer: TransformerConfig = TransformerConfig(
        width=16, layers=1, heads=2, key_value_heads=2, temperature=0.4
    )
    closing: float = hyper(0.0)
    order: int = hyper(2, least=1, static=True)
    interaction: float = hyper(1.5)
    repeat: float = hyper(0.5)
    taste: TransformerConfig = TransformerConfig(width=16, layers=1, heads=2, key_value_heads=2)
    taste_weight: float = hyper(0.3)

    def __check_init__(self) -> None:
        enumeration.check(self.vocabulary, self.prompt_length, self.response_length)

    def world(self, key: PRNGKeyArray) -> World:
        """Draw writers and golden reward; the reward has unit scale until SFT samples exist."""
        return self.world_with(None, key, key)

    def world_with(self, material: None, key: PRNGKeyArray, writers: PRNGKeyArray) -> World:
        """`world` with the writers of another world: n-grams and network are those of ``key``, standardised over these
        writers' responses."""
        _, k_golden, k_taste, k_prompts, k_responses = jax.random.split(key, 5)
        k_writers = jax.random.split(writers, 5)[0]
        prompts, people, sample, responses = self.written(k_writers, k_prompts, k_responses)
        grams = NGram.init(k_golden, self.vocabulary, self.order, self.interaction, self.repeat)
        taste = NeuralGolden.init(k_taste, self.taste, self.vocabulary, 1.0, sample, responses)
        golden = WeightedGolden.standardised(
            [grams, taste], [1.0, self.taste_weight], sample, responses
        )
        ideal = BestResponse(golden, self.vocabulary, self.response_length)
        return World(prompts, people, golden, ideal=ideal)

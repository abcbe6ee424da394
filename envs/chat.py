"""The chat world: open-ended prompts, judged by people of different tastes.

The world models side-by-side ratings by many people (arXiv 2405.08448, Chat arena). Prompts are random tokens and human
writers random transformers, as in `envs.neural`. Every annotator has a utility: random networks, one shared by all
annotators and one for each annotator, plus a taste for variety. The golden reward is the Borda count of the population:
the probability that a random annotator prefers the response to a random writers' response.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from envs.checks import sum_to_one
from envs.goldens.borda import Borda
from envs.goldens.neural import NeuralGolden
from envs.goldens.variety import Variety
from envs.neural import AbstractNetworkTask
from testbed.config.ranges import hyper
from testbed.environment import World
from testbed.transformer_config import TransformerConfig


class Chat(AbstractNetworkTask):
    """A world of annotators who disagree.

    Annotator j's utility is sqrt(agreement) shared + sqrt(1 - agreement) own_j + variety_weight variety. Here shared
    and own_j are independent `NeuralGolden` networks and variety is the number of different tokens; each of these, and
    their sum, is standardised over writers' responses. `Borda` aggregates the utilities.

    Attributes:
        vocabulary: token ids, the end token included. prompt_length, response_length: tokens.
        writers: how many. writer: their shape; its temperature sets their entropy. closing: how readily they end a
            response (logit of the end token).
        annotators: how many tastes the population has. weights: the share of each taste; none for equal shares.
        agreement: how much of a taste is shared, between 0 (nothing) and 1 (all are the same): the correlation of two
            annotators' utilities, except for variety and chance correlations of the networks.
        golden: shape of each network. ruggedness: how specific the token combinations are that the network rewards.
            order: how many tokens of the response interact, 0 for all (see `NeuralGolden`). With a small order every
            position reads more of the prompt than of the response, and rewards vary more between prompts than within.
        variety_weight: weight of variety, against 1 for the networks. Without variety, repeating one good token pays.
    """

    vocabulary: int = hyper(32, least=2, static=True)
    prompt_length: int = hyper(6, least=2, static=True)
    response_length: int = hyper(16, least=1, static=True)
    writers: int = hyper(4, least=1, static=True)
    writer: TransformerConfig = TransformerConfig(
        width=32, layers=2, heads=2, key_value_heads=2, temperature=0.4
    )
    closing: float = hyper(0.1)
    annotators: int = hyper(5, least=1, static=True)
    weights: tuple[float, ...] = ()
    agreement: float = hyper(0.5, least=0, most=1)
    golden: TransformerConfig = TransformerConfig(width=32, layers=2, heads=2, key_value_heads=2)
    ruggedness: float = hyper(1.5)
    order: int = hyper(0, least=0, static=True)
    variety_weight: float = hyper(0.5)

    def __check_init__(self) -> None:
        sum_to_one(self, "weights", "annotators")

    @property
    def shares(self) -> tuple[float | Array, ...]:
        """Share of the population with each annotator's taste."""
        return self.weights or (1.0 / self.annotators,) * self.annotators

    def world(self, key: PRNGKeyArray) -> World:
        """Draw writers and annotators; the reward has unit scale until SFT samples exist."""
        return self.world_with(None, key, key)

    def world_with(self, material: None, key: PRNGKeyArray, writers: PRNGKeyArray) -> World:
        """`world` with the writers of another world: networks are those of ``key``, standardised over these writers'
        responses."""
        _, k_golden, k_prompts, k_responses = jax.random.split(key, 4)
        k_writers = jax.random.split(writers, 4)[0]
        prompts, people, sample, responses = self.written(k_writers, k_prompts, k_responses)
        count = self.annotators
        networks = jax.vmap(
            lambda k: NeuralGolden.init(
                k, self.golden, self.vocabulary, self.ruggedness, sample, responses, self.order
            )
        )(jax.random.split(k_golden, 1 + count))
        parts = [jax.tree.map(lambda x, i=i: x[i], networks) for i in range(1 + count)]
        shared = jnp.full((count, 1), jnp.sqrt(self.agreement))
        own = jnp.sqrt(1.0 - self.agreement) * jnp.eye(count)
        variety = jnp.full((count, 1), self.variety_weight)
        golden = Borda.standardised(
            [*parts, Variety()],
            jnp.concatenate([shared, own, variety], axis=1),
            jnp.asarray(self.shares),
            sample,
            responses,
        )
        return World(prompts, people, golden)

"""A random function of a pretrained transformer's activations as golden reward: a taste without design."""

from typing import Self

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from envs.goldens.headed import AbstractHeaded
from envs.pretrained_rewards import AbstractTaste
from testbed.config.ranges import hyper
from testbed.policies.features import one_by_one, refuse_layers
from testbed.policies.pretrained import Pretrained
from testbed.proxies.linear_head import Head
from testbed.transformer_config import TransformerConfig
from testbed.types import Prompt, Response, each_with_prompt


class RandomHead(AbstractHeaded):
    """A layer of random tanh units on standardised mean activations, read out by random weights (as in
    `envs.goldens.neural`, on a trunk that knows language; after Gao et al. 2023, arXiv 2210.10760).

    Features are standardised over sampled responses, so tanh saturates outside their range: the reward of text unlike
    any sample is bounded.
    """

    trunk: Pretrained
    head: Head

    @classmethod
    def init(
        cls,
        key: PRNGKeyArray,
        trunk: Pretrained,
        found: Float[Array, "n width"],
        units: int,
        gain: float | Array,
    ) -> Self:
        """A head with ``units`` random units for the features ``found`` of ``n`` samples. ``gain`` is about the
        standard deviation of the units' inputs: the larger it is, the less linear is the head."""
        k_mix, k_readout = jax.random.split(key)
        head = Head.init(k_mix, found, units, gain)
        readout = jax.random.normal(k_readout, (units,)) * units**-0.5
        return cls(trunk, eqx.tree_at(lambda h: h.readout, head, readout))


class RandomTaste(AbstractTaste):
    """What a random function of activations likes (`RandomHead`), another one in every world.

    Attributes:
        layers: blocks of the checkpoint that are read.
        units: width of its random layer. gain: about the standard deviation of the units' inputs.
    """

    layers: int = hyper(15, least=1, static=True)
    units: int = hyper(64, least=1, static=True)
    gain: float = hyper(1.0, above=0)

    def refuse(self, model: TransformerConfig) -> None:
        """See `AbstractTaste`."""
        refuse_layers(model, self.layers, "golden.layers")

    def golden(
        self, key: PRNGKeyArray, model: Pretrained, learnt: None, prompts: Prompt, samples: Response
    ) -> RandomHead:
        """Draw a head, standardised over the samples."""
        trunk = model.trunk(self.layers)
        found = one_by_one(trunk.model, *each_with_prompt(prompts, samples))
        return RandomHead.init(key, trunk, found, self.units, self.gain)

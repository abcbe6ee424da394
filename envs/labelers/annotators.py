"""A pool of annotators who differ in noise, biases and tastes, drawn once from a population."""

import math
from typing import Final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from envs.checks import sum_to_one
from envs.labelers import style
from envs.labelers.biased import longer
from envs.labelers.bradley_terry import choice
from testbed.config.ranges import hyper
from testbed.errors import InvalidInput
from testbed.preference import AbstractLabeler, View, decided

#: Separates the annotators' random key from the keys of experiments, whose seeds are small numbers too.
_POOL: Final = 0x706F6F6C


class Annotator(eqx.Module):
    """One annotator, or several along a leading axis.

    Attributes:
        temperature: noise, in SFT standard deviations of golden reward.
        position_bias: worth of being shown first, in SFT standard deviations.
        length_bias: worth of one more token, in SFT standard deviations.
        taste: worth of each feature of `envs.labelers.style`, in SFT standard deviations.
    """

    temperature: Float[Array, "*annotator"]
    position_bias: Float[Array, "*annotator"]
    length_bias: Float[Array, "*annotator"]
    taste: Float[Array, "*annotator feature"]

    def outcomes(self, first: View, second: View) -> Float[Array, " outcome"]:
        """P(first) = sigmoid((d + taste . (style1 - style2) + length and position biases) / temperature)."""
        harmonics = self.taste.shape[-1] // 2
        difference = style.features(first.response, harmonics) - style.features(
            second.response, harmonics
        )
        worth = first.reward - second.reward + jnp.sum(self.taste * difference)
        biases = self.length_bias * longer(first, second) + self.position_bias
        return decided(choice(worth + biases, self.temperature))


class AnnotatorPool(AbstractLabeler):
    """Every comparison goes to one annotator, picked at random from a fixed pool.

    Attributes:
        annotators: how many. weights: the share of comparisons each labels; none for equal shares.
        temperature: median of the annotators' temperatures, in SFT standard deviations of golden reward.
        temperature_spread: standard deviation of the logarithms of the temperatures.
        position_bias, length_bias: standard deviations over annotators, whose means are 0, in SFT standard deviations
            (and per token).
        taste: standard deviation over annotators of their opinion of one repeated token, in SFT standard deviations;
            the taste is linear in features of style and averages out in varied text.
        harmonics: half the number of these features. seed: draws the pool.
    """

    annotators: int = hyper(8, least=1, static=True)
    weights: tuple[float, ...] = ()
    temperature: float = hyper(1.0, least=0)
    temperature_spread: float = hyper(0.5, least=0)
    position_bias: float = hyper(0.2, least=0)
    length_bias: float = hyper(0.1, least=0)
    taste: float = hyper(0.5, least=0)
    harmonics: int = hyper(2, least=1, static=True)
    seed: int = 0

    def __check_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise InvalidInput(f"seed must be between 0 and 2^31 - 1, got {self.seed}")
        sum_to_one(self, "weights", "annotators")

    def population(self) -> dict[str, dist.Distribution]:
        """The distributions of one annotator's parameters, by the names of `Annotator`, all independent.

        A standard deviation of 0 can be drawn from but has no density.
        """
        size = 2 * self.harmonics
        return {
            "temperature": dist.TransformedDistribution(
                dist.LogNormal(0.0, self.temperature_spread),
                dist.transforms.AffineTransform(
                    0.0, self.temperature, domain=dist.constraints.positive
                ),
            ),
            "position_bias": dist.Normal(0.0, self.position_bias),
            "length_bias": dist.Normal(0.0, self.length_bias),
            "taste": dist.Normal(0.0, self.taste / math.sqrt(size)).expand([size]).to_event(1),
        }

    def draw(self) -> Annotator:
        """The pool: the annotators that ``seed`` draws, along a leading axis."""
        population = self.population()
        key = jax.random.fold_in(jax.random.key(self.seed), _POOL)
        keys = jax.random.split(key, len(population))
        return Annotator(
            **{
                name: jnp.asarray(part.sample(k, (self.annotators,)))
                for k, (name, part) in zip(keys, population.items(), strict=True)
            }
        )

    def shares(self) -> Float[Array, " annotator"]:
        """The share of comparisons that each annotator labels."""
        if not self.weights:
            return jnp.full(self.annotators, 1.0 / self.annotators)
        return jnp.stack([jnp.asarray(weight, jnp.float32) for weight in self.weights])

    def outcomes(self, first: View, second: View) -> Float[Array, " outcome"]:
        """The answers' probabilities, averaged over annotators."""
        each = jax.vmap(lambda annotator: annotator.outcomes(first, second))(self.draw())
        return jnp.sum(self.shares()[:, None] * each, axis=0)

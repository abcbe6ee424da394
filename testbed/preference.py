"""Preferences: models that judge a comparison without noise, and labelers that add human noise."""

import abc
import enum
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from testbed.config.ranges import Checked
from testbed.environment import World
from testbed.types import Label, Prompt, Response, Scalar


class AbstractPreference(eqx.Module):
    """Judges comparisons without noise."""

    @abc.abstractmethod
    def margin(self, prompts: Prompt, first: Response, second: Response) -> Float[Array, " n"]:
        """How much each ``first`` is preferred to its ``second``: positive if ``first`` is better, antisymmetric in the
        two."""


class GoldenPreference(AbstractPreference):
    """The golden reward as a judge; margins in SFT standard deviations."""

    world: World

    def margin(self, prompts: Prompt, first: Response, second: Response) -> Float[Array, " n"]:
        """Difference of golden rewards."""
        reward = jax.vmap(self.world.reward)
        return reward(prompts, first) - reward(prompts, second)


class Outcome(enum.IntEnum):
    """The possible answers of a labeler."""

    FIRST = 0
    SECOND = 1
    TIE = 2
    SKIP = 3


class View(eqx.Module):
    """What a labeler perceives of one response: its worth in SFT standard deviations of golden reward, and its text."""

    reward: Float[Array, "*n"]
    response: Response


class AbstractLabeler(Checked):
    """Turns a golden comparison into a noisy label.

    A labeler is defined by its likelihood: `outcomes` states the probability of every answer, and labels are drawn with
    these probabilities.
    """

    family: ClassVar[str] = "envs.labelers"

    def view(self, world: World, prompt: Prompt, response: Response) -> View:
        """How one response is perceived: by its golden reward, unless the labeler overrides this."""
        return View(world.reward(prompt, response), response)

    @abc.abstractmethod
    def outcomes(self, first: View, second: View) -> Float[Array, " outcome"]:
        """P(answer) for the answers of `Outcome`, which sum to one."""

    def preference(self, first: View, second: View) -> Scalar:
        """P(first is preferred) among comparisons that are not skipped, a tie counting one half."""
        chance = self.outcomes(first, second)
        answered = 1.0 - chance[Outcome.SKIP]
        wins = chance[Outcome.FIRST] + 0.5 * chance[Outcome.TIE]
        return jnp.where(answered > 0, wins / jnp.where(answered > 0, answered, 1.0), 0.5)

    def answer(self, key: PRNGKeyArray, first: View, second: View) -> Int[Array, ""]:
        """Draw one `Outcome`."""
        chance = self.outcomes(first, second)
        # Rounding may leave the cumulative sum slightly below one: the remainder must not select another answer.
        last = jnp.max(jnp.where(chance > 0, jnp.arange(len(Outcome)), 0))
        drawn = jnp.sum(jax.random.uniform(key) >= jnp.cumsum(chance))
        return jnp.minimum(drawn, last).astype(jnp.int32)

    def __call__(self, key: PRNGKeyArray, first: View, second: View) -> Label:
        """Draw one label."""
        drawn = self.answer(key, first, second)
        preference = jnp.asarray([1.0, 0.0, 0.5, 0.5])[drawn]
        return Label(preference, jnp.where(drawn == Outcome.SKIP, 0.0, 1.0))


def decided(probability: Scalar) -> Float[Array, " outcome"]:
    """`AbstractLabeler.outcomes` of a labeler that always prefers one of the two: P(first is preferred) is
    ``probability``."""
    nothing = jnp.zeros_like(probability)
    return jnp.stack([probability, 1.0 - probability, nothing, nothing])

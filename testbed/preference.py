"""Who prefers what: preference models that judge a comparison, and labelers that add human noise to it."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from testbed.environment import World
from testbed.types import Prompt, Response, Scalar


class AbstractPreference(eqx.Module):
    """Judges comparisons without noise."""

    @abc.abstractmethod
    def margin(self, prompts: Prompt, first: Response, second: Response) -> Float[Array, " n"]:
        """How much each ``first`` is preferred to its ``second``: positive if it is, antisymmetric in the two."""


class GoldenPreference(AbstractPreference):
    """The golden reward as a judge; margins in SFT standard deviations."""

    world: World

    def margin(self, prompts: Prompt, first: Response, second: Response) -> Float[Array, " n"]:
        """Difference of golden rewards."""
        reward = jax.vmap(self.world.reward)
        return reward(prompts, first) - reward(prompts, second)


class AbstractLabeler(eqx.Module):
    """Turns a golden comparison into a label, noise and all."""

    family: ClassVar[str] = "envs.labelers"

    @abc.abstractmethod
    def probability(self, first_reward: Scalar, second_reward: Scalar) -> Scalar:
        """P(first is labelled the winner), given both golden rewards in SFT standard deviations."""

    def __call__(
        self, key: PRNGKeyArray, first_reward: Scalar, second_reward: Scalar
    ) -> Bool[Array, ""]:
        """Draw one label: True if the first response wins."""
        return jax.random.uniform(key) < self.probability(first_reward, second_reward)

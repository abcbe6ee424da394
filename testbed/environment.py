"""Tasks and worlds: a *task* (config) builds a *world* (arrays), in which policies are trained.

A world consists of a distribution of prompts, human writers who answer them, and the golden reward.
`testbed.token_environment` steps through a world one token at a time.
"""

import abc
import functools
from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PRNGKeyArray, PyTree

from testbed.batches import CHUNK, long_map
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig
from testbed.types import END_TOKEN, Prompt, Response, Scalar


class AbstractPrompts(eqx.Module):
    """A distribution over prompts."""

    @abc.abstractmethod
    def __call__(self, key: PRNGKeyArray) -> Prompt:
        """Draw one prompt."""


class AbstractWriters(eqx.Module):
    """The "human writers" whose responses fill the initial data."""

    #: Number of prompts that the writers answer at a time, all of them in memory.
    portion: ClassVar[int] = CHUNK

    @abc.abstractmethod
    def __call__(self, key: PRNGKeyArray, prompt: Prompt) -> Response:
        """Write one response."""

    def write(self, keys: Key[Array, "n count"], prompts: Prompt) -> Response:
        """Responses to each of ``n`` prompts, one a key. Writers that answer many prompts faster than one after the
        other may say how; response by response it is what a call gives, up to rounding."""

        def one(given: tuple[Key[Array, " count"], Prompt]) -> Response:
            return jax.vmap(self, in_axes=(0, None))(*given)

        return long_map(one, (keys, prompts), self.portion)

    def log_likelihood(self, prompt: Prompt, response: Response) -> Scalar:
        """log p(response | prompt) in nats. Raises `NotImplementedError` unless the writers can compute it."""
        raise NotImplementedError(f"{type(self).__name__} has no likelihood")


class AbstractGolden(eqx.Module):
    """A golden reward: deterministic, known exactly, larger is better."""

    family: ClassVar[str] = "envs.goldens"
    #: Whether the reward depends on how many places there are for a response, and not on its text alone.
    reads_room: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """Reward of one response, in the golden's own unit."""


class World(eqx.Module):
    """One drawn world. ``centre`` and ``scale`` standardise the golden reward (over SFT samples, once they exist);
    ``ideal`` writes the best known response, where one is known."""

    prompts: AbstractPrompts
    writers: AbstractWriters
    golden: AbstractGolden
    centre: Scalar = eqx.field(default_factory=lambda: jnp.zeros(()))
    scale: Scalar = eqx.field(default_factory=lambda: jnp.ones(()))
    ideal: AbstractWriters | None = None

    def reward(self, prompt: Prompt, response: Response) -> Scalar:
        """Golden reward of one response in SFT standard deviations."""
        return (self.golden(prompt, response) - self.centre) / self.scale


class AbstractTask(eqx.Module):
    """A kind of world and its size."""

    family: ClassVar[str] = "envs"
    #: Whether all responses can be listed and the writers' likelihood is known (`testbed.exact.enumeration`), so that
    #: quantities that other tasks estimate are exact.
    enumerable: ClassVar[bool] = False
    #: Whether worlds are built on a checkpoint: `material` then loads its weights, and downloads them if necessary.
    checkpointed: ClassVar[bool] = False
    #: Whether golden rewards already have a fixed scale, which is kept.
    standardised: ClassVar[bool] = False
    #: SFT samples for standardising or measuring the golden reward: number of prompts, responses to each.
    standardising: ClassVar[tuple[int, int]] = (512, 4)

    vocabulary: eqx.AbstractVar[int]
    prompt_length: eqx.AbstractVar[int]
    response_length: eqx.AbstractVar[int]

    @abc.abstractmethod
    def world(self, key: PRNGKeyArray) -> World:
        """Draw a world; its reward is not yet standardised over SFT samples."""

    def material(self) -> PyTree:
        """Data that every world of the task shares and that no key draws: weights, texts. Loaded on the host; None if
        there are none."""
        return None

    def world_on(self, material: PyTree, key: PRNGKeyArray) -> World:
        """`world` as a pure function of the result of `material` and a key."""
        return self.world(key)

    def world_with(self, material: PyTree, key: PRNGKeyArray, writers: PRNGKeyArray) -> World:
        """`world_on`, with the population of writers of the world that the key ``writers`` draws. With equal keys it is
        `world_on`. Raises `NotImplementedError` if the task does not define it: then all of a world is drawn from one
        key."""
        raise NotImplementedError(f"{type(self).__name__} draws writers and golden reward together")

    @classmethod
    def draws_writers_apart(cls) -> bool:
        """Whether the class has a `world_with` that belongs to its `world`: a class that changes `world` alone has
        none."""
        place = _first_with(cls, "world_with")
        own = cls.__mro__[place] is not AbstractTask
        return own and place <= _first_with(cls, "world", "world_on")

    def policy(self, material: PyTree) -> Transformer | None:
        """The policy from which all learning starts, if the task brings one: it replaces the SFT policy."""
        return None

    def shape(self, model: TransformerConfig) -> TransformerConfig:
        """Shape of the policy for the requested shape ``model``: the shape of the task's own policy, if the task brings
        one."""
        return model

    def check(self) -> None:
        """Refuse unusable files that worlds depend on, before anything is built. Raises `InvalidInput`."""

    def content(self) -> str:
        """A text that identifies the content of files that worlds depend on beside the task's fields; empty if there
        are none."""
        return ""

    def words(self) -> tuple[str, ...]:
        """The readable text of each token id; the end token comes first."""
        return (".", *(str(token) for token in range(1, self.vocabulary)))

    def text(self, tokens: Sequence[int]) -> str:
        """The readable text of a response, up to its end token."""
        words = self.words()
        return " ".join(words[token] for token in _ended(tokens))

    def prompt_text(self, tokens: Sequence[int]) -> str:
        """The readable text of a prompt, with all of its tokens, because in a conversation an end token follows each
        turn."""
        words = self.words()
        return " ".join(words[int(token)] for token in tokens)


@functools.cache
def _first_with(kind: type, *names: str) -> int:
    """Place, among a class and its bases, of the first that defines one of some methods."""
    return next(i for i, base in enumerate(kind.__mro__) if not vars(base).keys().isdisjoint(names))


def _ended(tokens: Sequence[int]) -> list[int]:
    """Tokens up to and including the first end token."""
    found = [int(token) for token in tokens]
    return found[: found.index(END_TOKEN) + 1] if END_TOKEN in found else found

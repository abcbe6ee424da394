"""Chat: a trained policy of a run answers a prompt beside the policy that it started from."""

import contextlib
import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import equinox as eqx
import jax
from jaxtyping import Array, PRNGKeyArray

from sweeps.api.request import selection_of
from sweeps.console.progress import Progress
from sweeps.population.run_checkpoints import RunCheckpoints
from sweeps.population.world_builder import WorldBuilder
from sweeps.runtime import cache_directory
from sweeps.store.store import Store
from sweeps.study import Point
from testbed import config, decode, logprob
from testbed.cache import Cache
from testbed.environment import World
from testbed.errors import InvalidInput
from testbed.logprob import Policy
from testbed.policies.pretrained import restored
from testbed.policies.trainable import rebuilt
from testbed.stages.world_config import WorldConfig
from testbed.types import Prompt, Response

#: The stages that are needed to rebuild a policy and to compute the reward of its answers.
_NEEDED = frozenset({"material", "world", "sft", "start", "base", "golden"})


class Answer(NamedTuple):
    """A sampled answer: its words, its golden reward in SFT standard deviations, its length in tokens, and its log
    ratio, log pi - log SFT in nats: how much more likely training has made the answer."""

    words: str
    reward: float
    length: int
    log_ratio: float


class Pair(NamedTuple):
    """Answers to one prompt by the SFT policy and by the trained policy, sampled with the same random numbers."""

    before: tuple[Answer, ...]
    after: tuple[Answer, ...]


class Conversation(eqx.Module):
    """The trained policy of a run, the policy that it started from, and their world."""

    point: Point = eqx.field(static=True)
    world: World
    start: Policy
    trained: Policy

    @classmethod
    def of(cls, point: Point, progress: Progress) -> Self:
        """Load the policies of a run. Raises `InvalidInput` if the run's task has no words, or if the trained policy is
        not in the cache of this machine."""
        task = point.experiment.task
        if not type(task).checkpointed:
            raise InvalidInput(
                f"run {point.run} is on {type(task).__name__}: there are words only where a task stands on a "
                "pretrained model"
            )
        world_config = WorldConfig.of(point.experiment)
        part = RunCheckpoints().learnt(point)
        if part is None:
            raise InvalidInput(
                f"the policy of run {point.run} is not in the cache {cache_directory()}, where this machine keeps what "
                "its runs have learnt: run the study here, with this version"
            )
        made = WorldBuilder(Cache(cache_directory() / "stages"), progress).made(
            world_config, _NEEDED
        )
        start, world = restored((made["start"], made["golden"].world))
        return cls(point, world, start, rebuilt(part, start))

    def __call__(self, text: str, count: int = 1, seed: int = 0) -> Pair:
        """Sample ``count`` answers of each policy to a text. Raises `InvalidInput` if the text cannot be a prompt."""
        task, key = self.point.experiment.task, jax.random.key(seed)
        prompt, policies = task.prompt(text), (self.start, self.trained)

        def answers(policy: Policy) -> tuple[Answer, ...]:
            drawn = _drawn(policy, self.world, policies, prompt, key, count, task.response_length)
            texts, rewards, ratios = jax.device_get(drawn)
            rows = zip(rewards.tolist(), texts.length.tolist(), ratios.tolist(), strict=True)
            tokens = texts.tokens.tolist()
            return tuple(Answer(task.text(tokens[i]), *row) for i, row in enumerate(rows))

        return Pair(*map(answers, policies))


@functools.partial(jax.jit, static_argnames=("count", "length"))
def _drawn(
    policy: Policy,
    world: World,
    policies: tuple[Policy, Policy],
    prompt: Prompt,
    key: PRNGKeyArray,
    count: int,
    length: int,
) -> tuple[Response, Array, Array]:
    alone = jax.tree.map(lambda x: x[None], prompt)
    texts = decode.sample(policy, alone, key[None], length, count).response
    before, after = (logprob.score(model, alone, texts)[0] for model in policies)
    texts = jax.tree.map(lambda x: x[0], texts)
    rewards = jax.vmap(lambda text: world.reward(prompt, text))(texts)
    return texts, rewards, after - before


def planned(stores: Iterable[Store]) -> list[Point]:
    """The stored runs that the present code would repeat for the requests of their sessions; a run that several arms
    share is there under each. Runs of requests that this version does not understand are left out."""
    known: dict[tuple[str, str], Point] = {}
    for store in stores:
        finished = store.finished()
        for session in store.header["sessions"]:
            with contextlib.suppress(InvalidInput):
                points = selection_of(store.header, session).points()
                known |= {(one.arm, one.run): one for one in points if one.run in finished}
    return list(known.values())


def chosen(points: Sequence[Point], name: str) -> Point:
    """Find a run by its id, by the beginning of its id, or by an arm's name and a seed, such as ``online-0``. If
    several settings match an arm and a seed, the first is returned. Raises `InvalidInput` if no run matches, or if
    several ids begin with ``name``."""
    named = [point for point in points if f"{point.arm}-{point.seed}" == name]
    begun = list({point.run: point for point in points if point.run.startswith(name)}.values())
    if named:
        return named[0]
    if len(begun) > 1:
        raise InvalidInput(f"run '{name}' is the beginning of {len(begun)} ids: give more of it")
    if not begun:
        raise config.unknown("run", name, [f"{point.arm}-{point.seed}" for point in points])
    return begun[0]

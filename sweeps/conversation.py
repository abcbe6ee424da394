"""A run's policy beside the one it started from, in words."""

import contextlib
import functools
import io
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
from jaxtyping import Array, PRNGKeyArray

from sweeps.console.progress import Progress
from sweeps.population.run_checkpoints import Underway
from sweeps.population.world_builder import Grounds
from sweeps.runtime import cache_directory
from sweeps.store.store import Store
from sweeps.study import Point, load_study
from testbed import config, decode, logprob
from testbed.cache import Cache
from testbed.environment import World
from testbed.errors import InvalidInput
from testbed.logprob import Policy
from testbed.policies.pretrained import restored
from testbed.policies.trainable import rebuilt
from testbed.stages.world_config import GroundConfig
from testbed.types import Prompt, Response

#: The stages that a policy needs to be put together and judged.
_NEEDED = frozenset({"material", "world", "sft", "start", "base", "golden"})


class Answer(NamedTuple):
    """What was sampled: its words, its golden reward in SFT standard deviations, its length in tokens, and how much
    more likely it has become by training, log pi - log SFT in nats."""

    words: str
    reward: float
    length: int
    log_ratio: float


class Pair(NamedTuple):
    """Answers to one prompt, sampled with the same random numbers: by the SFT policy, and by the trained one."""

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
        """The policy of a run of a study. Raises `InvalidInput` if its task has no words, or it has not been kept."""
        task = point.experiment.task
        if not type(task).checkpointed:
            raise InvalidInput(
                f"run {point.run} is on {type(task).__name__}: there are words only where a task stands on a "
                "pretrained model"
            )
        ground = GroundConfig.of(point.experiment)
        part = Underway().learnt(point)
        if part is None:
            raise InvalidInput(
                f"the policy of run {point.run} is not in the cache {cache_directory()}, where this machine keeps what "
                "its runs have learnt: run the study here, with this version"
            )
        made = Grounds(Cache(cache_directory() / "stages"), progress).made(ground, _NEEDED)
        start, world = restored((made["start"], made["golden"].world))
        return cls(point, world, start, rebuilt(part, start))

    def __call__(self, text: str, count: int = 1, seed: int = 0) -> Pair:
        """``count`` answers of each policy to a text. Raises `InvalidInput` for one that is no prompt."""
        task, key = self.point.experiment.task, jax.random.key(seed)
        prompt, length, both = task.prompt(text), task.response_length, (self.start, self.trained)
        return Pair(
            *(
                self._answers(_drawn(policy, self.world, both, prompt, key, count, length))
                for policy in both
            )
        )

    def _answers(self, found: tuple[Response, Array, Array]) -> tuple[Answer, ...]:
        texts, rewards, ratios = jax.device_get(found)
        rows = zip(rewards.tolist(), texts.length.tolist(), ratios.tolist(), strict=True)
        told = self.point.experiment.task.text
        return tuple(Answer(told(texts.tokens[i].tolist()), *row) for i, row in enumerate(rows))


@functools.partial(jax.jit, static_argnames=("count", "length"))
def _drawn(
    policy: Policy,
    world: World,
    both: tuple[Policy, Policy],
    prompt: Prompt,
    key: PRNGKeyArray,
    count: int,
    length: int,
) -> tuple[Response, Array, Array]:
    alone = jax.tree.map(lambda x: x[None], prompt)
    texts = decode.sample(policy, alone, key[None], length, count).response
    before, after = (logprob.score(model, alone, texts)[0] for model in both)
    texts = jax.tree.map(lambda x: x[0], texts)
    rewards = jax.vmap(lambda text: world.reward(prompt, text))(texts)
    return texts, rewards, after - before


def planned(stores: Iterable[Store]) -> list[Point]:
    """The runs that are stored and that the present code would make again, as `testbed run` was asked for them."""
    found: dict[str, Point] = {}
    for store in stores:
        finished = store.finished()
        for session in store.header["sessions"]:
            for point in _asked(store.header, session):
                if point.run in finished:
                    found[point.run] = point
    return list(found.values())


def _asked(header: dict[str, Any], session: dict[str, Any]) -> Sequence[Point]:
    """The runs that a session's command asked for of a study; none if this version no longer understands it."""
    # The command line reads its own commands.
    from sweeps import cli, commands

    try:
        words = shlex.split(session.get("command") or "")
        if not words:
            study = load_study(header.get("file") or header["study"])
            return study.points(header["preset"], header["seeds"])
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            options = cli.parser().parse_args(words[1:])
        selections = commands.selections(options)
    except (AttributeError, InvalidInput, SystemExit, ValueError):
        return ()
    return [
        point for one in selections if one.study.name == header["study"] for point in one.points()
    ]


def chosen(points: Sequence[Point], name: str) -> Point:
    """The run with an id, the beginning of one, or an arm's name and a seed such as ``online-0``; the first of several
    settings. Raises `InvalidInput` for none, or for the beginning of several ids."""
    named = [point for point in points if f"{point.arm}-{point.seed}" == name]
    begun = [point for point in points if point.run.startswith(name)]
    if named:
        return named[0]
    if len(begun) > 1:
        raise InvalidInput(f"run '{name}' is the beginning of {len(begun)} ids: give more of it")
    if not begun:
        raise config.unknown("run", name, [f"{point.arm}-{point.seed}" for point in points])
    return begun[0]

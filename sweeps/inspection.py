"""Inspection of a task: its writers, SFT policy, data and proxy, and samples with their golden rewards.

`inspect` builds the stages that a run needs, except the golden baseline, through the same cache. One program then
samples new prompts and the responses of every source. Rewards are in standard deviations over SFT samples, whose mean
is 0.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from sweeps.console.progress import Progress
from sweeps.grid import product
from sweeps.population.world_builder import WorldBuilder
from sweeps.runtime import cache_directory
from sweeps.study import Arm, Preset, Study, load_study
from testbed import config, decode
from testbed.batches import CHUNK, long_map
from testbed.cache import Cache
from testbed.data.spec import DataSpec
from testbed.environment import AbstractTask, World
from testbed.errors import InvalidInput
from testbed.experiment import EvaluationConfig, Experiment
from testbed.preference import AbstractPreference
from testbed.source import Dataset
from testbed.stages.stages import STAGES
from testbed.stages.world_config import WorldConfig
from testbed.streams import Stream, stream
from testbed.transformer import Transformer
from testbed.types import END_TOKEN, Prompt, Response

#: Number of sampled prompts; the writers' responses and the SFT samples to each prompt.
PROMPTS, WRITTEN, BEST_OF = 256, 2, 16
#: Number of prompts over which the best repeated token is searched.
SEARCHED = 64
#: Number of prompts, and of SFT samples to each, that are shown in words.
SHOWN, SHOWN_SAMPLES = 4, 2
#: Names of the sources of responses.
WRITERS, SFT, IDEAL = "writers", "SFT", "ideal"
BEST, WORST = f"best of {BEST_OF}", f"worst of {BEST_OF}"
EMPTY, REPEATED, COPIED = "empty", "one token repeated", "prompt copied"
TRIVIAL = (EMPTY, REPEATED, COPIED)
SOURCES = (WRITERS, SFT, BEST, WORST, IDEAL, *TRIVIAL)
#: Conditions of a useful world: least share of variance within prompts, and range of the proxy's held-out accuracy.
LEAST_WITHIN, LEARNABLE = 1 / 3, (0.65, 0.95)

#: Smaller data and shorter fits, to inspect a task quickly.
QUICK = {"data.pairs": 1024, "data.held_out": 256, "sft.steps": 300, "proxy.fit.steps": 200}
#: Studies that set no dial do not measure coverage; inspection shows it.
_MEASURED = {"data.coverage_prompts": DataSpec().coverage_prompts}
#: Later parts than the proxy are not built; these small values keep them from refusing small data.
_UNUSED = {
    "evaluation": EvaluationConfig(points=1, prompts=2, kl_prompts=2, pairs=1),
    "steps": 1,
    "batch_size": 1,
    "baseline.batch_size": 1,
}
_TRAINED = ("start", "scores", "baseline", "optimum", "recorded", "stream", "prepared")
_BUILT = tuple(stage.name for stage in STAGES if stage.name not in _TRAINED)


@dataclass(frozen=True)
class Text:
    """A response in words: its source, and its golden reward."""

    source: str
    words: str
    reward: float


@dataclass(frozen=True)
class Example:
    """A prompt in words, and responses to the prompt, best first."""

    prompt: str
    responses: tuple[Text, ...]


@dataclass(frozen=True)
class Judged:
    """Pairs of responses: the difference of their golden rewards, and how surely the better response was preferred (1,
    0, or the value of a soft label)."""

    difference: Float[np.ndarray, " pair"]
    right: Float[np.ndarray, " pair"]

    @classmethod
    def of(cls, data: Dataset, winner: np.ndarray) -> Self:
        """Turn the probability of each pair's ``winner`` into the probability of the better response. Skipped pairs are
        left out, and pairs of equal texts too: neither text is better, even if rounding makes their rewards differ."""
        differ = np.any(data.pairs.winner.tokens != data.pairs.loser.tokens, axis=1)
        used = differ & (data.golden_margin != 0) & (np.asarray(data.pairs.weight) > 0)
        margin, winner = np.asarray(data.golden_margin)[used], winner[used]
        return cls(np.abs(margin), np.where(margin > 0, winner, 1 - winner))


@dataclass(frozen=True)
class Inspection:
    """The results of an inspection.

    Attributes:
        experiment: task, labeler, data and fits that were inspected. quick: whether less was trained.
        rewards: golden rewards of responses by source; lengths: their mean lengths in tokens by source.
        repeated: the token and the number of repeats, in words, of the best response that repeats one token.
        facts: measurements of the stages. examples: prompts and responses in words.
        labels: pairs of D_golden with their labels; proxy: held-out pairs with the proxy's preferences.
    """

    experiment: Experiment
    quick: bool
    rewards: dict[str, np.ndarray]
    lengths: dict[str, float]
    repeated: str
    facts: dict[str, float]
    examples: tuple[Example, ...]
    labels: Judged
    proxy: Judged

    @property
    def kind(self) -> str:
        """The task's name."""
        return type(self.experiment.task).__name__

    def distributions(self) -> list[dict[str, Any]]:
        """One row per source: number, mean, SD, 1st, 50th and 99th percentile of the reward, mean length."""
        return [
            {
                "source": source,
                "responses": rewards.size,
                "mean": float(rewards.mean()),
                "sd": float(rewards.std()),
                **dict(
                    zip(
                        ("p1", "median", "p99"),
                        np.percentile(rewards, [1, 50, 99]).tolist(),
                        strict=True,
                    )
                ),
                "length": self.lengths[source],
            }
            for source, rewards in self.rewards.items()
        ]

    def checks(self) -> list[tuple[str, bool]]:
        """The conditions of a useful world, and whether this world meets them. A quick inspection does not judge the
        proxy."""
        means = {source: float(rewards.mean()) for source, rewards in self.rewards.items()}
        top = float(np.percentile(self.rewards[WRITERS], 99))
        within, accuracy = self.facts["within_prompt_variance"], self.facts["proxy_accuracy"]
        low, high = LEARNABLE
        checks = [
            (
                "At least a third of the reward's variance lies within prompts",
                within >= LEAST_WITHIN,
            ),
            (
                "No response that ignores what is asked (empty, repeated, copied) beats the writers' 99th percentile",
                max(means[source] for source in TRIVIAL) <= top,
            ),
        ]
        if IDEAL in means:
            checks.append(
                ("The ideal response beats the writers' mean", means[IDEAL] > means[WRITERS])
            )
        if not self.quick:
            words = f"The proxy orders between {low:.0%} and {high:.0%} of held-out pairs rightly"
            checks.append((words, low <= accuracy <= high))
        return checks

    def describe(self) -> dict[str, Any]:
        """Every number as JSON-able data."""
        named = ("task", "labeler", "model", "sft", "data", "proxy", "seed")
        described = config.describe(self.experiment)
        return {
            "task": config.spell(self.experiment.task),
            "quick": self.quick,
            "config": {name: described[name] for name in named},
            "coverage_is": "exact" if self.experiment.task.enumerable else "estimated",
            "facts": self.facts,
            "distributions": self.distributions(),
            "checks": [{"check": words, "holds": holds} for words, holds in self.checks()],
            "repeated": self.repeated,
            "examples": [asdict(example) for example in self.examples],
            "rewards": {source: _rounded(rewards) for source, rewards in self.rewards.items()},
            "labels": {name: _rounded(values) for name, values in vars(self.labels).items()},
            "proxy": {name: _rounded(values) for name, values in vars(self.proxy).items()},
        }


def configure(task: str, settings: Sequence[str], seed: int, quick: bool) -> Experiment:
    """The experiment to inspect: the experiment of the first study, on another task, with ``path=value`` texts applied.
    ``task`` is a kind of task, or a study file whose task is used.

    Raises `InvalidInput` for an unknown task or path, or an invalid value.
    """
    base = load_study("gap").base
    chosen = (
        load_study(task).base.task if task.endswith(".py") else config.parse(base, "task", task)
    )
    if chosen.checkpointed:
        raise InvalidInput(
            f"inspect looks at thousands of texts, too many for the pretrained model of {type(chosen).__name__}: run a "
            "study on it, and look at its runs with `testbed chat`"
        )
    base = config.replace_all(base, {"task": chosen, **_MEASURED, **_UNUSED})
    for text in settings:
        path = text.partition("=")[0].strip()
        if path in ("task", "seed"):
            raise InvalidInput(f"--set {text}: the {path} is given as {_GIVEN[path]}")
    presets = {"laptop": Preset(seeds=1), "quick": Preset(QUICK, seeds=1)}
    study = Study("inspect", "", "", base, (Arm("default", {}),), product(), (), presets)
    selection = study.select_texts("quick" if quick else None, None, settings, [])
    return config.replace(selection.experiment(study.arms[0], {}), "seed", seed)


_GIVEN = {"task": "TASK, in front of the options", "seed": "--seed N"}


def inspect(experiment: Experiment, quick: bool, progress: Progress) -> Inspection:
    """Build the stages of the experiment that a run needs, sample, and collect the results.

    Raises `InvalidInput` if the experiment's data cannot be obtained.
    """
    world_config = WorldConfig.of(experiment)
    cache = Cache(cache_directory() / "stages")
    worlds = WorldBuilder(cache, progress)
    worlds.prepare([world_config], _BUILT)
    made = worlds.made(world_config, _BUILT)
    progress.stage("sampling")
    sft, golden, data, proxy = (made[name] for name in ("sft", "golden", "data", "proxy"))
    key = stream(jax.random.key(experiment.seed), Stream.EVALUATION)
    given = golden.world, sft.policy, proxy.proxy, data.test.pairs
    sampled, right = jax.device_get(_program(experiment.task, *given, key))
    facts = sft.facts | golden.facts | data.facts | proxy.facts
    words = experiment.task.words()
    token, times = map(int, sampled.repeated)
    # A compiled program returns dictionaries in alphabetical order.
    sources = [source for source in SOURCES if source in sampled.texts]
    return Inspection(
        experiment,
        quick,
        {source: sampled.rewards[source].reshape(-1) for source in sources},
        {source: float(sampled.texts[source].length.mean()) for source in sources},
        f"{words[token]}, {times} time{'s' if times > 1 else ''}",
        {name: float(value) for name, value in facts.items()},
        _examples(sampled, words),
        Judged.of(data.data, np.asarray(data.data.pairs.preference)),
        Judged.of(data.test, right),
    )


class Sampled(eqx.Module):
    """Responses to prompts and their golden rewards by source: (prompt, response)."""

    prompts: Prompt
    texts: dict[str, Response]
    rewards: dict[str, Float[Array, "_ _"]]
    repeated: Int[Array, " 2"]


@jax.jit
def _program(
    task: AbstractTask,
    world: World,
    sft: Transformer,
    proxy: AbstractPreference,
    pairs: PyTree,
    key: PRNGKeyArray,
) -> tuple[Sampled, Float[Array, " pair"]]:
    """Samples of every source, and whether the proxy prefers each pair's winner; an exact tie is one half."""
    margin = proxy.margin(pairs.prompt, pairs.winner, pairs.loser)
    return sample(task, world, sft, key), 0.5 * (1.0 + jnp.sign(margin))


def sample(task: AbstractTask, world: World, sft: Transformer, key: PRNGKeyArray) -> Sampled:
    """Prompts, the responses of every source, and the golden rewards."""
    prompts = jax.vmap(world.prompts)(jax.random.split(stream(key, Stream.PROMPTS), PROMPTS))
    candidates, named = _repeated(task)
    texts = _texts(task, world, sft, prompts, key)
    texts[REPEATED] = jax.tree.map(lambda x: jnp.broadcast_to(x, (SEARCHED, *x.shape)), candidates)
    rewards = _rewards(world, prompts, texts)
    best = jnp.argmax(jnp.mean(rewards[REPEATED], axis=0))
    picks = {
        REPEATED: (REPEATED, jnp.full(SEARCHED, best)),
        BEST: (SFT, jnp.argmax(rewards[SFT], axis=1)),
        WORST: (SFT, jnp.argmin(rewards[SFT], axis=1)),
    }
    for name, (source, which) in picks.items():
        texts[name], rewards[name] = (
            jax.tree.map(lambda x, i=which: jax.vmap(lambda row, at: row[at][None])(x, i), tree)
            for tree in (texts[source], rewards[source])
        )
    return Sampled(prompts, texts, rewards, named[best])


def _texts(
    task: AbstractTask, world: World, sft: Transformer, prompts: Prompt, key: PRNGKeyArray
) -> dict[str, Response]:
    """Responses to every prompt by source, (prompt, response); repeated tokens come from `_repeated` instead."""

    def one_each(response: Response) -> Response:
        return jax.tree.map(lambda x: x[:, None], response)

    time = task.response_length
    keys = jax.random.split(stream(key, Stream.FIRST_RESPONSE), (PROMPTS, WRITTEN))
    texts = {
        WRITERS: world.writers.write(keys, prompts),
        SFT: decode.sample(
            sft, prompts, jax.random.split(stream(key, Stream.SAMPLES), PROMPTS), time, BEST_OF
        ).response,
    }
    if world.ideal is not None:
        keys = jax.random.split(stream(key, Stream.SECOND_RESPONSE), PROMPTS)
        ideal = world.ideal
        texts[IDEAL] = one_each(
            jax.lax.map(lambda x: ideal(*x), (keys, prompts), batch_size=CHUNK // BEST_OF)
        )
    nothing = Response(jnp.full((PROMPTS, time), END_TOKEN), jnp.ones(PROMPTS, jnp.int32))
    texts[EMPTY] = one_each(nothing)
    texts[COPIED] = one_each(jax.vmap(lambda prompt: _copied(prompt, time))(prompts))
    return texts


def _copied(prompt: Prompt, time: int) -> Response:
    """The prompt as a response, cut to the length of a response."""
    room = jnp.pad(prompt.tokens, (0, time))[:time]
    written = jnp.minimum(prompt.length, time)
    tokens = jnp.where(jnp.arange(time) < written, room, END_TOKEN)
    return Response(tokens, jnp.minimum(written + 1, time))


def _repeated(task: AbstractTask) -> tuple[Response, Int[Array, "candidate 2"]]:
    """Every token repeated to five lengths, and the token and the number of repeats of each response."""
    time = task.response_length
    times = sorted({max(1, round(share * time)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)})
    named = np.asarray([(token, n) for token in range(1, task.vocabulary) for n in times], np.int32)
    tokens = np.where(np.arange(time) < named[:, 1:], named[:, :1], END_TOKEN)
    length = np.minimum(named[:, 1] + 1, time)
    return Response(jnp.asarray(tokens), jnp.asarray(length)), jnp.asarray(named)


def _rewards(
    world: World, prompts: Prompt, texts: dict[str, Response]
) -> dict[str, Float[Array, "_ _"]]:
    """Golden rewards of all texts, in one loop: the reward's program is large and compiles once. An array with fewer
    rows than prompts answers the first prompts."""
    pairs = []
    for text in texts.values():
        count, each = text.length.shape
        asked = jax.tree.map(lambda x, n=count, k=each: jnp.repeat(x[:n], k, axis=0), prompts)
        pairs.append((asked, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), text)))
    together = jax.tree.map(lambda *x: jnp.concatenate(x), *pairs)
    rewards = long_map(lambda pair: world.reward(*pair), together)
    ends = np.cumsum([text.length.size for text in texts.values()])
    parts = zip(texts.items(), jnp.split(rewards, ends[:-1]), strict=True)
    return {source: part.reshape(text.length.shape) for (source, text), part in parts}


def _examples(sampled: Sampled, words: Sequence[str]) -> tuple[Example, ...]:
    """The first prompts with their responses, best first."""
    shown = {WRITERS: WRITTEN, SFT: SHOWN_SAMPLES, BEST: 1, WORST: 1, IDEAL: 1}

    def spelt(text: Prompt | Response, *place: int) -> str:
        tokens = np.asarray(text.tokens)[place][: int(text.length[place])]
        return " ".join(words[int(token)] for token in tokens)

    examples = []
    for row in range(SHOWN):
        texts = [
            Text(source, spelt(text, row, i), float(sampled.rewards[source][row, i]))
            for source, count in shown.items()
            if (text := sampled.texts.get(source)) is not None
            for i in range(count)
        ]
        texts.sort(key=lambda text: -text.reward)
        examples.append(Example(spelt(sampled.prompts, row), tuple(texts)))
    return tuple(examples)


def _rounded(values: np.ndarray) -> list[float]:
    """Numbers for files, rounded to a resolution far finer than their noise."""
    return [round(float(value), 5) for value in values]

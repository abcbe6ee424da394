"""Small inputs for the checks of users' classes: texts of every length, scored pairs, a data set, effects of runs."""

import functools
import math
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray
from scipy.special import stdtrit

from envs.goldens.length import Length
from envs.neural import UniformPrompts
from sweeps.estimands import (
    Evidence,
    InWorlds,
    Seed,
    Unanswerable,
    Unit,
    WorldCurve,
    WorldEstimate,
)
from sweeps.rules import Draws
from sweeps.selection import Selection
from testbed import logprob
from testbed.config import spell
from testbed.environment import AbstractTask, AbstractWriters, World
from testbed.errors import unknown
from testbed.losses.base import ScoredPair
from testbed.preference import GoldenPreference
from testbed.source import Dataset, TrainingInputs
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig
from testbed.types import Pair, PairScores, Prompt, Response

#: Numbers of texts in a sample, of pairs in a data set, and of prompts in a training step.
TEXTS, PAIRS, BATCH = 32, 8, 4
#: Shape of the policies on which objectives and sources are tried.
TINY = TransformerConfig(width=8, layers=1, heads=1, key_value_heads=1)


def as_arrays(module: Any) -> Any:
    """A config as compiled programs receive it: its numbers as float32 and int32."""

    def array(leaf: Any) -> Any:
        kind = {bool: np.bool_, int: np.int32, float: np.float32}.get(type(leaf))
        return leaf if kind is None else np.asarray(leaf, kind)

    return jax.tree.map(array, module)


#: `jax.jit` with less optimisation, for programs that run once and take longer to compile than to run.
_FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
quick = functools.partial(jax.jit, compiler_options=_FAST)


def first(tree: Any) -> Any:
    """The first row of every array."""
    return jax.tree.map(lambda x: x[0], tree)


class Sizes(NamedTuple):
    """Sizes of a task: the number of token ids, and the number of tokens in a prompt and in a response."""

    vocabulary: int
    prompt: int
    response: int

    @classmethod
    def of(cls, task: AbstractTask) -> "Sizes":
        """The sizes of a task."""
        return cls(task.vocabulary, task.prompt_length, task.response_length)


def prompts(sizes: Sizes, count: int) -> Prompt:
    """Prompts of random tokens, each of the largest length."""
    tokens = np.random.default_rng(0).integers(1, sizes.vocabulary, (count, sizes.prompt))
    return Prompt(jnp.asarray(tokens, jnp.int32), jnp.full(count, sizes.prompt, jnp.int32))


def responses(sizes: Sizes, count: int, seed: int = 0) -> Response:
    """Responses of every length, from the empty response (the end token alone) to a response without an end; every
    fourth response repeats one token."""
    rng, time = np.random.default_rng(seed + 1), sizes.response
    tokens = rng.integers(1, sizes.vocabulary, (count, time))
    tokens[3::4] = tokens[3::4, :1]
    # The last response has no end token.
    length = np.linspace(1, time + 1, count).round().astype(int)
    index = np.arange(time)
    tokens = np.where(index < length[:, None] - 1, tokens, 0)
    return Response(
        jnp.asarray(tokens, jnp.int32), jnp.asarray(np.minimum(length, time), jnp.int32)
    )


def pairs(sizes: Sizes) -> Pair:
    """Labelled pairs of these texts: with certain labels, with soft labels, and one that was skipped."""
    loser = jax.tree.map(lambda x: x[::-1], responses(sizes, PAIRS, 1))
    preference = jnp.asarray(np.linspace(0.5, 1.0, PAIRS), jnp.float32)
    weight = jnp.asarray(np.arange(PAIRS) > 0, jnp.float32)
    return Pair(prompts(sizes, PAIRS), responses(sizes, PAIRS), loser, preference, weight)


@functools.cache
def training_inputs(sizes: Sizes, shape: TransformerConfig = TINY) -> TrainingInputs:
    """The result of `supplied`, made only once."""
    return quick(functools.partial(supplied, sizes, shape))()


def supplied(sizes: Sizes, shape: TransformerConfig = TINY) -> TrainingInputs:
    """The training inputs of objectives and sources: `pairs`, a policy with random weights, and a judge that counts
    tokens."""
    policy = Transformer.init(jax.random.key(0), shape, sizes.vocabulary)
    data = pairs(sizes)
    judge = GoldenPreference(world(sizes))
    margin = judge.margin(data.prompt, data.winner, data.loser)
    return TrainingInputs(Dataset(data, logprob.score_pairs(policy, data), margin), policy, judge)


def scored_pairs() -> ScoredPair:
    """Pairs in the form that losses receive: margins from -6 to 6 nats, including 0, of short and of long texts, with
    certain and with soft labels."""
    margin = np.array([-6.0, -1.5, -0.1, 0.0, 0.0, 0.1, 1.5, 6.0])
    base = np.array([-30.0, -12.0, -8.0, -8.0, -2.0, -5.0, -20.0, -45.0])

    def numbers(values: Any) -> Array:
        return jnp.asarray(np.broadcast_to(values, margin.shape), jnp.float32)

    scores = PairScores(numbers(base + margin), numbers(base - 1.0))
    anchor = PairScores(numbers(base), numbers(base - 1.0))
    lengths = (jnp.asarray([12, 5, 3, 3, 1, 2, 7, 12]), jnp.asarray([2, 5, 1, 3, 1, 4, 12, 12]))
    soft = numbers([1.0, 0.9, 0.7, 0.5, 1.0, 0.7, 0.9, 1.0])
    reward = numbers([2.0, -1.0, 0.5, 0.0, 1.0, 3.0, -0.5, 1.0])
    return ScoredPair(scores, anchor, *lengths, soft, reward, numbers(0.3), numbers(base + 1.0))


class Endless(AbstractWriters):
    """Responses of random tokens that do not end."""

    sizes: Sizes = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray, prompt: Prompt) -> Response:
        """Write one response."""
        tokens = jax.random.randint(key, (self.sizes.response,), 1, self.sizes.vocabulary)
        return Response(tokens, jnp.asarray(self.sizes.response))


def world(sizes: Sizes) -> World:
    """A world that is fast to draw."""
    return World(UniformPrompts(sizes.vocabulary, sizes.prompt), Endless(sizes), Length())


class Parabola(NamedTuple):
    """A curve that rises to its peak at d = 2 and falls to 0 at d = 4; see `sweeps.estimands.WorldCurve`."""

    height: float
    tokens: float = 10.0

    @property
    def reach(self) -> np.ndarray:
        """One setting, as far as d = 4."""
        return np.array([4.0])

    def typical(self, d: np.ndarray) -> np.ndarray:
        """The curve itself."""
        return self.height * d * (4.0 - d) / 4.0

    @property
    def settings(self) -> tuple[Any, ...]:
        """One setting."""
        return ((),)

    def window(
        self, low: float, high: float, settings: Collection[Any] | None = None
    ) -> WorldEstimate:
        """The mean between two distances."""
        if low + high > 8.0:
            raise Unanswerable("no checkpoint lies so far")
        return WorldEstimate(float(self.typical(np.linspace(low, high, 33)).mean()), 0.01)

    def best(self, within: float = math.inf) -> WorldEstimate:
        """The height, or the end of the budget."""
        return WorldEstimate(float(self.typical(np.array([min(within, 2.0)]))[0]), 0.01)

    def difference(self, first: float, second: float) -> WorldEstimate:
        """Between two distances."""
        high, low = self.typical(np.array([first, second]))
        return WorldEstimate(float(high - low), 0.01)

    def peak(self) -> tuple[WorldEstimate, float]:
        """At d = 2, moved a little by the height."""
        return WorldEstimate(math.log(4.0) + 0.1 * self.height, 0.1), 0.0


def student_draws(sample: np.ndarray, count: int = 4000) -> np.ndarray:
    """Posterior of a normal mean under Jeffreys' prior, as `count` equally likely values.

    sample: shape (n,), n >= 2. The posterior is mean + s/sqrt(n) t_{n-1}, whose central intervals are the classical t
    intervals (Gelman et al., Bayesian Data Analysis, section 3.2).
    """
    n = len(sample)
    grid = (np.arange(count) + 0.5) / count
    return np.mean(sample) + np.std(sample, ddof=1) / math.sqrt(n) * stdtrit(n - 1, grid)


class MadeUpEvidence:
    """Made-up evidence of a study without results: plausible numbers that differ between arms, runs and metrics, the
    same at each call. See `sweeps.estimands.Evidence`."""

    def __init__(self, selection: Selection) -> None:
        self._arms = [arm.name for arm in selection.study.arms]
        self._axes = {path: selection.axes.values(path) for path in selection.axes.paths}
        settings = [tuple(setting.values()) for setting in selection.axes] or [()]
        self._seeds = range(max(2, len(selection.seeds)))
        self._units: list[Unit] = [
            (seed, tuple(map(_plain, values))) for seed in self._seeds for values in settings[:4]
        ]

    def pool(
        self, measure: Callable[[Evidence], InWorlds], words: tuple[str, str], negligible: float
    ) -> Draws:
        """A t posterior of the mean over worlds."""
        effects = measure(self)
        values = np.array([estimate.value for estimate in effects.estimates.values()])
        if len(values) < 2 or np.ptp(values) == 0:
            return Draws(*words, values[:1], "the worlds do not differ", effects.details)
        return Draws(*words, student_draws(values), "", effects.details, open=effects.open)

    def curves(
        self, arm: str, outcome: str, among: Sequence[str] = ()
    ) -> Mapping[Seed, WorldCurve]:
        """Parabolas over d, of a height that differs between worlds."""
        self._known(arm, *among)
        heights = 0.5 + 0.1 * np.tanh(self._normal((arm, outcome), len(self._seeds)))
        return {
            seed: Parabola(float(height)) for seed, height in zip(self._seeds, heights, strict=True)
        }

    def last(self, metric: str, arm: str, among: Sequence[str] = ()) -> Mapping[Unit, float]:
        """Positive numbers below 1."""
        self._known(arm, *among)
        values = 0.5 + 0.1 * np.tanh(self._normal((metric, arm), len(self._units)))
        return dict(zip(self._units, map(float, values), strict=True))

    def checkpoints(
        self, columns: tuple[str, ...], arms: tuple[str, ...]
    ) -> tuple[Mapping[Unit, list[np.ndarray]], ...]:
        """Five checkpoints per run, positive numbers below 1."""
        self._known(*arms)

        def run(arm: str, unit: Unit) -> np.ndarray:
            noise = self._normal((arm, *columns, unit), 5 * len(columns))
            return 0.5 + 0.1 * np.tanh(noise).reshape(5, len(columns))

        return tuple({unit: [run(arm, unit)] for unit in self._units} for arm in arms)

    def describe_runs(self, arms: tuple[str, ...]) -> dict[str, Any]:
        """Counts."""
        self._known(*arms)
        seeds = len({seed for seed, _ in self._units})
        counts = {"seeds": seeds, "runs": len(self._units), "diverged": 0}
        return {"arms": {arm: dict(counts) for arm in arms}}

    def levels(self, path: str) -> tuple[Any, ...]:
        """The values that the study sweeps."""
        if path not in self._axes:
            raise Unanswerable(f"{path} is not swept")
        return tuple(map(_plain, self._axes[path]))

    def at(self, path: str, level: Any) -> "MadeUpEvidence":
        """The same at every level."""
        if level not in self.levels(path):
            raise Unanswerable(f"{path} has no level {level}")
        return self

    def size(self, path: str, level: Any) -> float:
        """Doubles with every further level."""
        return float(2 ** self.levels(path).index(level))

    def _known(self, *arms: str) -> None:
        for arm in arms:
            if arm not in self._arms:
                raise unknown("arm", arm, self._arms)

    def _normal(self, key: Any, count: int) -> np.ndarray:
        return np.random.default_rng(zlib.crc32(repr(key).encode())).normal(size=count)


def _plain(value: Any) -> Any:
    """A swept value in the form in which results store it."""
    return value if value is None or isinstance(value, bool | int | float | str) else spell(value)

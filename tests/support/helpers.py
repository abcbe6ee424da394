"""Models, prompts and responses that the tests of the core share, so that each program compiles once."""

import atexit
import contextlib
import functools
import resource
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from envs.labelers.bradley_terry import BradleyTerry
from envs.neural import Neural
from sweeps.population.world_builder import WorldBuilder
from testbed import decode, logprob, metrics, train
from testbed.cache import Cache
from testbed.config import code_files, replace, replace_all, user_code
from testbed.data.spec import DataSpec
from testbed.environment import (
    AbstractGolden,
    AbstractPrompts,
    AbstractTask,
    AbstractWriters,
    World,
)
from testbed.experiment import EvaluationConfig, Experiment
from testbed.losses.base import ScoredPair
from testbed.metrics import EvaluationInputs
from testbed.optimiser import FitConfig, OptimiserConfig
from testbed.preference import GoldenPreference
from testbed.proxies.reader import ProxyConfig
from testbed.source import Dataset, TrainingInputs
from testbed.stages.world_config import WorldArtifacts, WorldConfig
from testbed.train import OnlineRun
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig
from testbed.types import Pair, PairScores, Prompt, Response, Scalar

VOCABULARY, PROMPT, TIME = 7, 4, 5
#: Everything at once: grouped queries, attention bias, a temperature.
CONFIG = TransformerConfig(
    width=16, layers=2, heads=4, key_value_heads=2, attention_bias=True, temperature=0.8
)

#: The same with one layer, where programs are long: training, evaluation, proxies.
SHALLOW = replace(CONFIG, "layers", 1)
#: Pairs that policies are trained on, and pairs a step.
PAIRS, BATCH = 24, 6

score = jax.jit(logprob.score)
score_pairs = jax.jit(logprob.score_pairs)
sample = jax.jit(decode.sample, static_argnames=("time", "count"))
advance = jax.jit(train.advance)
init = jax.jit(train.init)
_evaluate = jax.jit(metrics.evaluate)


def measured(
    policy: Any, evaluation_inputs: EvaluationInputs, key: PRNGKeyArray
) -> dict[str, jax.Array]:
    """Every number that is measured of a policy, by its column."""
    found = _evaluate(policy, evaluation_inputs, key)
    return metrics.columns({name: x for name, x in found.items() if name != "answer"})


def model(
    seed: int = 0, config: TransformerConfig = CONFIG, vocabulary: int = VOCABULARY
) -> Transformer:
    """A transformer whose every parameter is random: norms and biases too, which start as ones and zeros."""
    shapes = jax.eval_shape(
        lambda: Transformer.init(jax.random.key(0), config=config, vocabulary=vocabulary)
    )
    rng = np.random.default_rng(seed)

    def draw(shape: Any) -> np.ndarray:
        spread = shape.shape[0] ** -0.5 if len(shape.shape) == 2 else 0.3
        mean = 0.0 if len(shape.shape) == 2 else 1.0
        return (mean + spread * rng.standard_normal(shape.shape)).astype(np.float32)

    return jax.tree.map(draw, shapes)


def prompt(tokens: Any, length: Any) -> Prompt:
    """From anything like an array."""
    return Prompt(jnp.asarray(tokens, jnp.int32), jnp.asarray(length, jnp.int32))


def response(tokens: Any, length: Any) -> Response:
    """From anything like an array."""
    return Response(jnp.asarray(tokens, jnp.int32), jnp.asarray(length, jnp.int32))


def prompts(n: int, seed: int = 0, vocabulary: int = VOCABULARY, junk: int = 0) -> Prompt:
    """``n`` prompts of lengths 1 to `PROMPT`; ``junk`` fills the padding."""
    rng = np.random.default_rng(seed)
    length = 1 + np.arange(n) % PROMPT
    tokens = rng.integers(1, vocabulary, (n, PROMPT))
    tokens = np.where(np.arange(PROMPT) < length[:, None], tokens, junk)
    return prompt(tokens, length)


def responses(n: int, seed: int = 0, vocabulary: int = VOCABULARY, junk: int = 0) -> Response:
    """``n`` responses of every length, the longest both with and without an end token; ``junk`` fills the padding."""
    rng = np.random.default_rng(seed + 1000)
    kind = (np.arange(n) + seed) % (TIME + 1)
    length = np.minimum(kind + 1, TIME)
    tokens = rng.integers(1, vocabulary, (n, TIME))
    index = np.arange(TIME)
    ends = (kind[:, None] < TIME) & (index == length[:, None] - 1)
    tokens = np.where(ends, 0, np.where(index < length[:, None], tokens, junk))
    return response(tokens, length)


def pairs(n: int, seed: int = 0, junk: int = 0) -> Pair:
    """``n`` pairs with different winners and losers."""
    return Pair(
        prompts(n, seed, junk=junk),
        responses(n, 2 * seed, junk=junk),
        responses(n, 2 * seed + 1, junk=junk),
        preference=jnp.ones(n),
        weight=jnp.ones(n),
    )


def dataset(reference: Transformer, n: int, seed: int = 0) -> Dataset:
    """Labelled pairs with their scores under ``reference``, and a made-up golden margin."""
    margin = np.random.default_rng(seed).normal(size=n).astype(np.float32)
    return Dataset(pairs(n, seed), score_pairs(reference, pairs(n, seed)), jnp.asarray(margin))


def scored_pair(
    policy: PairScores,
    anchor: PairScores,
    lengths: tuple[Any, Any] = (5, 2),
    preference: Any = 1.0,
    reward_margin: Any = 0.0,
    kl: Any = 0.0,
    target: Any = 0.0,
) -> ScoredPair:
    """What a loss is given, from as little as its scores."""
    rest = (preference, reward_margin, kl, target)
    return ScoredPair(
        policy,
        anchor,
        *(jnp.asarray(length) for length in lengths),
        *(jnp.broadcast_to(jnp.asarray(x, jnp.float32), policy.winner.shape) for x in rest),
    )


def cut(padded: Prompt | Response, index: tuple[int, ...] | int) -> np.ndarray:
    """The tokens of one prompt or response, without padding."""
    return np.asarray(padded.tokens)[index][: np.asarray(padded.length)[index]]


class UniformPrompts(AbstractPrompts):
    """Prompts of uniform tokens and uniform length."""

    def __call__(self, key: jax.Array) -> Prompt:
        k_tokens, k_length = jax.random.split(key)
        length = jax.random.randint(k_length, (), 1, PROMPT + 1)
        tokens = jax.random.randint(k_tokens, (PROMPT,), 1, VOCABULARY)
        return Prompt(jnp.where(jnp.arange(PROMPT) < length, tokens, 0), length)


class UniformWriters(AbstractWriters):
    """Responses of uniform tokens that never end early."""

    def __call__(self, key: jax.Array, prompt: Prompt) -> Response:
        tokens = jax.random.randint(key, (TIME,), 1, VOCABULARY)
        return Response(tokens, jnp.asarray(TIME))


class SumGolden(AbstractGolden):
    """The sum of a response's tokens less the prompt's first token: easy to check by hand."""

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        total = jnp.sum(jnp.where(response.mask, response.tokens, 0))
        return (total - prompt.tokens[0]).astype(jnp.float32)


def sum_reward(prompt: np.ndarray, response: np.ndarray) -> float:
    """`SumGolden` of `world`, by hand."""
    return (float(response.sum()) - float(prompt[0]) - 2.0) / 4.0


@functools.cache
def world() -> World:
    """A world with `SumGolden`, centred at 2 and scaled by 4."""
    return World(UniformPrompts(), UniformWriters(), SumGolden(), jnp.array(2.0), jnp.array(4.0))


def shallow(seed: int) -> Transformer:
    """A `model` of one layer."""
    return model(seed, SHALLOW)


@functools.cache
def training_inputs() -> TrainingInputs:
    """What policies are trained on: `PAIRS` pairs, `shallow` model 0 as reference, the golden reward as teacher."""
    return TrainingInputs(dataset(shallow(0), PAIRS), shallow(0), GoldenPreference(world()))


class SumTask(AbstractTask):
    """The task of `world`."""

    vocabulary: int = eqx.field(static=True, default=VOCABULARY)
    prompt_length: int = eqx.field(static=True, default=PROMPT)
    response_length: int = eqx.field(static=True, default=TIME)

    def world(self, key: jax.Array) -> World:
        return world()


class Silence:
    """A progress display that keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.steps = self.runs = self.diverged = 0

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def advance(self, run_steps: int) -> None:
        self.steps += run_steps

    def finished(self, runs: int, diverged: int) -> None:
        self.runs += runs
        self.diverged += diverged


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file that this process writes meanwhile may be longer."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def _net(width: int, layers: int = 1) -> TransformerConfig:
    return TransformerConfig(width=width, layers=layers, heads=2, key_value_heads=1)


def experiment(**changes: Any) -> Experiment:
    """A run of the neural world, small in everything, with the field paths in ``changes`` (``__`` for a dot) set."""
    base = Experiment(
        task=Neural(
            vocabulary=VOCABULARY,
            prompt_length=PROMPT,
            response_length=TIME,
            writers=2,
            writer=_net(8),
            golden=_net(8),
        ),
        labeler=BradleyTerry(temperature=0.0),
        model=_net(16),
        sft=FitConfig(steps=60, batch_size=8, optimiser=OptimiserConfig(learning_rate=1e-2)),
        data=DataSpec(pairs=32, held_out=16),
        proxy=ProxyConfig(fit=FitConfig(steps=20, batch_size=8)),
        baseline=OnlineRun(steps=4, batch_size=8),
        optimiser=OptimiserConfig(learning_rate=3e-3, warmup=1.0),
        steps=6,
        batch_size=8,
        evaluation=EvaluationConfig(points=2, prompts=16, kl_prompts=8, pairs=12),
    )
    return replace_all(base, {path.replace("__", "."): value for path, value in changes.items()})


#: Two worlds of one structure: deterministic labels, and noisy ones.
PREPARED = (experiment(), experiment(seed=1, labeler__temperature=1.0))


@functools.cache
def cache_directory() -> Path:
    """Where this process keeps stages; removed when it ends."""
    directory = tempfile.TemporaryDirectory(prefix="testbed-stages-")
    atexit.register(directory.cleanup)
    return Path(directory.name)


@functools.cache
def worlds() -> dict[WorldConfig, WorldArtifacts]:
    """What `PREPARED` stand on, both made at once on the two devices of the test run."""
    configs = [WorldConfig.of(run) for run in PREPARED]
    return built(configs, Cache(cache_directory()), Silence())


def built(
    configs: Iterable[WorldConfig], cache: Cache, progress: Any
) -> dict[WorldConfig, WorldArtifacts]:
    """WorldBuilder by config."""
    made = WorldBuilder(cache, progress)
    configs = list(configs)
    made.prepare(configs)
    return {config: made[config] for config in configs}


def read_anew() -> None:
    """Let users' files be read as another process reads them."""
    user_code._HASHES.clear()
    code_files._TEXTS.clear()


def drawn_with_ideal(task: AbstractTask, count: int) -> tuple[Any, ...]:
    """The world of key 0 with ``count`` prompts, written and ideal responses, and the rewards of both; one program."""

    @jax.jit
    def use(key):
        k_world, k_prompts, k_writers = jax.random.split(key, 3)
        world = task.world(k_world)
        prompts = jax.vmap(world.prompts)(jax.random.split(k_prompts, count))
        keys = jax.random.split(k_writers, count)
        written = jax.vmap(world.writers)(keys, prompts)
        assert world.ideal is not None
        ideal = jax.vmap(world.ideal)(keys, prompts)
        reward = jax.vmap(world.golden)
        return world, prompts, written, ideal, reward(prompts, written), reward(prompts, ideal)

    world, *rest = use(jax.random.key(0))
    return world, *jax.device_get(rest)

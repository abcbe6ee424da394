"""What stands before policy optimisation: world, SFT, labelled data, proxy, golden baseline.

Each stage is a pure function of its part of the config, a key and the stages before it. A chain of fingerprints names
what each made, so that it is made once and found again (`Cache`); `sweeps.population` runs them for many seeds at once.
"""

import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree

from testbed import config, decode, logprob, train
from testbed.environment import AbstractTask, World
from testbed.experiment import BaselineConfig, DataConfig, Experiment
from testbed.metrics import Opponent
from testbed.optimiser import FitConfig, fit
from testbed.preference import AbstractLabeler, AbstractPreference, GoldenPreference
from testbed.proxies import AbstractProxy, ProxyConfig
from testbed.sources.base import Dataset, Supply
from testbed.streams import Stream, stream
from testbed.transformer import Transformer, TransformerConfig
from testbed.types import Prompt, Response, arrange

#: SFT samples over which the golden reward is standardised: prompts, responses to each.
STANDARDISING = (512, 4)
#: Examples that one step of a long map over writers or rewards holds in memory.
CHUNK = 256


class GroundConfig(eqx.Module):
    """The part of an `Experiment` that its stages depend on."""

    task: AbstractTask
    labeler: AbstractLabeler
    model: TransformerConfig
    sft: FitConfig
    data: DataConfig
    proxy: ProxyConfig
    baseline: BaselineConfig
    prompts: int = eqx.field(static=True)
    seed: int

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        """The ground an experiment stands on."""
        e = experiment
        return cls(
            e.task,
            e.labeler,
            e.model,
            e.sft,
            e.data,
            e.proxy,
            e.baseline,
            e.evaluation.prompts,
            e.seed,
        )

    @property
    def key(self) -> PRNGKeyArray:
        """The seed's key."""
        return jax.random.key(self.seed)


class Corpus(eqx.Module):
    """Prompts and two writers' responses to each, unlabelled."""

    prompts: Prompt
    first: Response
    second: Response


class Ground(eqx.Module):
    """Everything a run stands on. ``facts`` are measured numbers about it."""

    world: World
    sft: Transformer
    data: Dataset
    proxy: AbstractPreference
    opponent: Opponent
    facts: dict[str, Any]

    def supply(self, teacher: AbstractPreference | None = None) -> Supply:
        """What sources draw on; the proxy labels unless another teacher is given."""
        return Supply(self.data, self.sft, self.proxy if teacher is None else teacher)

    @property
    def golden(self) -> GoldenPreference:
        """The noise-free judge."""
        return GoldenPreference(self.world)


def draw_world(ground: GroundConfig, made: Mapping[str, PyTree]) -> tuple[World, Corpus, Corpus]:
    """The world, its data without labels, and held-out data."""
    world = ground.task.world(stream(ground.key, Stream.WORLD))
    sizes = (ground.data.pairs, ground.data.held_out)
    keys = (stream(ground.key, Stream.PROMPTS), stream(ground.key, Stream.HELD_OUT))
    each = [
        jax.vmap(jax.random.fold_in, (None, 0))(k, jnp.arange(n))
        for k, n in zip(keys, sizes, strict=True)
    ]
    # Both at once: the writers' program is the largest there is to compile.
    written = _write(world, jnp.concatenate(each))
    corpus, held_out = (
        jax.tree.map(lambda x, part=part: x[part], written)
        for part in (slice(sizes[0]), slice(sizes[0], None))
    )
    return world, corpus, held_out


def fine_tune(
    ground: GroundConfig, made: Mapping[str, PyTree]
) -> tuple[Transformer, dict[str, Array]]:
    """SFT on both responses of every pair (arXiv 2405.08448, appendix C): nats a token, averaged over tokens."""
    _, corpus, _ = made["world"]
    k_init, k_fit = jax.random.split(stream(ground.key, Stream.SFT))

    def loss(model: Transformer, batch: Corpus) -> Float[Array, " n"]:
        both = jax.tree.map(lambda a, b: jnp.stack([a, b], axis=1), batch.first, batch.second)
        scores = jnp.sum(logprob.score(model, batch.prompts, both), axis=1)
        tokens = jnp.sum(both.length, axis=1)
        return -scores / jnp.mean(tokens.astype(jnp.float32))

    model = Transformer.init(k_init, ground.model, ground.task.vocabulary)
    model, final = fit(loss, model, corpus, ground.sft, k_fit)
    return model, {"sft_loss": final}


def label(
    ground: GroundConfig, made: Mapping[str, PyTree]
) -> tuple[World, Dataset, Dataset, dict[str, Array]]:
    """Standardise the golden reward over SFT samples, then label the data: D_golden and held-out pairs."""
    raw, corpus, held_out = made["world"]
    sft, _ = made["sft"]
    world, facts = _standardise(raw, sft, stream(ground.key, Stream.STANDARDISE), ground.task)
    # One program for both parts: it compiles once.
    texts = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), corpus, held_out)
    labelled, reward = _label(world, sft, ground.labeler, texts, stream(ground.key, Stream.LABELS))
    count = ground.data.pairs
    data, test = (
        jax.tree.map(lambda x, part=part: x[part], labelled)
        for part in (slice(count), slice(count, None))
    )
    facts |= {
        "data_quality": jnp.mean(reward[:count]),
        "label_noise": jnp.mean(data.golden_margin < 0),
    }
    return world, data, test, facts


def train_proxy(
    ground: GroundConfig, made: Mapping[str, PyTree]
) -> tuple[AbstractProxy, dict[str, Array]]:
    """The proxy, trained on D_golden and tested against the golden reward on held-out pairs."""
    _, data, test, _ = made["golden"]
    k_init, k_fit = jax.random.split(stream(ground.key, Stream.PROXY))
    proxy = ground.proxy.init(k_init, ground.model, ground.task.vocabulary)
    proxy, _ = fit(
        lambda model, pairs: model.loss(pairs), proxy, data.pairs, ground.proxy.fit, k_fit
    )
    facts = {}
    for name, part in (("proxy_accuracy", test), ("proxy_train_accuracy", data)):
        part = jax.tree.map(lambda x: x[: ground.data.held_out], part)
        margin = proxy.margin(part.pairs.prompt, part.pairs.winner, part.pairs.loser)
        facts[name] = jnp.mean(jnp.sign(margin) == jnp.sign(part.golden_margin))
    return proxy, facts


def train_baseline(
    ground: GroundConfig, made: Mapping[str, PyTree]
) -> tuple[Opponent, dict[str, Array]]:
    """The golden baseline (arXiv 2405.08448, section 4): online against the golden preference; then its one answer
    to each of the fixed evaluation prompts, the first of the data's."""
    sft, _ = made["sft"]
    world, data, _, _ = made["golden"]
    golden = GoldenPreference(world)
    base = ground.baseline
    plan = base.train
    supply = Supply(data, sft, golden)
    key = stream(ground.key, Stream.BASELINE)
    state = train.init(plan, supply)
    state = train.advance(plan, supply, state, key, jnp.asarray(0), jnp.asarray(base.steps))
    prompts = jax.tree.map(lambda x: x[: ground.prompts], data.pairs.prompt)
    keys = jax.random.split(stream(key, Stream.BASELINE_RESPONSES), ground.prompts)
    time = ground.task.response_length
    answers = decode.sample(state.policy, prompts, keys, time, count=1).response
    answers = jax.tree.map(lambda x: x[:, 0], answers)
    reward = jax.vmap(world.reward)(prompts, answers)
    facts = {"baseline_reward": jnp.mean(reward), "baseline_diverged_step": state.diverged_step}
    return Opponent(prompts, answers, reward), facts


class Stage(NamedTuple):
    """A stage's name, the stages and the fields of `GroundConfig` it depends on, and what it does."""

    name: str
    after: tuple[str, ...]
    fields: tuple[str, ...]
    make: Callable[[GroundConfig, Mapping[str, PyTree]], PyTree]


STAGES = (
    Stage("world", (), ("task", "data", "seed"), draw_world),
    Stage("sft", ("world",), ("model", "sft"), fine_tune),
    Stage("golden", ("world", "sft"), ("labeler",), label),
    Stage("proxy", ("golden",), ("model", "proxy"), train_proxy),
    Stage("baseline", ("sft", "golden"), ("baseline", "prompts"), train_baseline),
)


def assemble(made: Mapping[str, PyTree]) -> Ground:
    """The ground from what the stages made."""
    sft, sft_facts = made["sft"]
    world, data, _, data_facts = made["golden"]
    proxy, proxy_facts = made["proxy"]
    opponent, baseline_facts = made["baseline"]
    facts = sft_facts | data_facts | proxy_facts | baseline_facts
    return Ground(world, sft, data, proxy, opponent, facts)


def fingerprints(ground: GroundConfig) -> dict[str, str]:
    """The content address of each stage's result: config, code and libraries it depends on."""
    addresses: dict[str, str] = {}
    for stage in STAGES:
        before = [addresses[name] for name in stage.after]
        parts = [attrgetter(field)(ground) for field in stage.fields]
        addresses[stage.name] = config.fingerprint(stage.name, _code_fingerprint(), *before, *parts)
    return addresses


class Cache:
    """Stage results on disk, named by content. Files are written aside and renamed, so none is ever half there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self, address: str) -> PyTree | None:
        """The result at an address, or None."""
        path = self._path(address)
        if not path.exists():
            return None
        with path.open("rb") as file:
            return pickle.load(file)

    def save(self, address: str, result: PyTree) -> None:
        """Keep a result; arrays are stored as numpy's."""
        self.directory.mkdir(parents=True, exist_ok=True)
        content = pickle.dumps(jax.device_get(result))
        with tempfile.NamedTemporaryFile(dir=self.directory, delete=False) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, self._path(address))

    def _path(self, address: str) -> Path:
        return self.directory / f"{address}.pickle"


def _write(world: World, keys: Key[Array, " n"]) -> Corpus:
    """Prompts and two responses to each by the writers, from a key each."""

    def one(key: PRNGKeyArray) -> Corpus:
        prompt = world.prompts(stream(key, Stream.PROMPTS))
        names = (Stream.FIRST_RESPONSE, Stream.SECOND_RESPONSE)
        twice = jnp.stack([stream(key, name) for name in names])
        both = jax.vmap(world.writers, in_axes=(0, None))(twice, prompt)
        first, second = (jax.tree.map(lambda x, i=i: x[i], both) for i in range(2))
        return Corpus(prompt, first, second)

    return jax.lax.map(one, keys, batch_size=CHUNK)


def _standardise(
    world: World, sft: Transformer, key: PRNGKeyArray, task: AbstractTask
) -> tuple[World, dict[str, Array]]:
    """Zero mean and unit variance over SFT samples; also the share of the variance that lies within prompts."""
    count, each = STANDARDISING
    prompts = jax.vmap(world.prompts)(jax.random.split(stream(key, Stream.PROMPTS), count))
    keys = jax.random.split(stream(key, Stream.SAMPLES), count)
    samples = decode.sample(sft, prompts, keys, task.response_length, each).response
    reward = jax.vmap(jax.vmap(world.golden, in_axes=(None, 0)))(prompts, samples)
    spread = jnp.std(reward)
    scale = jnp.where(spread > 0, spread, 1.0)
    within = jnp.mean(jnp.var(reward, axis=1, ddof=1)) / scale**2
    world = eqx.tree_at(lambda w: (w.centre, w.scale), world, (jnp.mean(reward), scale))
    length = jnp.mean(samples.length.astype(jnp.float32))
    return world, {"within_prompt_variance": within, "sft_length": length}


def _label(
    world: World, sft: Transformer, labeler: AbstractLabeler, corpus: Corpus, key: PRNGKeyArray
) -> tuple[Dataset, Float[Array, " n"]]:
    """Labelled pairs, and the mean golden reward of each pair's responses in SFT standard deviations."""
    reward = jax.vmap(world.reward)
    first, second = reward(corpus.prompts, corpus.first), reward(corpus.prompts, corpus.second)
    keys = jax.random.split(key, first.shape[0])
    first_wins = jax.vmap(labeler)(keys, first, second)
    pairs = jax.vmap(arrange)(first_wins, corpus.prompts, corpus.first, corpus.second)
    margin = jnp.where(first_wins, first - second, second - first)
    data = Dataset(pairs, logprob.score_pairs(sft, pairs), margin)
    return data, 0.5 * (first + second)


@cache
def _code_fingerprint() -> str:
    """Hash of the source of the engine and the worlds, and of the libraries' versions: results of other code are
    other results."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for folder in (here, here.parent / "envs"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    versions: Any = (jax.__version__, eqx.__version__, optax.__version__, jax.default_backend())
    return config.fingerprint(digest.hexdigest(), *versions)

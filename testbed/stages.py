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
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from testbed import config, decode, logprob, recorded, train
from testbed.collect import Corpus, Written, balanced, collect, label, make_pool, write
from testbed.data import DataSpec, Pool, refuse_unreached
from testbed.environment import AbstractTask, World
from testbed.errors import InvalidInput
from testbed.experiment import Experiment
from testbed.logprob import Policy
from testbed.metrics import Opponent, agreement
from testbed.optimiser import FitConfig, fit
from testbed.preference import AbstractLabeler, AbstractPreference, GoldenPreference
from testbed.proxies import AbstractProxy, ProxyConfig
from testbed.recorded import Given, Made, Recorded
from testbed.sources.base import AbstractSource, Dataset, Supply
from testbed.streams import Stream, stream
from testbed.tabular import tabulated
from testbed.train import OnlineRun
from testbed.transformer import Transformer, TransformerConfig
from testbed.types import Pair, PairScores

#: SFT samples over which the golden reward is standardised: prompts, responses to each.
STANDARDISING = (512, 4)


class GroundConfig(eqx.Module):
    """The part of an `Experiment` that its stages depend on."""

    task: AbstractTask
    labeler: AbstractLabeler
    model: TransformerConfig
    sft: FitConfig
    data: DataSpec
    proxy: ProxyConfig
    baseline: OnlineRun
    recorded: Recorded | None
    source: AbstractSource | None
    prompts: int = eqx.field(static=True)
    tabular: bool = eqx.field(static=True)
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
            e.source.recorded_run,
            e.source.preparation,
            e.evaluation.prompts,
            e.tabular,
            e.seed,
        )

    @property
    def key(self) -> PRNGKeyArray:
        """The seed's key."""
        return jax.random.key(self.seed)

    @property
    def training_key(self) -> PRNGKeyArray:
        """The key of the policy's optimisation."""
        return stream(self.key, Stream.TRAINING)


class Ground(eqx.Module):
    """Everything a run stands on: ``sft`` in the form that is trained. ``facts`` are measured numbers about it."""

    world: World
    sft: Policy
    data: Dataset
    proxy: AbstractPreference
    opponent: Opponent
    facts: dict[str, Any]
    prepared: PyTree = None

    def supply(self, teacher: AbstractPreference | None = None) -> Supply:
        """What sources draw on; the proxy labels unless another teacher is given."""
        judge = self.proxy if teacher is None else teacher
        return Supply(self.data, self.sft, judge, self.prepared)

    @property
    def golden(self) -> GoldenPreference:
        """The noise-free judge."""
        return GoldenPreference(self.world)


def draw_world(ground: GroundConfig, made: Mapping[str, PyTree]) -> tuple[World, Written]:
    """The world and what its writers wrote."""
    world = ground.task.world(stream(ground.key, Stream.WORLD))
    return world, write(world, ground.data, *_corpus_keys(ground))


def fine_tune(
    ground: GroundConfig, made: Mapping[str, PyTree]
) -> tuple[Transformer, dict[str, Array]]:
    """SFT on both of the writers' responses to every prompt (arXiv 2405.08448, appendix C): nats a token, averaged
    over tokens."""
    corpus = made["world"][1].corpus
    k_init, k_fit = jax.random.split(stream(ground.key, Stream.SFT))

    def loss(model: Transformer, batch: Corpus) -> Float[Array, " n"]:
        both = jax.tree.map(lambda a, b: jnp.stack([a, b], axis=1), batch.first, batch.second)
        scores = jnp.sum(logprob.score(model, batch.prompts, both), axis=1)
        tokens = jnp.sum(both.length, axis=1)
        return -scores / jnp.mean(tokens.astype(jnp.float32))

    model = Transformer.init(k_init, ground.model, ground.task.vocabulary)
    model, final = fit(loss, model, corpus, ground.sft, k_fit)
    return model, {"sft_loss": final}


def start_policy(ground: GroundConfig, made: Mapping[str, PyTree]) -> Policy:
    """Where policy optimisation starts, and its reference: the SFT policy, or the same as a table."""
    sft, _ = made["sft"]
    return tabulated(sft, ground.task) if ground.tabular else sft


def standardise(
    ground: GroundConfig, made: Mapping[str, PyTree]
) -> tuple[World, Float[Array, " sample"], dict[str, Array]]:
    """Zero mean and unit variance of the golden reward over SFT samples: the world, the samples' rewards, and the share
    of variance within prompts."""
    world, (sft, _) = made["world"][0], made["sft"]
    key = stream(ground.key, Stream.STANDARDISE)
    count, each = STANDARDISING
    prompts = jax.vmap(world.prompts)(jax.random.split(stream(key, Stream.PROMPTS), count))
    keys = jax.random.split(stream(key, Stream.SAMPLES), count)
    samples = decode.sample(sft, prompts, keys, ground.task.response_length, each).response
    reward = jax.vmap(jax.vmap(world.golden, in_axes=(None, 0)))(prompts, samples)
    centre, spread = jnp.mean(reward), jnp.std(reward)
    scale = jnp.where(spread > 0, spread, 1.0)
    within = jnp.mean(jnp.var(reward, axis=1, ddof=1)) / scale**2
    length = jnp.mean(samples.length.astype(jnp.float32))
    world = eqx.tree_at(lambda w: (w.centre, w.scale), world, (centre, scale))
    facts = {"within_prompt_variance": within, "sft_length": length}
    return world, ((reward - centre) / scale).reshape(-1), facts


def gather(ground: GroundConfig, made: Mapping[str, PyTree]) -> Pool:
    """The texts that a data policy chooses from, and by which coverage is measured."""
    world, (sft, _), written = made["golden"][0], made["sft"], made["world"][1]
    key = stream(ground.key, Stream.DATA)
    return make_pool(ground.task, world, sft, ground.data, written, _corpus_keys(ground)[0], key)


def make_data(
    ground: GroundConfig, made: Mapping[str, PyTree]
) -> tuple[Dataset, Dataset, dict[str, Array]]:
    """Collect the data as its dials say, and label it: D_golden and held-out pairs."""
    (world, rewards, _), (sft, _), written = made["golden"], made["sft"], made["world"][1]
    key = stream(ground.key, Stream.DATA)
    corpus, facts = collect(ground.task, ground.data, made["pool"], written.corpus, key)
    # One program for both parts: it compiles once.
    texts = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), corpus, written.held_out)
    labelled, reward = label(world, sft, ground.labeler, texts, stream(ground.key, Stream.LABELS))
    count = ground.data.pairs
    data, test = (
        jax.tree.map(lambda x, part=part: x[part], labelled)
        for part in (slice(count), slice(count, None))
    )
    data = balanced(data)
    return data, test, facts | _described(data, reward[:count], rewards)


def train_proxy(
    ground: GroundConfig, made: Mapping[str, PyTree]
) -> tuple[AbstractProxy, dict[str, Array]]:
    """The proxy, trained on D_golden and tested against the golden reward on held-out pairs."""
    data, test, _ = made["data"]
    k_init, k_fit = jax.random.split(stream(ground.key, Stream.PROXY))
    proxy = ground.proxy.init(k_init, ground.model, ground.task.vocabulary)

    def loss(model: AbstractProxy, pairs: Pair) -> Float[Array, " n"]:
        return pairs.weight * model.loss(pairs)

    proxy, _ = fit(loss, proxy, data.pairs, ground.proxy.fit, k_fit)
    facts = {}
    for name, part in (("proxy_accuracy", test), ("proxy_train_accuracy", data)):
        part = jax.tree.map(lambda x: x[: ground.data.held_out], part)
        margin = proxy.margin(part.pairs.prompt, part.pairs.winner, part.pairs.loser)
        facts[name] = agreement(margin, part.golden_margin)
    return proxy, facts


def train_baseline(
    ground: GroundConfig, made: Mapping[str, PyTree]
) -> tuple[Opponent, dict[str, Array]]:
    """The golden baseline (arXiv 2405.08448, section 4): online against the golden preference; then its one answer
    to each of the fixed evaluation prompts, the first of the corpus."""
    (sft, _), world, corpus = made["sft"], made["golden"][0], made["world"][1].corpus
    base = ground.baseline
    plan = base.train()
    # It learns from its own samples: of the data it takes the prompts, and as what the data prefer the first response.
    nothing = jnp.zeros_like(corpus.prompts.length, dtype=jnp.float32)
    pairs = Pair(corpus.prompts, corpus.first, corpus.second, nothing, nothing)
    prompts_only = Dataset(pairs, PairScores(nothing, nothing), nothing)
    supply = Supply(prompts_only, sft, GoldenPreference(world))
    key = stream(ground.key, Stream.BASELINE)
    state = train.init(plan, supply)
    state = train.advance(plan, supply, state, key, jnp.asarray(0), jnp.asarray(base.steps))
    prompts = jax.tree.map(lambda x: x[: ground.prompts], corpus.prompts)
    keys = jax.random.split(stream(key, Stream.BASELINE_RESPONSES), ground.prompts)
    time = ground.task.response_length
    answers = decode.sample(state.policy, prompts, keys, time, count=1).response
    answers = jax.tree.map(lambda x: x[:, 0], answers)
    reward = jax.vmap(world.reward)(prompts, answers)
    facts = {"baseline_reward": jnp.mean(reward), "baseline_diverged_step": state.diverged_step}
    return Opponent(prompts, answers, reward), facts


def record(ground: GroundConfig, made: Mapping[str, PyTree]) -> Made:
    """The online run that the source draws on: the very one of an experiment with the same plan."""
    assert ground.recorded is not None
    supply = Supply(made["data"][0], made["start"], made["proxy"][0])
    golden = GoldenPreference(made["golden"][0])
    return recorded.make(ground.recorded, supply, golden, ground.training_key)


def prepare(ground: GroundConfig, made: Mapping[str, PyTree]) -> tuple[PyTree, dict[str, Array]]:
    """What the source needs made of a recorded run."""
    assert ground.source is not None
    supply = Supply(made["data"][0], made["start"], made["proxy"][0])
    world, key = made["golden"][0], ground.training_key
    given = Given(supply, made["recorded"], world, ground.labeler, key)
    prepared, facts = ground.source.prepare(given)
    return prepared, facts | {"recorded_diverged_step": made["recorded"].diverged_step}


class Stage(NamedTuple):
    """A stage's name, the stages and the fields of `GroundConfig` it depends on, and what it does. Where the field
    ``only_with`` is None there is nothing to do, and None is its result."""

    name: str
    after: tuple[str, ...]
    fields: tuple[str, ...]
    make: Callable[[GroundConfig, Mapping[str, PyTree]], PyTree]
    only_with: str | None = None

    def needed(self, ground: GroundConfig) -> bool:
        """Whether there is anything to do."""
        return self.only_with is None or getattr(ground, self.only_with) is not None


STAGES = (
    Stage(
        "world", (), ("task", "data.pairs", "data.held_out", "data.candidates", "seed"), draw_world
    ),
    Stage("sft", ("world",), ("model", "sft"), fine_tune),
    Stage("start", ("sft",), ("tabular",), start_policy),
    Stage("golden", ("sft",), (), standardise),
    Stage("pool", ("golden",), ("data.dialled", "data.mixed", "data.rows"), gather),
    Stage("data", ("pool",), ("labeler", "data"), make_data),
    Stage("proxy", ("data",), ("model", "proxy"), train_proxy),
    Stage("baseline", ("golden",), ("baseline", "prompts"), train_baseline),
    Stage("recorded", ("start", "proxy"), ("recorded",), record, "recorded"),
    Stage("prepared", ("recorded",), ("source",), prepare, "source"),
)


def check(ground: GroundConfig, name: str, result: PyTree) -> None:
    """Refuse a stage's result that cannot be used: raises `InvalidInput` if the data are not what was asked for."""
    if name != "data":
        return
    facts = {key: float(value) for key, value in result[2].items()}
    where = f"on {type(ground.task).__name__} with seed {int(ground.seed)}"
    if facts["labelled"] == 0.0:
        raise InvalidInput(f"labeler {config.spell(ground.labeler)} skips every pair {where}")
    if facts["same_text"] == 1.0:
        raise InvalidInput(
            f"data leave one response a prompt {where}, and a pair needs two: widen "
            "data.support, data.temperature or data.quality"
        )
    if ground.data.dialled:
        refuse_unreached(ground.data, facts["reached_quality"], facts["reached_coverage"], where)


def assemble(made: Mapping[str, PyTree]) -> Ground:
    """The ground from what the stages made."""
    world, _, golden_facts = made["golden"]
    data, _, data_facts = made["data"]
    proxy, proxy_facts = made["proxy"]
    opponent, baseline_facts = made["baseline"]
    prepared, prepared_facts = made["prepared"] or (None, {})
    facts = made["sft"][1] | golden_facts | data_facts | proxy_facts | baseline_facts
    facts |= prepared_facts
    return Ground(world, made["start"], data, proxy, opponent, facts, prepared)


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


def _corpus_keys(ground: GroundConfig) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """Of the corpus and of the held-out pairs."""
    return stream(ground.key, Stream.PROMPTS), stream(ground.key, Stream.HELD_OUT)


def _described(
    data: Dataset, reward: Float[Array, "n 2"], sft: Float[Array, " sample"]
) -> dict[str, Array]:
    """What is measured of labelled data, given its golden rewards and those of SFT samples."""
    pairs = data.pairs
    quantile = jnp.searchsorted(jnp.sort(sft), reward.reshape(-1)) / sft.shape[0]
    prompts = _distinct(pairs.prompt.tokens)
    texts = [
        jnp.concatenate([pairs.prompt.tokens, response.tokens], axis=1)
        for response in (pairs.winner, pairs.loser)
    ]
    return {
        "data_quality": jnp.mean(reward),
        "data_quantile": jnp.mean(quantile),
        "data_prompts": prompts,
        "data_responses": _distinct(jnp.concatenate(texts)) / prompts,
        "same_text": jnp.mean(jnp.all(pairs.winner.tokens == pairs.loser.tokens, axis=1)),
        "label_noise": jnp.mean(data.golden_margin < 0),
        "label_confidence": jnp.mean(pairs.preference),
        "labelled": jnp.mean(pairs.weight > 0),
    }


def _distinct(tokens: Int[Array, "n time"]) -> Float[Array, ""]:
    """How many different texts there are, told apart by 32 bits."""
    factors = jax.random.bits(jax.random.key(0), (tokens.shape[1],)) | 1
    hashed = jnp.sort(jnp.sum((tokens.astype(jnp.uint32) + 1) ** 3 * factors[None], axis=1))
    return 1.0 + jnp.sum(hashed[1:] != hashed[:-1])


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

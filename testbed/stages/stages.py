"""What stands before policy optimisation: world, SFT, labelled data, proxy, golden baseline.

Each stage is a pure function of its part of the config, a key and the stages before it. A chain of fingerprints names
what each made, so that it is made once and found again (`testbed.cache`); `sweeps.population.host` runs them for many
seeds at once.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from testbed import config, decode, logprob, numerics, train
from testbed.config import code_files, user_code
from testbed.data.collect import (
    Corpus,
    Written,
    balanced,
    collect,
    described,
    label,
    make_pool,
    write,
)
from testbed.data.spec import Pool, refuse_unreached
from testbed.environment import World
from testbed.errors import InvalidInput
from testbed.exact import enumeration
from testbed.exact import quantities as exact
from testbed.logprob import Policy
from testbed.lora import adapted
from testbed.metrics import Opponent, Optimum, agreement, numbered
from testbed.optimiser import fit
from testbed.policies import shared_weights
from testbed.policies.tabular import tabulated
from testbed.preference import GoldenPreference
from testbed.proxies.base import AbstractProxy
from testbed.recorded_runs import recorded_run
from testbed.recorded_runs.pair_stream import Windows
from testbed.recorded_runs.recorded_run import Given, Made
from testbed.source import Dataset, Supply
from testbed.stages.world_config import Ground, GroundConfig
from testbed.streams import Stream, stream
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig
from testbed.types import Pair, PairScores


def load_material(ground: GroundConfig, made: Mapping[str, PyTree]) -> PyTree:
    """What worlds are made of that no key draws."""
    return ground.task.material()


def draw_world(ground: GroundConfig, made: Mapping[str, PyTree]) -> tuple[World, Written]:
    """The world and what its writers wrote."""
    world = ground.task.world_on(made["material"], stream(ground.key, Stream.WORLD))
    return world, write(world, ground.data, *_corpus_keys(ground))


def fine_tune(
    ground: GroundConfig, made: Mapping[str, PyTree]
) -> tuple[Transformer, dict[str, Array]]:
    """SFT on both of the writers' responses to every prompt (arXiv 2405.08448, appendix C): nats a token, averaged
    over tokens. Where the task brings the policy, it is that one, as it is."""
    return _fine_tuned(ground, ground.model, made)


def fine_tune_base(
    ground: GroundConfig, made: Mapping[str, PyTree]
) -> tuple[Transformer, dict[str, Array]]:
    """The SFT policy on which reward, data and baseline stand: the very one of an experiment that has its shape."""
    return _fine_tuned(ground, ground.base_model, made)


def _fine_tuned(
    ground: GroundConfig, shape: TransformerConfig, made: Mapping[str, PyTree]
) -> tuple[Transformer, dict[str, Array]]:
    brought = ground.task.policy(made["material"])
    if brought is not None:
        return brought, {}
    corpus = made["world"][1].corpus
    k_init, k_fit = jax.random.split(stream(ground.key, Stream.SFT))

    def loss(model: Transformer, batch: Corpus) -> Float[Array, " n"]:
        both = jax.tree.map(lambda a, b: jnp.stack([a, b], axis=1), batch.first, batch.second)
        scores = jnp.sum(logprob.score(model, batch.prompts, both), axis=1)
        tokens = jnp.sum(both.length, axis=1)
        return -scores / jnp.mean(tokens.astype(jnp.float32))

    model = Transformer.init(k_init, shape, ground.task.vocabulary)
    model, final = fit(loss, model, corpus, ground.sft, k_fit)
    return model, {"sft_loss": final}


def start_policy(ground: GroundConfig, made: Mapping[str, PyTree]) -> Policy:
    """Where policy optimisation starts, and its reference: the SFT policy, or the same as a table or with adapters."""
    sft, _ = made["sft"]
    if ground.lora is not None:
        return adapted(stream(ground.key, Stream.ADAPTERS), sft, ground.lora)
    return tabulated(sft, ground.task) if ground.tabular else sft


def standardise(
    ground: GroundConfig, made: Mapping[str, PyTree]
) -> tuple[World, Float[Array, " sample"], dict[str, Array]]:
    """Zero mean and unit variance of the golden reward over SFT samples, unless the task's rewards have a scale of
    their own: the world, the samples' rewards, and the share of variance within prompts."""
    world, sft = made["world"][0], made["base"][0]
    key = stream(ground.key, Stream.STANDARDISE)
    count, each = ground.task.standardising
    prompts = jax.vmap(world.prompts)(jax.random.split(stream(key, Stream.PROMPTS), count))
    keys = jax.random.split(stream(key, Stream.SAMPLES), count)
    samples = decode.sample(sft, prompts, keys, ground.task.response_length, each).response
    reward = jax.vmap(jax.vmap(world.golden, in_axes=(None, 0)))(prompts, samples)
    centre, spread = jnp.mean(reward), jnp.std(reward)
    scale = jnp.where(spread > 0, spread, 1.0)
    within = jnp.mean(jnp.var(reward, axis=1, ddof=1)) / scale**2
    if ground.task.standardised:
        centre, scale = jnp.zeros(()), jnp.ones(())
    length = jnp.mean(samples.length.astype(jnp.float32))
    world = eqx.tree_at(lambda w: (w.centre, w.scale), world, (centre, scale))
    facts = {"within_prompt_variance": within, "sft_length": length}
    return world, ((reward - centre) / scale).reshape(-1), facts


def gather(ground: GroundConfig, made: Mapping[str, PyTree]) -> Pool:
    """The texts that a data policy chooses from, and by which coverage is measured."""
    world, sft, written = made["golden"][0], made["base"][0], made["world"][1]
    key = stream(ground.key, Stream.DATA)
    return make_pool(ground.task, world, sft, ground.data, written, _corpus_keys(ground)[0], key)


class Labelled(NamedTuple):
    """D_golden, held-out pairs, what was measured of them, and, where responses can be listed, the data policy:
    log-probabilities of every response to every prompt."""

    data: Dataset
    test: Dataset
    facts: dict[str, Array]
    policy: Float[Array, "row text"] | None


def make_data(ground: GroundConfig, made: Mapping[str, PyTree]) -> Labelled:
    """Collect the data as its dials say, and label it."""
    (world, rewards, _), sft, written = made["golden"], made["base"][0], made["world"][1]
    key = stream(ground.key, Stream.DATA)
    corpus, policy, facts = collect(ground.task, ground.data, made["pool"], written.corpus, key)
    # One program for both parts: it compiles once.
    texts = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), corpus, written.held_out)
    labelled, reward = label(world, sft, ground.labeler, texts, stream(ground.key, Stream.LABELS))
    count = ground.data.pairs
    data, test = (
        jax.tree.map(lambda x, part=part: x[part], labelled)
        for part in (slice(count), slice(count, None))
    )
    data = balanced(data)
    facts |= described(data, reward[:count], rewards)
    return Labelled(data, test, facts, policy if ground.task.enumerable else None)


def rescore(ground: GroundConfig, made: Mapping[str, PyTree]) -> Dataset:
    """D_golden with reference scores by the policy's own SFT, where the data stand on one of another shape."""
    data = made["data"].data
    scores = logprob.score_pairs(made["sft"][0], data.pairs)
    return eqx.tree_at(lambda d: d.reference, data, scores)


def own_data(made: Mapping[str, PyTree]) -> Dataset:
    """D_golden as the policy learns from it."""
    return made["scores"] or made["data"].data


def train_proxy(
    ground: GroundConfig, made: Mapping[str, PyTree]
) -> tuple[AbstractProxy, dict[str, Array]]:
    """The proxy, trained on D_golden and tested against the golden reward on held-out pairs."""
    data, test, *_ = made["data"]
    key = stream(ground.key, Stream.PROXY)
    proxy = ground.proxy.train(key, ground.model, made["base"][0], data.pairs)
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
    sft, world, corpus = made["base"][0], made["golden"][0], made["world"][1].corpus
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
    answers = decode.sample(train.present(supply, state), prompts, keys, time, count=1).response
    answers = jax.tree.map(lambda x: x[:, 0], answers)
    reward = jax.vmap(world.reward)(prompts, answers)
    facts = {"baseline_reward": jnp.mean(reward), "baseline_diverged_step": state.diverged_step}
    return Opponent(prompts, answers, reward), facts


def find_optimum(
    ground: GroundConfig, made: Mapping[str, PyTree]
) -> tuple[Optimum, dict[str, Array]]:
    """The exact IPO optimum, sft exp(p(y > mu) / beta) / Z (arXiv 2310.12036, theorem 2): mu is the data policy, and p
    the labeler's preference where it does not skip. Measured: how far SFT is from it, and the share of its mass on
    responses in D_golden's labelled pairs."""
    beta = ground.optimum_beta
    assert beta is not None
    task, (world, *_), labelled = ground.task, made["golden"], made["data"]
    prompts = enumeration.all_prompts(task.vocabulary, task.prompt_length)
    every = enumeration.all_responses(task.vocabulary, task.response_length)
    reference = exact.log_table(made["start"], prompts, every)

    def one(row: tuple) -> Float[Array, " response"]:
        prompt, reference, data = row
        preference = exact.preference_matrix(ground.labeler, world, prompt, every)
        return exact.ipo_optimum(reference, preference, data, beta)

    optimum = Optimum(prompts, every, jax.lax.map(one, (prompts, reference, labelled.policy)))
    pairs = labelled.data.pairs
    rows = enumeration.prompt_index(pairs.prompt, task.vocabulary)
    held = jnp.zeros(reference.shape, dtype=bool)
    for text in (pairs.winner, pairs.loser):
        place = enumeration.response_index(text, task.vocabulary)
        held = held.at[rows, place].max(pairs.weight > 0)
    inside = jnp.sum(jnp.where(held, jnp.exp(optimum.policy), 0.0), axis=1)
    distance = jax.vmap(exact.total_variation)(reference, optimum.policy)
    facts = {
        "sft_optimum_distance": jnp.mean(distance),
        "data_support_mass": jnp.mean(inside),
    }
    return optimum, facts


def record(ground: GroundConfig, made: Mapping[str, PyTree]) -> Made:
    """The online run that source or evaluation draw on: the very one of an experiment with the same plan."""
    assert ground.recorded is not None
    golden = GoldenPreference(made["golden"][0])
    teacher = golden if ground.recorded.teacher == "golden" else made["proxy"][0]
    supply = Supply(own_data(made), made["start"], teacher)
    return recorded_run.make(ground.recorded, supply, golden, ground.training_key)


def cut_windows(
    ground: GroundConfig, made: Mapping[str, PyTree]
) -> tuple[Windows, dict[str, Array]]:
    """Windows of the recorded stream. Measured: how often the proxy agrees with the golden reward in each."""
    proxy = made["proxy"][0]
    windows = made["recorded"].recording.windows(Supply(own_data(made), made["start"], proxy))
    pairs = windows.pairs
    margin = proxy.margin(pairs.prompt, pairs.winner, pairs.loser)
    return windows, numbered("proxy_stream_accuracy", windows.accuracy(margin))


def prepare(ground: GroundConfig, made: Mapping[str, PyTree]) -> tuple[PyTree, dict[str, Array]]:
    """What the source needs made of a recorded run."""
    assert ground.source is not None
    supply = Supply(own_data(made), made["start"], made["proxy"][0])
    world, key = made["golden"][0], ground.training_key
    given = Given(supply, made["recorded"], world, ground.labeler, key)
    prepared, facts = ground.source.prepare(given)
    return prepared, facts | {"recorded_diverged_step": made["recorded"].diverged_step}


class Stage(NamedTuple):
    """A stage's name, the stages and the fields of `GroundConfig` it depends on, and what it does. Where the field
    ``only_with`` is None there is nothing to do, and None is its result. A stage that makes what another makes, of the
    same parts, is ``like`` that one, and their results are found at the same address. What is done on the ``host`` is
    no compiled program. The result of an ``exact`` stage is compared with runs bit for bit, so that it is found only
    by processes that round as this one does."""

    name: str
    after: tuple[str, ...]
    fields: tuple[str, ...]
    make: Callable[[GroundConfig, Mapping[str, PyTree]], PyTree]
    only_with: str | None = None
    like: str | None = None
    host: bool = False
    exact: bool = False

    def needed(self, ground: GroundConfig) -> bool:
        """Whether there is anything to do."""
        return self.only_with is None or getattr(ground, self.only_with) is not None


STAGES = (
    Stage("material", (), ("task", "content"), load_material, "content", host=True),
    Stage(
        "world",
        ("material",),
        ("task", "data.pairs", "data.held_out", "data.candidates", "seed"),
        draw_world,
    ),
    Stage("sft", ("world",), ("model", "sft"), fine_tune),
    Stage("start", ("sft",), ("tabular", "lora"), start_policy),
    Stage("base", ("world",), ("base_model", "sft"), fine_tune_base, like="sft"),
    Stage("golden", ("base",), (), standardise),
    Stage("pool", ("golden",), ("data.dialled", "data.mixed", "data.rows"), gather),
    Stage("data", ("pool",), ("labeler", "data"), make_data),
    Stage("scores", ("sft", "data"), (), rescore, "baseline_model"),
    Stage("proxy", ("data",), ("trained_proxy",), train_proxy),
    Stage("baseline", ("golden",), ("baseline", "prompts"), train_baseline),
    Stage("optimum", ("start", "data"), ("optimum_beta",), find_optimum, "optimum_beta"),
    Stage("recorded", ("start", "scores", "proxy"), ("recorded",), record, "recorded", exact=True),
    Stage("stream", ("recorded",), (), cut_windows, "stream", exact=True),
    Stage("prepared", ("recorded",), ("source",), prepare, "source", exact=True),
)


def check(ground: GroundConfig, name: str, result: PyTree) -> None:
    """Refuse a stage's result that cannot be used: raises `InvalidInput` if the data are not what was asked for."""
    if name != "data":
        return
    facts = {key: float(value) for key, value in result.facts.items()}
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
    start, facts = made["start"], made["sft"][1] | golden_facts | made["data"].facts
    facts |= {"parameters": np.asarray(float(shared_weights.size(start)))}
    found = []
    for name in ("proxy", "baseline", "prepared", "stream", "optimum"):
        result, more = made[name] or (None, {})
        found.append(result)
        facts |= more
    proxy, opponent, *rest = found
    return Ground(world, start, own_data(made), proxy, opponent, facts, *rest)


def fingerprints(ground: GroundConfig) -> dict[str, str]:
    """The content address of each stage's result: the stages before it, and everything else that it depends on, which
    is its part of the config, files that this names, code, libraries and settings (`testbed.numerics`)."""
    addresses: dict[str, str] = {}
    common, bits = _code_fingerprint(), numerics.bits()
    for stage in STAGES:
        before = [addresses[name] for name in stage.after]
        parts = [attrgetter(field)(ground) for field in stage.fields]
        kind = stage.like or stage.name
        beside = [common, *user_code.sources(parts), *([bits] if stage.exact else ())]
        addresses[stage.name] = config.fingerprint(kind, *beside, *before, *parts)
    return addresses


def identity(ground: GroundConfig) -> str:
    """Names everything that the bits of a run on a ground depend on but its own training."""
    return config.fingerprint(_code_fingerprint(), numerics.bits(), *fingerprints(ground).values())


def _corpus_keys(ground: GroundConfig) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """Of the corpus and of the held-out pairs."""
    return stream(ground.key, Stream.PROMPTS), stream(ground.key, Stream.HELD_OUT)


def _code_fingerprint() -> str:
    """What every stage depends on beside its config: the engine's and the worlds' code, libraries, settings."""
    return _code_under(numerics.snapshot())


@cache
def _code_under(snapshot: tuple[Any, ...]) -> str:
    """`_code_fingerprint` under the present settings, of which there is a ``snapshot``: made once for all worlds."""
    return config.fingerprint(_source_hash(), numerics.settings())


@cache
def _source_hash() -> str:
    """Hash of the source of the engine and the worlds: results of other code are other results."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for folder in (here, here.parent / "envs"):
        for path in sorted(code_files.package_files(folder)):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()

"""Collection of the preference data: the writers' texts, the texts that a data policy draws, and their labels."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from testbed import decode, logprob
from testbed.batches import choose, long_map
from testbed.data.spec import (
    Coverage,
    DataSpec,
    Dials,
    Pool,
    PoolSpec,
    TextCounts,
    covers,
    data_policy,
    draw,
    quality,
    solve,
)
from testbed.environment import AbstractTask, World
from testbed.exact import enumeration, quantities
from testbed.logprob import Policy
from testbed.preference import AbstractLabeler, View
from testbed.source import Dataset
from testbed.streams import Stream, stream
from testbed.transformer import Transformer
from testbed.types import Prompt, Response, Scalar, arrange, each_with_prompt


class Corpus(eqx.Module):
    """Prompts and two responses to each, unlabelled."""

    prompts: Prompt
    first: Response
    second: Response


class Written(eqx.Module):
    """The writers' texts: pairs for SFT and by default for D_golden, held-out pairs, and further ``candidates`` (row,
    candidate) for the first prompts, from which coverage is estimated; there may be none."""

    corpus: Corpus
    held_out: Corpus
    candidates: Response


def write(world: World, spec: TextCounts, corpus: PRNGKeyArray, held_out: PRNGKeyArray) -> Written:
    """The writers' texts, from a key for the corpus and one for the held-out pairs."""
    rows = spec.rows
    keys = [_numbered(corpus, spec.pairs), _numbered(held_out, spec.held_out)]
    prompts, texts = _candidate_keys(keys[0][:rows], spec.candidates)
    # One call for all texts: the writers' program is the largest one to compile.
    written = _write(world, jnp.concatenate([*keys, prompts]), jnp.concatenate([*keys, texts]))
    ends = (spec.pairs, spec.pairs + spec.held_out)
    pairs, test, more = (
        jax.tree.map(lambda x, part=part: x[part], written)
        for part in (slice(ends[0]), slice(*ends), slice(ends[1], None))
    )
    return Written(pairs, test, _candidates(more, rows, spec.candidates))


def make_pool(
    task: AbstractTask,
    world: World,
    sft: Transformer,
    spec: PoolSpec,
    written: Written,
    corpus: PRNGKeyArray,
    key: PRNGKeyArray,
) -> Pool:
    """The pool of a data policy. If responses can be enumerated, the pool holds all of them. Otherwise it holds
    candidates by the writers for every prompt of the data, and as many by the SFT policy if they are mixed in; if the
    data are the writers' texts, it holds the existing candidates. ``corpus`` is the key that the corpus was made
    with."""
    if task.enumerable:
        return _enumerated_pool(task, world, sft)
    texts = written.candidates
    if spec.dialled:
        keys = _candidate_keys(_numbered(corpus, spec.rows), spec.candidates)
        texts = _candidates(_write(world, *keys), spec.rows, spec.candidates)
    rows, count = texts.length.shape
    prompts = jax.tree.map(lambda x: x[:rows], written.corpus.prompts)
    if spec.mixed:
        keys = jax.random.split(stream(key, Stream.CANDIDATES), rows)
        samples = decode.sample(sft, prompts, keys, task.response_length, count).response
        texts = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), texts, samples)

    def score(prompt: Prompt, text: Response) -> Scalar:
        one = jax.tree.map(lambda x: x[None], prompt)
        return logprob.score(sft, one, jax.tree.map(lambda x: x[None, None], text))[0, 0]

    reward = _each_text(world.reward, prompts, texts)
    likelihood = _each_text(score, prompts, texts) if spec.dialled else jnp.zeros_like(reward)
    return Pool.sampled(texts, reward, likelihood, count)


def collect(
    task: AbstractTask, spec: DataSpec, pool: Pool | None, corpus: Corpus, key: PRNGKeyArray
) -> tuple[Corpus, Float[Array, "row text"] | None, dict[str, Array]]:
    """The texts of D_golden, unlabelled; the data policy that they are drawn from, as log-probabilities of a pool's
    texts (of the texts kept for each prompt, if their number is limited); and measured facts. ``corpus`` holds the
    writers' texts, which are the data if there is no pool."""
    if pool is None:
        return corpus, None, {}
    dials = solve(spec, pool)
    policy = data_policy(spec, pool, dials)
    reached = covers(pool, policy.density)
    facts = {"reached_quality": quality(pool, policy), "reached_coverage": reached.coverage}
    if not spec.dialled:
        return corpus, policy.density, facts | _facts(task, reached, dials)
    rows = jnp.arange(spec.pairs) % spec.rows
    prompts = jax.tree.map(lambda x: x[rows], corpus.prompts)
    if task.enumerable:
        rows = enumeration.prompt_index(prompts, task.vocabulary)
    drawn = draw(spec, pool, policy, rows, stream(key, Stream.SAMPLES))
    # The quality and coverage that the dials reach are properties of the policy; the coverage of the target is measured
    # on the texts drawn from it.
    facts |= _facts(task, covers(pool, drawn.density), dials)
    return Corpus(prompts, drawn.first, drawn.second), drawn.density, facts


def label(
    world: World, sft: Policy, labeler: AbstractLabeler, corpus: Corpus, key: PRNGKeyArray
) -> tuple[Dataset, Float[Array, "n 2"]]:
    """Labelled pairs, and the golden reward of both responses in SFT standard deviations."""
    prompts = corpus.prompts
    both = jax.tree.map(lambda a, b: jnp.stack([a, b], axis=1), corpus.first, corpus.second)

    def perceive(prompt: Prompt, response: Response) -> tuple[View, Scalar]:
        return labeler.view(world, prompt, response), world.reward(prompt, response)

    perceived = _each_text(perceive, prompts, both)
    first, second = (jax.tree.map(lambda x, i=i: x[:, i], perceived) for i in range(2))
    # Identical texts get identical rewards: rounding may make the rewards computed in two lanes differ.
    same = jnp.all(corpus.first.tokens == corpus.second.tokens, axis=1)
    second = choose(same, first, second)
    (first, first_reward), (second, second_reward) = first, second
    keys = jax.random.split(key, prompts.length.shape[0])
    labels = jax.vmap(labeler)(keys, first, second)
    pairs = jax.vmap(arrange)(labels, prompts, corpus.first, corpus.second)
    margin = first_reward - second_reward
    margin = jnp.where(labels.preference > 0.5, margin, -margin)
    data = Dataset(pairs, logprob.score_pairs(sft, pairs), margin)
    return data, jnp.stack([first_reward, second_reward], axis=1)


def balanced(data: Dataset) -> Dataset:
    """The data with weights that average one, so that a mean over pairs is the mean over the labelled pairs."""
    weight = data.pairs.weight
    weight = weight / jnp.maximum(jnp.mean(weight), 1.0 / weight.shape[0])
    return eqx.tree_at(lambda d: d.pairs.weight, data, weight)


def described(
    data: Dataset, reward: Float[Array, "n 2"], sft: Float[Array, " sample"]
) -> dict[str, Array]:
    """Measured facts about labelled data, given its golden rewards and those of SFT samples."""
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


def _numbered(key: PRNGKeyArray, count: int) -> Key[Array, " n"]:
    """Keys 0 to count - 1: a longer list begins with the shorter one."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))


def _candidate_keys(
    keys: Key[Array, " row"], count: int
) -> tuple[Key[Array, " n"], Key[Array, " n"]]:
    """Keys of prompts and of texts, two candidates each, for ``count`` candidates to each row's prompt."""
    twos = jnp.arange((count + 1) // 2)
    texts = jax.vmap(lambda k: jax.vmap(jax.random.fold_in, (None, 0))(k, twos))(
        jax.vmap(lambda k: stream(k, Stream.CANDIDATES))(keys)
    )
    return jnp.repeat(keys, twos.shape[0]), texts.reshape(-1)


def _candidates(written: Corpus, rows: int, count: int) -> Response:
    """The texts written with `_candidate_keys`, (row, candidate)."""

    def arranged(first: Array, second: Array) -> Array:
        both = jnp.stack([first, second], axis=1)
        return both.reshape(rows, 2 * ((count + 1) // 2), *first.shape[1:])[:, :count]

    return jax.tree.map(arranged, written.first, written.second)


def _write(world: World, prompts: Key[Array, " n"], texts: Key[Array, " n"]) -> Corpus:
    """A prompt and two responses of the writers from each pair of keys."""

    names = (Stream.FIRST_RESPONSE, Stream.SECOND_RESPONSE)
    asked = long_map(lambda key: world.prompts(stream(key, Stream.PROMPTS)), prompts)
    twice = jax.vmap(lambda key: jnp.stack([stream(key, name) for name in names]))(texts)
    both = world.writers.write(twice, asked)
    return Corpus(asked, *(jax.tree.map(lambda x, i=i: x[:, i], both) for i in range(2)))


def _enumerated_pool(task: AbstractTask, world: World, sft: Transformer) -> Pool:
    prompts = enumeration.all_prompts(task.vocabulary, task.prompt_length)
    every = enumeration.all_responses(task.vocabulary, task.response_length)
    prompts, every = jax.tree.map(jnp.asarray, (prompts, every))
    rows = prompts.length.shape[0]
    return Pool.enumerated(
        jax.tree.map(lambda x: jnp.broadcast_to(x, (rows, *x.shape)), every),
        quantities.tabulate(world.reward, prompts, every),
        quantities.tabulate(world.writers.log_likelihood, prompts, every),
        quantities.log_table(sft, prompts, every),
    )


def _each_text(
    function: Callable[[Prompt, Response], PyTree[Array]], prompts: Prompt, texts: Response
) -> PyTree[Array]:
    """A function of prompt and response, applied to every text (row, text) of every row."""
    rows, count = texts.length.shape
    found = long_map(lambda pair: function(*pair), each_with_prompt(prompts, texts))
    return jax.tree.map(lambda x: x.reshape(rows, count, *x.shape[1:]), found)


def _facts(task: AbstractTask, measured: Coverage, dials: Dials) -> dict[str, Array]:
    """Facts about a data policy. Coverage and the facts after it are estimates unless ``coverage_is_exact``."""
    return {
        "coverage_is_exact": jnp.asarray(float(task.enumerable)),
        "coverage": measured.coverage,
        "chi_square": measured.chi_square,
        "max_ratio": measured.max_ratio,
        "support": measured.support,
        "data_temperature": 1.0 / (1.0 + dials.kappa),
        "data_tilt": dials.tilt,
    }


def _distinct(tokens: Int[Array, "n time"]) -> Float[Array, ""]:
    """Number of different texts, compared by 32-bit hashes."""
    factors = jax.random.bits(jax.random.key(0), (tokens.shape[1],)) | 1
    hashed = jnp.sort(jnp.sum((tokens.astype(jnp.uint32) + 1) ** 3 * factors[None], axis=1))
    return 1.0 + jnp.sum(hashed[1:] != hashed[:-1])

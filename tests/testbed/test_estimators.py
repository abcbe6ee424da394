"""Policy gradients against the gradient of what they ascend, summed over every response of a world that can be listed.

Two ways. *Enumerated*: every rollout that can be written, weighted by its probability, gives the exact expectation of
an estimator's gradient. *Sampled*: 102,400 prompts through the method's rollouts in 200 batches; with 199 degrees of
freedom a coordinate of an unbiased estimator passes ``|t| > 4.5`` with probability 1.2e-5, so the 60 of a table do
together with at most 8e-4, and the 456 of the transformer, at ``|t| > 5``, with 6e-4. Keys are fixed.
"""

import functools
import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import UniformPrompts, UniformWriters, advance, init, model

from testbed import decode, logprob
from testbed.environment import AbstractGolden, World
from testbed.exact import quantities
from testbed.exact.enumeration import all_prompts, all_responses, prompt_index, response_index
from testbed.methods.base import AbstractPolicyGradient, Rollouts
from testbed.methods.grpo import Grpo
from testbed.methods.hypo import Hypo
from testbed.methods.nash_md import NashMd
from testbed.methods.ppo import Ppo
from testbed.methods.reinforce import Reinforce
from testbed.methods.rloo import Rloo
from testbed.optimiser import OptimiserConfig
from testbed.policies import tabular
from testbed.policies.tabular import Tabular
from testbed.preference import GoldenPreference
from testbed.source import Dataset, Ledger, TrainingInputs
from testbed.sources.online import Online
from testbed.train import TrainConfig
from testbed.transformer_config import TransformerConfig
from testbed.types import Pair, Prompt, Response, Scalar

VOCABULARY, TIME, BETA = 3, 3, 0.3
PROMPTS, RESPONSES = all_prompts(VOCABULARY, 2), all_responses(VOCABULARY, TIME)
ASKED, COUNT = len(PROMPTS.length), len(RESPONSES.length)
BATCHES, BATCH = 200, 512
NET = TransformerConfig(width=8, layers=1, heads=2, key_value_heads=1, mlp_width=8)


class Listed(AbstractGolden):
    """A reward read from a table."""

    table: jax.Array

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        place = response_index(response, VOCABULARY)
        return self.table[prompt_index(prompt, VOCABULARY), place]


def table(seed: int) -> Tabular:
    logits = np.random.default_rng(seed).normal(size=(ASKED, COUNT))
    return Tabular(jnp.asarray(logits, jnp.float32), VOCABULARY, TIME)


def net(seed: int):
    return jax.tree.map(jnp.asarray, model(seed, NET, VOCABULARY))


REWARD = np.random.default_rng(9).normal(size=(ASKED, COUNT)).astype(np.float32)
#: The data's preferred and other response to each prompt.
WINNERS, LOSERS = [3, 8, 0, 12], [5, 0, 1, 2]
#: The reward that a method is given: over that of the preferred response.
GAIN = REWARD - REWARD[np.arange(ASKED), WINNERS][:, None]


def training_inputs(reference: eqx.Module) -> TrainingInputs:
    """One pair a prompt; the reward of the table as teacher."""
    some = [jax.tree.map(lambda x, i=i: x[jnp.array(i)], RESPONSES) for i in (WINNERS, LOSERS)]
    pairs = Pair(PROMPTS, *some, jnp.ones(ASKED), jnp.ones(ASKED))
    world = World(
        UniformPrompts(),
        UniformWriters(),
        Listed(jnp.asarray(REWARD)),
        jnp.array(0.0),
        jnp.array(1.0),
    )
    data = Dataset(pairs, logprob.score_pairs(reference, pairs), jnp.zeros(ASKED))
    return TrainingInputs(data, reference, GoldenPreference(world))


def every(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Each prompt with every tuple of ``count`` responses: the places of both in their lists."""
    tuples = np.array(list(itertools.product(range(COUNT), repeat=count)))
    return np.repeat(np.arange(ASKED), len(tuples)), np.tile(tuples, (ASKED, 1))


@functools.partial(jax.jit, static_argnames="count")
def enumerated(method, policy, writer, critic, given: TrainingInputs, reward, count: int):
    """The gradient of the method's loss by the policy, expected over what ``writer`` writes: one prompt an item, and
    every item that there can be."""
    rows, index = every(count)
    prompts = jax.tree.map(lambda x: x[rows], PROMPTS)
    responses = jax.tree.map(lambda x: x[index], RESPONSES)
    written = decode.Sample(responses, logprob.score_tokens(writer, prompts, responses))
    spent, gains = Ledger.zero(len(rows)), reward[rows[:, None], index]
    rollouts = Rollouts.judged(given, jnp.asarray(rows), written, gains, spent)
    log_chance = quantities.log_table(writer, PROMPTS, RESPONSES)[rows[:, None], index]
    chance = jnp.exp(jnp.sum(log_chance, axis=1)) / ASKED

    def mean(policy):
        each = jax.vmap(
            lambda one: method.value(
                policy, critic, given, jax.tree.map(lambda x: jnp.expand_dims(x, 0), one)
            )
        )(rollouts)
        return chance @ each

    return jax.grad(mean)(policy)


@jax.jit
def ascended(policy, reference, reward, beta):
    """Minus the gradient of mean E[reward] - beta KL(policy || reference): what a loss should have."""

    def loss(policy):
        ours, theirs = (quantities.log_table(p, PROMPTS, RESPONSES) for p in (policy, reference))
        gains = jax.vmap(quantities.value)(ours, reward)
        return jnp.mean(beta * jax.vmap(quantities.kl)(ours, theirs) - gains)

    return jax.grad(loss)(policy)


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(tree)])


def angle(a: np.ndarray, b: np.ndarray) -> float:
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def critic_of(method, policy) -> Any:
    """A value function that knows nothing, at random: it must not bias a thing where lambda is 1."""
    head = method.critic(policy)
    rng = np.random.default_rng(4)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), head)


def traced(method: AbstractPolicyGradient):
    return jax.tree.map(jnp.asarray, method)


def of(method, policy, reference, writer=None, reward=GAIN, count: int | None = None):
    """`enumerated`, flat."""
    writer = policy if writer is None else writer
    count = method.count if count is None else count
    critic = critic_of(method, policy)
    found = enumerated(
        traced(method),
        policy,
        writer,
        critic,
        training_inputs(reference),
        jnp.asarray(reward),
        count,
    )
    return flat(found)


@functools.cache
def opponents(mixing: float) -> jax.Array:
    """P(y > y') - 1/2 of every y, expected over the mixture of table 0 and table 1."""
    mixed = (1 - mixing) * table(0).logits + mixing * table(1).logits
    chance = np.asarray(jax.nn.softmax(mixed))
    wins = 1 / (1 + np.exp(REWARD[:, None, :] - REWARD[:, :, None]))
    return jnp.asarray(np.einsum("pab,pb->pa", wins, chance) - 0.5, jnp.float32)


#: Those whose expected gradient is the objective's, up to a factor.
UNBIASED = {
    "Reinforce": (Reinforce(beta=BETA, baseline="none"), 1.0),
    "Rloo": (Rloo(beta=BETA, group=2), 1.0),
    "Ppo": (Ppo(beta=BETA, gae_lambda=1.0, whiten=False, shared_trunk=False), 1.0),
    "Dr. Grpo": (Grpo(beta=BETA, group=2, normalise_std=False, normalise_length=False), 0.5),
}


@pytest.mark.parametrize("policy", [table, net])
@pytest.mark.parametrize("name", UNBIASED)
def test_expected_gradients_are_the_objectives(name: str, policy) -> None:
    method, factor = UNBIASED[name]
    ours, theirs = policy(0), policy(1)
    true = flat(ascended(ours, theirs, REWARD, BETA))
    assert np.abs(true).max() > 0.02
    np.testing.assert_allclose(of(method, ours, theirs), factor * true, atol=3e-6)


def test_expected_gradient_of_nash_md_is_that_of_its_duel() -> None:
    """The opponent held fixed, the win probability is a reward like any other."""
    for mixing in (0.0, 0.3, 1.0):
        reward = opponents(mixing)
        found = of(NashMd(beta=BETA, mixing=mixing), table(0), table(1), reward=reward)
        np.testing.assert_allclose(
            found, flat(ascended(table(0), table(1), reward, BETA)), atol=3e-6
        )


def batch_gradients(method, policy, reference) -> np.ndarray:
    """Gradients of `BATCHES` batches that the method's rollout function wrote: (batch, coordinate)."""
    given, critic = training_inputs(reference), critic_of(method, policy)
    rows = jnp.arange(BATCH) % ASKED

    @jax.jit
    def run(method, policy, critic, given, keys):
        def one(key):
            texts = method.request(BATCH).rollout(given, policy, rows, key)
            return jax.grad(lambda p: method.value(p, critic, given, texts))(policy)

        return jax.lax.map(one, keys)

    keys = jax.random.split(jax.random.key(3), BATCHES)
    found = run(traced(method), policy, critic, given, keys)
    return np.concatenate(
        [np.asarray(x, np.float64).reshape(BATCHES, -1) for x in jax.tree.leaves(found)], axis=1
    )


def furthest(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest distance of a mean from what is expected, in its standard errors."""
    error = found.std(axis=0, ddof=1) / np.sqrt(BATCHES)
    moves = error > 1e-7
    assert np.abs(found.mean(axis=0) - expected)[~moves].max(initial=0.0) < 1e-5
    return float(np.max(np.abs(found.mean(axis=0) - expected)[moves] / error[moves]))


def along(found: np.ndarray, expected: np.ndarray) -> float:
    """Distance of the mean's length along an expected gradient from that gradient's, in standard errors: one number,
    beyond 3 by chance in 0.3% of keys."""
    lengths = found @ expected / np.linalg.norm(expected)
    error = lengths.std(ddof=1) / np.sqrt(BATCHES)
    return float(abs(lengths.mean() - np.linalg.norm(expected)) / error)


@pytest.mark.parametrize("name", ["Reinforce", "Reinforce batch", "Rloo", "Ppo", "Dr. Grpo"])
def test_sampled_gradients_are_unbiased(name: str) -> None:
    method, factor = {"Reinforce batch": (Reinforce(beta=BETA), 1.0), **UNBIASED}[name]
    true = factor * flat(ascended(table(0), table(1), REWARD, BETA))
    found = batch_gradients(method, table(0), table(1))
    assert furthest(found, true) < 4.5
    assert along(found, true) < 3
    # The test could tell a tenth of the gradient.
    assert furthest(found, 1.1 * true) > 6


@pytest.mark.parametrize("name", ["Rloo", "Ppo"])
def test_sampled_gradients_of_a_transformer_are_unbiased(name: str) -> None:
    method, _ = UNBIASED[name]
    true = flat(ascended(net(0), net(1), REWARD, BETA))
    assert true.size == 456
    found = batch_gradients(method, net(0), net(1))
    assert furthest(found, true) < 5
    assert along(found, true) < 3


def test_sampled_duels_are_unbiased() -> None:
    method = NashMd(beta=BETA, mixing=0.3)
    true = flat(ascended(table(0), table(1), opponents(0.3), BETA))
    found = batch_gradients(method, table(0), table(1))
    assert furthest(found, true) < 4.5
    assert along(found, true) < 3
    # Against the policy itself, or the reference, the gradient is another.
    for mixing in (0.0, 1.0):
        other = flat(ascended(table(0), table(1), opponents(mixing), BETA))
        lengths = found @ (other - true)
        error = lengths.std(ddof=1) / np.sqrt(BATCHES)
        assert abs(lengths.mean() - other @ (other - true)) > 4 * error


def test_known_biases() -> None:
    """What normalisations and bootstraps expect, by enumeration; samples agree with that and not with the objective.
    Degrees between the two; the critic is random."""
    true = flat(ascended(table(0), table(1), REWARD, BETA))
    measured = {}
    for name, method in {
        "std": Grpo(beta=BETA, group=2, normalise_length=False),
        "length": Grpo(beta=BETA, group=2, normalise_std=False),
        "lambda": Ppo(beta=BETA, gae_lambda=0.5, whiten=False),
    }.items():
        expected = of(method, table(0), table(1))
        found = batch_gradients(method, table(0), table(1))
        assert furthest(found, expected) < 4.5
        best = true * (true @ expected) / (true @ true)
        # No learning rate makes up for it.
        assert furthest(found, best) > 15
        measured[name] = angle(expected, true)
    assert measured == pytest.approx({"std": 21, "length": 12, "lambda": 43}, abs=1)


def test_group_of_two_with_std_sees_only_the_order() -> None:
    """By hand: returns a > b give +-(a - b)/2 over (a - b)/sqrt(2), whatever their distance."""
    method = Grpo(beta=0.0, group=2, normalise_length=False)
    near = of(method, table(0), table(1))
    far = of(method, table(0), table(1), reward=100.0 * GAIN)
    np.testing.assert_allclose(near, far, atol=1e-3)


def test_stale_texts() -> None:
    """Written by another policy: ratios of whole responses make up for it exactly, the KL penalty included; with
    ratios of tokens, clipped ones or none it is another gradient (degrees)."""
    ours, theirs, writer = table(0), table(1), table(2)
    true = flat(ascended(ours, theirs, REWARD, BETA))
    for method in (Reinforce(beta=BETA, baseline="none"), Rloo(beta=BETA, group=2)):
        np.testing.assert_allclose(of(method, ours, theirs, writer), true, atol=3e-6)
    duel = NashMd(beta=BETA)
    np.testing.assert_allclose(of(duel, ours, theirs, writer), true, atol=3e-6)
    tokens = Grpo(beta=BETA, group=2, normalise_std=False, normalise_length=False, clip=1e6)
    by_token = 2.0 * of(tokens, ours, theirs, writer)
    clipped = 2.0 * of(eqx.tree_at(lambda m: m.clip, tokens, 0.2), ours, theirs, writer)
    assert [angle(by_token, true), angle(clipped, true)] == pytest.approx([48, 68], abs=1)

    # No ratio: as if the policy had written what it did not.
    def plain(policy: Tabular) -> Scalar:
        rho = jax.lax.stop_gradient(
            jax.nn.log_softmax(policy.logits) - jax.nn.log_softmax(theirs.logits)
        )
        returns = jax.nn.softmax(writer.logits) * (REWARD - BETA * rho)
        return -jnp.mean(jnp.sum(returns * jax.nn.log_softmax(policy.logits), axis=1))

    assert angle(flat(jax.grad(plain)(ours)), true) > 45


@functools.partial(jax.jit, static_argnames="forward")
def next_token_kl(policy: Tabular, reference: Tabular, weight: Tabular, forward: bool) -> Scalar:
    """Sum over unfinished prefixes of their probability under ``weight`` times the KL between next-token
    distributions; mean over prompts."""

    def trees(model: Tabular) -> jax.Array:
        grown = jax.vmap(lambda row: tabular.tree(row, VOCABULARY, TIME))(model.logits)
        return jax.nn.log_softmax(grown)

    ours, theirs, by = trees(policy), trees(reference), trees(weight)
    reach = [jnp.zeros(ASKED)]
    for node in range(ours.shape[1]):  # children of a prefix stand behind it, level by level
        if len(reach) < ours.shape[1]:
            reach += [reach[node] + by[:, node, token] for token in range(1, VOCABULARY)]
    first, second = (theirs, ours) if forward else (ours, theirs)
    each = jnp.sum(jnp.exp(first) * (first - second), axis=-1)
    return jnp.mean(jnp.sum(jnp.exp(jnp.stack(reach, axis=1)) * each, axis=1))


def test_what_kl_penalties_expect() -> None:
    """The table of `testbed.methods.base`, and that nothing but the penalty in the reward is the KL's gradient."""
    ours, theirs, nothing = table(0), table(1), jnp.zeros_like(REWARD)
    true = flat(ascended(ours, theirs, nothing, 1.0))
    kl = float(jnp.mean(logprob.exact_kl(ours, theirs, PROMPTS)))
    assert float(next_token_kl(ours, theirs, ours, False)) == pytest.approx(kl, rel=1e-5)

    def penalty(kind: str) -> np.ndarray:
        method = Reinforce(beta=1.0, kl=kind, baseline="none")
        return of(method, ours, theirs, reward=nothing)

    np.testing.assert_allclose(penalty("reward"), true, atol=3e-6)
    np.testing.assert_allclose(penalty("k1"), 0.0, atol=3e-6)
    for kind, forward in (("k2", False), ("k3", True)):
        held = jax.grad(lambda p, f=forward: next_token_kl(p, theirs, ours, f))(ours)
        np.testing.assert_allclose(penalty(kind), flat(held), atol=1e-5)
    measured = [
        (np.linalg.norm(penalty(kind)) / np.linalg.norm(true), angle(penalty(kind), true))
        for kind in ("k2", "k3")
    ]
    assert kl == pytest.approx(0.71, abs=0.01)
    expected = [(0.92, 15.8), (1.07, 28.5)]
    np.testing.assert_allclose(measured, expected, atol=0.1)


def test_whole_responses_of_one_token_make_k2_exact() -> None:
    """Where there is one token, its prefix has nothing to hide."""
    short = [Tabular(m.logits[:, :3], VOCABULARY, 1) for m in (table(0), table(1))]
    prompts = jax.tree.map(lambda x: jnp.repeat(x, 3, axis=0), PROMPTS)
    texts = jax.tree.map(
        lambda x: jnp.tile(x, (ASKED, *[1] * (x.ndim - 1)))[:, None], all_responses(VOCABULARY, 1)
    )

    def k2(policy: Tabular) -> Scalar:
        ours, theirs = (
            logprob.score_tokens(m, prompts, texts)[:, 0, 0] for m in (policy, short[1])
        )
        chance = jnp.exp(logprob.score_tokens(short[0], prompts, texts))[:, 0, 0] / ASKED
        return chance @ (0.5 * (ours - theirs) ** 2)

    def true(policy: Tabular) -> Scalar:
        return jnp.mean(logprob.exact_kl(policy, short[1], PROMPTS))

    found, expected = jax.jit(lambda policy: (jax.grad(k2)(policy), jax.grad(true)(policy)))(
        short[0]
    )
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-6)


@pytest.mark.parametrize("group", [1, 2])
def test_penalty_of_hypo_is_the_kl(group: int) -> None:
    """Value and gradient, sampled; 200 batches of 512."""
    ours, theirs = table(0), table(1)
    given, rows = training_inputs(theirs), jnp.arange(BATCH) % ASKED
    method = traced(Hypo(kl_weight=1.0, group=group))

    @jax.jit
    def run(method, policy, given, steps):
        batch = method.request(BATCH).rollout(given, policy, rows, jax.random.key(5))

        def one(step):
            ready = method.prepare(batch, given, policy, jax.random.key(6), step)

            def penalty(p):
                plain = method.loss.value(p, None, given, ready.pairs)
                return method.value(p, None, given, ready) - plain

            return jax.value_and_grad(penalty)(policy)

        return jax.lax.map(one, steps)

    value, gradient = run(method, ours, given, jnp.arange(BATCHES))
    kl = np.mean(logprob.exact_kl(ours, theirs, PROMPTS))
    assert furthest(np.asarray(value, np.float64)[:, None], np.array([kl])) < 4.5
    true = flat(ascended(ours, theirs, jnp.zeros_like(REWARD), 1.0))
    assert furthest(np.asarray(gradient.logits, np.float64).reshape(BATCHES, -1), true) < 4.5


@pytest.mark.parametrize(
    ("kl", "distance"), [("reward", 0.0), ("k1", 0.48), ("k2", 0.12), ("k3", 0.39)]
)
def test_where_training_ends(kl: str, distance: float) -> None:
    """3000 steps of Rloo end at the exact optimum of E[reward] - beta KL if the penalty stands in the reward, and
    elsewhere if it stands in the loss: the KL of where they end from the optimum, in nats."""
    start = table(1)
    given = training_inputs(start)
    data = jax.tree.map(lambda x: jnp.concatenate([x] * 16), given.data)
    given = TrainingInputs(data, start, given.teacher)
    config = TrainConfig(
        Online(), Rloo(beta=BETA, kl=kl), OptimiserConfig(learning_rate=1e-2, warmup=0.0), 64
    )
    state = init(config, given)
    state = advance(config, given, state, jax.random.key(0), jnp.asarray(0), jnp.asarray(3000))
    reference, ended = (jax.nn.log_softmax(t.logits) for t in (start, state.policy))
    best = jax.vmap(lambda row, r: quantities.rlhf_optimum(row, r, BETA))(reference, REWARD)
    assert float(jnp.mean(jax.vmap(quantities.kl)(best, reference))) == pytest.approx(
        1.97, abs=0.01
    )
    found = float(jnp.mean(jax.vmap(quantities.kl)(ended, best)))
    assert found == pytest.approx(distance, rel=0.1, abs=1e-3)

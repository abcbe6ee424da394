"""How losses treat a batch of pairs: padding, weights, order, soft labels, and what they may ask for beyond pairs."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TIME, VOCABULARY, pairs

from testbed import logprob
from testbed.config import members
from testbed.logprob import Policy
from testbed.losses.base import AbstractLoss, Extra
from testbed.losses.dpo import Dpo
from testbed.losses.kto import Kto
from testbed.losses.slic import Slic
from testbed.preference import AbstractPreference
from testbed.source import Batch, Dataset, Ledger, TrainingInputs
from testbed.types import Pair, Prompt, Response

N = 6
LOSSES = members(AbstractLoss, "testbed.losses")
CASES = [*(kind() for kind in LOSSES.values()), Slic(target="data")]


class Tokens(eqx.Module):
    """A policy that compiles in no time: a token's logits depend on the prompt's first token and the position."""

    table: jax.Array


@logprob.score.register(Tokens)
def score(model: Tokens, prompts: Prompt, responses: Response) -> jax.Array:
    logits = model.table[prompts.tokens[:, 0]]
    logits = jnp.broadcast_to(logits[:, None], (*responses.tokens.shape, VOCABULARY))
    return jnp.sum(logprob.token_logprobs(logits, responses), axis=-1)


class NoTeacher(AbstractPreference):
    """Never asked."""

    def margin(self, prompt: Prompt, first: Response, second: Response) -> jax.Array:
        raise NotImplementedError


def tokens(seed: int) -> Tokens:
    rng = np.random.default_rng(seed)
    return Tokens(jnp.asarray(rng.normal(size=(VOCABULARY, TIME, VOCABULARY)), jnp.float32))


POLICY, ANCHOR = tokens(0), tokens(1)


def batch_of(given: Pair) -> tuple[TrainingInputs, Batch]:
    """A batch of all pairs of a data set, in another order than the data's."""
    margin = jnp.asarray(np.random.default_rng(3).normal(size=N), jnp.float32)
    given = eqx.tree_at(lambda p: p.preference, given, jnp.linspace(0.5, 1.0, N))
    data = Dataset(given, logprob.score_pairs(ANCHOR, given), margin)
    batch = Batch(given, data.reference, margin, jnp.arange(N), Ledger.zero(N))
    order = jnp.asarray([2, 0, 5, 1, 4, 3])
    return TrainingInputs(data, ANCHOR, NoTeacher()), jax.tree.map(lambda x: x[order], batch)


@jax.jit
def value(loss: AbstractLoss, policy: Policy, inputs: TrainingInputs, batch: Batch) -> jax.Array:
    """The loss of the batch, by the training loop's method, for each of several weightings of its pairs."""

    def weighted(weight: jax.Array) -> jax.Array:
        return loss.value(
            policy, None, inputs, eqx.tree_at(lambda b: b.pairs.weight, batch, weight)
        )

    # Pair by pair, all but the last, all.
    eye = jnp.eye(N)
    return jax.vmap(weighted)(jnp.concatenate([eye, 1.0 - eye[-1:], jnp.ones((1, N))]))


def traced(loss: AbstractLoss) -> AbstractLoss:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), loss)


@pytest.mark.parametrize("loss", CASES, ids=str)
def test_values_of_batches(loss: AbstractLoss) -> None:
    """What stands behind the end does not count; a pair of weight 0 does not either; the loss is a mean over pairs; and
    pairs do not know of each other, but for `Kto`'s KL."""
    loss, (inputs, batch) = traced(loss), batch_of(pairs(N))
    clean = np.asarray(value(loss, POLICY, inputs, batch))
    assert np.all(np.isfinite(clean))
    junk = np.asarray(value(loss, POLICY, *batch_of(pairs(N, junk=3))))
    np.testing.assert_allclose(junk, clean, rtol=1e-6)
    each, without_last, mean = clean[:N], clean[N], clean[-1]
    assert len(np.unique(each)) == N
    np.testing.assert_allclose(np.sum(each[:-1]), without_last, rtol=1e-5)
    np.testing.assert_allclose(np.sum(each), mean, rtol=1e-5)
    order = jnp.asarray([3, 5, 0, 2, 1, 4])
    permuted = np.asarray(value(loss, POLICY, inputs, jax.tree.map(lambda x: x[order], batch)))
    if Extra.KL in loss.extras:
        return
    np.testing.assert_allclose(permuted[:N], each[order], rtol=1e-5)
    np.testing.assert_allclose(permuted[-1], mean, rtol=1e-5)


def logprobs(policy: Tokens, prompt: Prompt, response: Response, i: int, j: int) -> float:
    """Of response j to prompt i, token by token in float64."""
    table = np.asarray(policy.table, np.float64)[int(prompt.tokens[i, 0])]
    total = 0.0
    for t in range(int(response.length[j])):
        total += table[t, int(response.tokens[j, t])] - np.log(np.exp(table[t]).sum())
    return total


def test_kl_of_kto_by_its_definition() -> None:
    """The mean log-ratio of the next pair's two responses to each prompt, at least 0."""
    inputs, batch = batch_of(pairs(N))
    for policy, other in ((POLICY, ANCHOR), (ANCHOR, POLICY)):
        given = dataclasses.replace(inputs, reference=other)
        ratios = [
            logprobs(policy, batch.pairs.prompt, response, i, (i + 1) % N)
            - logprobs(other, batch.pairs.prompt, response, i, (i + 1) % N)
            for i in range(N)
            for response in (batch.pairs.winner, batch.pairs.loser)
        ]
        found = Kto().scored(policy, given, batch).kl
        np.testing.assert_allclose(found, max(0.0, np.mean(ratios)), rtol=1e-4, atol=1e-6)


def test_target_is_the_preferred_response_to_the_same_prompt() -> None:
    """The data's winner in the pair's row, whatever the pair's own winner is."""
    inputs, batch = batch_of(pairs(N))
    found = Slic(target="data").scored(POLICY, inputs, batch).target
    data = inputs.data.pairs
    expected = [
        logprobs(POLICY, data.prompt, data.winner, int(row), int(row)) for row in batch.rows
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_soft_labels_by_hand() -> None:
    """p l(winner, loser) + (1 - p) l(loser, winner), with p = 0.8 and h = 3 nats."""
    inputs, batch = batch_of(pairs(N))
    pair = Dpo().scored(POLICY, inputs, batch)
    h = np.asarray(pair.margin(), np.float64)
    p = np.asarray(batch.pairs.preference, np.float64)
    expected = p * np.logaddexp(0, -0.5 * h) + (1 - p) * np.logaddexp(0, 0.5 * h)
    found = value(traced(Dpo(beta=0.5)), POLICY, inputs, batch)
    np.testing.assert_allclose(found[:N], expected / N, rtol=1e-5)

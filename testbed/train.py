"""The one training loop: source -> loss -> update. Evaluation is `testbed.metrics`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from testbed import logprob
from testbed.experiment import TrainConfig
from testbed.logprob import Policy
from testbed.losses.base import ScoredPair
from testbed.sources.base import Batch, Supply


class TrainState(eqx.Module):
    """A policy optimisation under way.

    ``diverged_step`` is the first step whose loss, gradient or parameters were not finite, -1 if there is none; from
    then on the policy is frozen as it was before. ``loss`` and ``gradient_norm`` are means since the last evaluation.
    """

    policy: Policy
    optimiser: Any
    source: PyTree
    diverged_step: Int[Array, ""]
    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]


def init(config: TrainConfig, supply: Supply) -> TrainState:
    """Start from a copy of the reference: a donated state must not share its buffers."""
    policy = jax.tree.map(jnp.copy, supply.reference)
    return TrainState(
        policy=policy,
        optimiser=config.optimiser.transform().init(policy),
        source=config.source.init(supply),
        diverged_step=jnp.asarray(-1),
        loss=jnp.asarray(jnp.nan),
        gradient_norm=jnp.asarray(jnp.nan),
    )


def batch_loss(config: TrainConfig, policy: Policy, batch: Batch) -> Float[Array, ""]:
    """Mean loss of a batch of pairs, each the expectation over its label and times its weight.

    With a soft label that gives the winner probability p, a pair costs p l(winner, loser) + (1 - p) l(loser, winner).
    """
    pairs = batch.pairs
    scores = logprob.score_pairs(policy, pairs)
    scored = ScoredPair(scores, batch.reference, pairs.winner.length, pairs.loser.length)
    loss = jax.vmap(config.loss)
    p = pairs.preference
    each = p * loss(scored) + (1.0 - p) * loss(scored.swapped)
    return jnp.mean(pairs.weight * each)


def update(
    config: TrainConfig,
    supply: Supply,
    state: TrainState,
    key: PRNGKeyArray,
    step: Int[Array, ""],
) -> TrainState:
    """One gradient step. ``key`` is the run's, the same at every step; ``loss`` and norm accumulate."""
    batch, source = config.source.draw(
        state.source, supply, state.policy, key, step, config.batch_size
    )
    value, gradient = jax.value_and_grad(lambda policy: batch_loss(config, policy, batch))(
        state.policy
    )
    norm = optax.tree.norm(gradient)
    # optax's annotations admit nested containers of arrays, not modules.
    old: Any = state.policy
    updates, optimiser = config.optimiser.transform().update(gradient, state.optimiser, old)
    policy = optax.apply_updates(old, updates)
    finite = jnp.isfinite(value) & jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(policy))
    running = finite & (state.diverged_step < 0)
    policy, optimiser = jax.tree.map(
        lambda new, old: jnp.where(running, new, old),
        (policy, optimiser),
        (state.policy, state.optimiser),
    )
    diverged = jnp.where(~finite & (state.diverged_step < 0), step, state.diverged_step)
    return TrainState(
        policy, optimiser, source, diverged, state.loss + value, state.gradient_norm + norm
    )


def advance(
    config: TrainConfig,
    supply: Supply,
    state: TrainState,
    key: PRNGKeyArray,
    start: Int[Array, ""],
    steps: Int[Array, ""],
) -> TrainState:
    """``steps`` gradient steps from step ``start`` on. Both are arguments of the compiled program, the same for all
    runs of a stack, so one program serves runs of every length; 0 steps are allowed."""
    state = eqx.tree_at(lambda s: (s.loss, s.gradient_norm), state, (jnp.zeros(()), jnp.zeros(())))
    state = jax.lax.fori_loop(
        start, start + steps, lambda step, s: update(config, supply, s, key, step), state
    )
    means = (state.loss / steps, state.gradient_norm / steps)
    return eqx.tree_at(lambda s: (s.loss, s.gradient_norm), state, means)

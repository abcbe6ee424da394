"""Requirements on losses, methods, sources, reference policies and proxies, and their checks."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from envs.labelers.bradley_terry import BradleyTerry
from sweeps.contracts import samples
from sweeps.contracts.samples import BATCH, Sizes, as_arrays, quick
from sweeps.contracts.sentences import (
    guarded,
    named,
    require_array,
    require_finite,
    require_kind,
    require_like,
    require_numbers,
)
from testbed import config
from testbed.errors import InvalidInput
from testbed.losses.base import AbstractLoss, Extra, ScoredPair
from testbed.objective import AbstractObjective
from testbed.optimiser import FitConfig
from testbed.preference import GoldenPreference
from testbed.proxies.base import AbstractProxy, AbstractProxyConfig, Reading
from testbed.recorded_runs.recorded_run import Given
from testbed.references.base import AbstractReference
from testbed.source import AbstractSource, Batch, Ledger, Request, Supply, write_pairs
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.stages import online_run
from testbed.transformer_config import TransformerConfig
from testbed.types import PairScores

#: Largest number of policy parameters for which a check trains a proxy; above it, only shapes are checked.
_SMALL = 10**6
_BATCH_LEVEL = ("value", "scored", "request", "prepare", "critic")


def check_loss(loss: AbstractLoss, sizes: Sizes) -> None:
    """A loss must be one floating-point number per pair, finite, with a finite slope. Raises `InvalidInput`."""
    require_numbers(loss)
    with guarded(loss, "extras"):
        extras = loss.extras
    if not isinstance(extras, frozenset) or not all(isinstance(one, Extra) for one in extras):
        raise InvalidInput(
            f"{named(loss, 'extras')} returns {extras!r}: needs a frozenset of members of Extra"
        )
    if any(getattr(type(loss), name) is not getattr(AbstractLoss, name) for name in _BATCH_LEVEL):
        check_objective(loss, sizes)
    loss, pairs = as_arrays(loss), samples.scored_pairs()
    one = jax.tree.map(lambda x: x[0], pairs)
    with guarded(loss):
        shape = jax.eval_shape(lambda loss, pair: loss(pair), loss, one)
    require_array(named(loss), shape, (), "one number a pair")

    @quick
    def slopes(loss: AbstractLoss, pairs: ScoredPair) -> PyTree:
        def one(scores: PairScores, target: jax.Array, pair: ScoredPair) -> jax.Array:
            return loss(eqx.tree_at(lambda p: (p.policy, p.target), pair, (scores, target)))

        each = jax.vmap(jax.value_and_grad(one, argnums=(0, 1)))
        return tuple(each(p.policy, p.target, p) for p in (pairs, pairs.swapped))

    with guarded(loss):
        found = jax.device_get(slopes(loss, pairs))
    for value, slope in found:
        require_finite(named(loss), value, "pairs with margins between -6 and 6 nats")
        require_finite(
            f"the slope of {named(loss)}", slope, "pairs with margins between -6 and 6 nats"
        )


def check_objective(objective: AbstractObjective, sizes: Sizes) -> None:
    """An objective must give a finite mean loss of a step's texts, with a finite gradient. Raises `InvalidInput`."""
    require_numbers(objective)
    with guarded(objective, "request"):
        request = objective.request(BATCH)
    require_kind(named(objective, "request"), request, Request)
    with guarded(objective, "refuse"):
        try:
            objective.refuse(Online())
            source: AbstractSource = Online()
        except InvalidInput:
            source = Offline()
    objective = as_arrays(objective)
    key, step = jax.random.key(0), jnp.asarray(0)

    def drawn(objective: AbstractObjective, supply: Supply) -> PyTree:
        request = objective.request(BATCH)
        state = source.init(supply, supply.reference, request)
        return source.draw(state, supply, supply.reference, request, key, step)[0]

    def prepared(objective: AbstractObjective, supply: Supply) -> PyTree:
        batch = drawn(objective, supply)
        return objective.prepare(batch, supply, supply.reference, key, step)

    def value(moving: tuple, objective: AbstractObjective, supply: Supply, batch: PyTree) -> Any:
        policy, critic = moving
        return objective.value(policy, critic, supply, batch)

    given = jax.eval_shape(functools.partial(samples.supplied, sizes))
    with guarded(objective, "request"):
        jax.eval_shape(drawn, objective, given)
    with guarded(objective, "prepare"):
        batch = jax.eval_shape(prepared, objective, given)
    require_kind(named(objective, "prepare"), getattr(batch, "spent", None), Ledger, "as `spent`")
    with guarded(objective, "critic"):
        critic = jax.eval_shape(lambda o, s: o.critic(s.reference), objective, given)
    with guarded(objective, "value"):
        shape = jax.eval_shape(value, (given.reference, critic), objective, given, batch)
    require_array(named(objective, "value"), shape, (), "the mean loss of a step")

    @quick
    def run(objective: AbstractObjective, supply: Supply) -> PyTree:
        moving = supply.reference, objective.critic(supply.reference)
        batch = prepared(objective, supply)
        return jax.value_and_grad(value)(moving, objective, supply, batch)

    with guarded(objective):
        found, gradient = jax.device_get(run(objective, samples.supply(sizes)))
    require_finite(named(objective, "value"), found, "steps")
    require_finite(f"the gradient of {named(objective, 'value')}", gradient, "parameters")


def check_source(source: AbstractSource, sizes: Sizes) -> None:
    """A source must give the texts of a step in the form of `Batch`, or as `Request.author` writes them, and a state
    that keeps its form; tokens inside the vocabulary, finite scores. Raises `InvalidInput`.

    If the source prepares data from a recorded run, only shapes are checked, not values.
    """
    require_numbers(source)
    with guarded(source, "writes"):
        writes = source.writes
    require_kind(named(source, "writes"), writes, bool)
    request, key = Request(BATCH, write_pairs), jax.random.key(0)
    with guarded(source, "work"):
        work = source.work(request)
    if not (isinstance(work, tuple) and len(work) == 2):
        raise InvalidInput(
            f"{named(source, 'work')} returns {work!r}: needs responses and judgements, two numbers"
        )
    given = jax.eval_shape(functools.partial(samples.supplied, sizes))
    given, prepares = _prepared(source, given, sizes)
    source = as_arrays(source)

    def start(source: AbstractSource, supply: Supply) -> PyTree:
        return source.init(supply, supply.reference, request)

    def draw(source: AbstractSource, state: PyTree, supply: Supply, step: jax.Array) -> Any:
        return source.draw(state, supply, supply.reference, request, key, step)

    with guarded(source, "init"):
        state = jax.eval_shape(start, source, given)
    with guarded(source, "draw"):
        result = jax.eval_shape(draw, source, state, given, jnp.asarray(0))
    if not (isinstance(result, tuple) and len(result) == 2):
        raise InvalidInput(
            f"{named(source, 'draw')} returns a {type(result).__name__}: needs two things, the texts of the step and "
            "the next state"
        )
    batch, after = result
    rows = jnp.arange(BATCH)
    written = jax.eval_shape(lambda s: write_pairs(s, s.reference, rows, key), given)
    require_like(named(source, "draw"), batch, written, f"a Batch of {BATCH} pairs")
    require_like(named(source, "draw"), after, state, "a next state like that of init")
    if prepares:
        return

    @quick
    def twice(source: AbstractSource, supply: Supply) -> list[Batch]:
        state, batches = start(source, supply), []
        for step in range(2):
            batch, state = draw(source, state, supply, jnp.asarray(step))
            batches.append(batch)
        return batches

    with guarded(source):
        found = jax.device_get(twice(source, samples.supply(sizes)))
    for batch in found:
        _check_batch(named(source, "draw"), batch, sizes)


def _prepared(source: AbstractSource, given: Supply, sizes: Sizes) -> tuple[Supply, bool]:
    """The supply with the data that the source prepares, as shapes, and whether the source prepares any."""
    with guarded(source, "recorded_run"):
        run = source.recorded_run
    with guarded(source, "preparation"):
        prepares = source.preparation is not None
    if run is None or not prepares:
        return given, False
    world, key = samples.world(sizes), jax.random.key(0)
    small = config.replace_all(run, {"run.batch_size": BATCH})
    golden = GoldenPreference(world)
    made = jax.eval_shape(lambda supply: online_run.make(small, supply, golden, key), given)

    def prepare(source: AbstractSource, supply: Supply, made: PyTree) -> PyTree:
        return source.prepare(Given(supply, made, world, BradleyTerry(), key))

    with guarded(source, "prepare"):
        result = jax.eval_shape(prepare, as_arrays(source), given, made)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise InvalidInput(
            f"{named(source, 'prepare')} returns a {type(result).__name__}: needs two things, what is prepared and a "
            "dict of measured numbers"
        )
    return Supply(given.data, given.reference, given.teacher, result[0]), True


def _check_batch(what: str, batch: Batch, sizes: Sizes) -> None:
    """Check the values of a batch of pairs."""
    for name in ("winner", "loser"):
        text = getattr(batch.pairs, name)
        require_tokens(f"{what} gives a {name} with", text.tokens, sizes.vocabulary)
        if np.any((text.length < 1) | (text.length > sizes.response)):
            raise InvalidInput(
                f"{what} gives a {name} of length {int(np.max(text.length))}: needs 1 to {sizes.response} tokens"
            )
    require_finite(what, batch, "numbers")
    preference, weight = batch.pairs.preference, batch.pairs.weight
    if np.any((preference < 0) | (preference > 1)):
        raise InvalidInput(f"{what} gives a preference of {preference.min()}: needs 0 to 1")
    if np.any(weight < 0):
        raise InvalidInput(f"{what} gives a weight of {weight.min()}: needs 0 or more")
    if np.any((batch.rows < 0) | (batch.rows >= samples.PAIRS)):
        raise InvalidInput(
            f"{what} gives row {int(np.max(batch.rows))} of data with {samples.PAIRS} pairs"
        )


def require_tokens(what: str, tokens: Any, vocabulary: int) -> None:
    """Refuse token ids that are not in the vocabulary; ``what`` ends in a verb."""
    tokens = np.asarray(tokens)
    outside = tokens[(tokens < 0) | (tokens >= vocabulary)]
    if outside.size:
        raise InvalidInput(
            f"{what} token {int(outside[0])}: vocabulary={vocabulary} has the ids from 0 to {vocabulary - 1}"
        )


def check_reference(reference: AbstractReference, sizes: Sizes) -> None:
    """The next reference policy must have the form of the present one and be finite. Raises `InvalidInput`."""
    require_numbers(reference)
    with guarded(reference, "moves"):
        moves = reference.moves
    reference = as_arrays(reference)
    require_kind(named(reference, "moves"), moves, bool)
    policy = samples.supply(sizes).reference
    other = jax.tree.map(lambda x: 0.5 * x, policy)
    step = jnp.asarray(0)
    follow: Callable[..., PyTree] = lambda r, *given: r.next(*given)  # noqa: E731
    with guarded(reference, "next"):
        shape = jax.eval_shape(follow, reference, policy, other, step)
    require_like(named(reference, "next"), shape, policy, "a policy like the one it is given")
    with guarded(reference, "next"):
        found = jax.device_get(quick(follow)(reference, policy, other, step))
    require_finite(named(reference, "next"), found, "parameters")


def check_proxy(
    proxy: AbstractProxyConfig, sizes: Sizes, model: TransformerConfig, task: Any
) -> None:
    """`train` must make an `AbstractProxy` with one finite margin per pair, which changes its sign when the pair is
    swapped. Raises `InvalidInput`."""
    require_numbers(proxy)
    with guarded(proxy, "form"):
        form = proxy.form(model)
    require_kind(named(proxy, "form"), form, tuple)
    with guarded(proxy, "form"):
        hash(tuple(jax.tree.structure(x) if isinstance(x, eqx.Module) else x for x in form))
    with guarded(proxy, "reading"):
        reading = proxy.reading(model, task, samples.PAIRS)
    require_kind(named(proxy, "reading"), reading, Reading)
    with guarded(proxy, "fit"):
        fit = FitConfig(steps=2, batch_size=BATCH, optimiser=proxy.fit.optimiser)
        short = as_arrays(config.replace_all(proxy, {"fit": fit}))
    small = model.parameters(sizes.vocabulary) <= _SMALL
    given = functools.partial(samples.supplied, sizes, model)
    supply = samples.supply(sizes, model) if small else jax.eval_shape(given)
    key = jax.random.key(0)

    def train(proxy: AbstractProxyConfig, supply: Supply) -> Any:
        policy: Any = supply.reference
        return proxy.train(key, model, policy, supply.data.pairs)

    def margins(trained: Any, supply: Supply) -> Any:
        pairs = supply.data.pairs
        there = trained.margin(pairs.prompt, pairs.winner, pairs.loser)
        return there, trained.margin(pairs.prompt, pairs.loser, pairs.winner)

    with guarded(proxy, "train"):
        trained = jax.eval_shape(train, short, supply)
    require_kind(named(proxy, "train"), trained, AbstractProxy)
    check_margins(trained, lambda: jax.eval_shape(margins, trained, supply), samples.PAIRS)
    with guarded(trained, "loss"):
        loss = jax.eval_shape(lambda t, s: t.loss(s.data.pairs), trained, supply)
    require_array(named(trained, "loss"), loss, (samples.PAIRS,), "one number a pair")
    if not small:
        return
    with guarded(proxy, "train"):
        found = quick(train)(short, supply)
    require_finite(f"{named(proxy, 'train')} makes a proxy that", jax.device_get(found), "numbers")
    check_margins(found, lambda: quick(margins)(found, supply), samples.PAIRS)


def check_margins(judge: Any, both: Callable[[], tuple[Any, Any]], count: int) -> None:
    """Margins of ``count`` pairs and of the swapped pairs must be one number per pair. If values are given and not only
    shapes, margins must be finite, and each the opposite of the other. Raises `InvalidInput`."""
    what = named(judge, "margin")
    with guarded(judge, "margin"):
        there, back = both()
    for one in (there, back):
        require_array(what, one, (count,), "one number a pair")
    if isinstance(there, jax.ShapeDtypeStruct):
        return
    there, back = np.asarray(there, np.float64), np.asarray(back, np.float64)
    require_finite(what, there, "pairs")
    apart = np.abs(there + back)
    worst = int(np.argmax(apart))
    if apart[worst] > 1e-3 * (1.0 + abs(there[worst])):
        raise InvalidInput(
            f"{what} is {there[worst]:.4g} for a pair and {back[worst]:.4g} for the same pair turned round: needs the "
            "opposite sign and the same size"
        )

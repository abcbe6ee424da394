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
    called,
    computed,
    guarded,
    named,
    require_array,
    require_finite,
    require_kind,
    require_like,
    require_numbers,
    require_tokens,
    require_traced,
    require_two,
    require_within,
    traced,
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
from testbed.source import AbstractSource, Batch, Ledger, Request, TrainingInputs, write_pairs
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
    extras = called(loss, "extras", object)
    if not isinstance(extras, frozenset) or not all(isinstance(one, Extra) for one in extras):
        raise InvalidInput(
            f"{named(loss, 'extras')} returns {extras!r}: needs a frozenset of members of Extra"
        )
    if any(getattr(type(loss), name) is not getattr(AbstractLoss, name) for name in _BATCH_LEVEL):
        check_objective(loss, sizes)
    loss, pairs = as_arrays(loss), samples.scored_pairs()
    use: Callable = lambda loss, pair: loss(pair)  # noqa: E731
    require_traced(loss, "", (), "one number a pair", use, loss, samples.first(pairs))

    def slopes(loss: AbstractLoss, pairs: ScoredPair) -> PyTree:
        def one(scores: PairScores, target: jax.Array, pair: ScoredPair) -> jax.Array:
            return loss(eqx.tree_at(lambda p: (p.policy, p.target), pair, (scores, target)))

        each = jax.vmap(jax.value_and_grad(one, argnums=(0, 1)))
        return tuple(each(p.policy, p.target, p) for p in (pairs, pairs.swapped))

    where = "pairs with margins between -6 and 6 nats"
    for value, slope in computed(loss, "", slopes, loss, pairs):
        require_finite(named(loss), value, where)
        require_finite(f"the slope of {named(loss)}", slope, where)


def check_objective(objective: AbstractObjective, sizes: Sizes) -> None:
    """An objective must give a finite mean loss of a step's texts, with a finite gradient. Raises `InvalidInput`."""
    require_numbers(objective)
    called(objective, "request", Request, BATCH)
    with guarded(objective, "refuse"):
        try:
            objective.refuse(Online())
            source: AbstractSource = Online()
        except InvalidInput:
            source = Offline()
    objective = as_arrays(objective)
    key, step = jax.random.key(0), jnp.asarray(0)

    def drawn(objective: AbstractObjective, inputs: TrainingInputs) -> PyTree:
        request = objective.request(BATCH)
        state = source.init(inputs, inputs.reference, request)
        return source.draw(state, inputs, inputs.reference, request, key, step)[0]

    def prepared(objective: AbstractObjective, inputs: TrainingInputs) -> PyTree:
        batch = drawn(objective, inputs)
        return objective.prepare(batch, inputs, inputs.reference, key, step)

    def value(
        moving: tuple, objective: AbstractObjective, inputs: TrainingInputs, batch: PyTree
    ) -> Any:
        policy, critic = moving
        return objective.value(policy, critic, inputs, batch)

    given = jax.eval_shape(functools.partial(samples.supplied, sizes))
    traced(objective, "request", drawn, objective, given)
    batch = traced(objective, "prepare", prepared, objective, given)
    require_kind(named(objective, "prepare"), getattr(batch, "spent", None), Ledger, "as `spent`")
    critic = traced(objective, "critic", lambda o, s: o.critic(s.reference), objective, given)
    arguments = (given.reference, critic), objective, given, batch
    require_traced(objective, "value", (), "the mean loss of a step", value, *arguments)

    def run(objective: AbstractObjective, inputs: TrainingInputs) -> PyTree:
        moving = inputs.reference, objective.critic(inputs.reference)
        batch = prepared(objective, inputs)
        return jax.value_and_grad(value)(moving, objective, inputs, batch)

    loss, gradient = computed(objective, "", run, objective, samples.training_inputs(sizes))
    require_finite(named(objective, "value"), loss, "steps")
    require_finite(f"the gradient of {named(objective, 'value')}", gradient, "parameters")


def check_source(source: AbstractSource, sizes: Sizes) -> None:
    """A source must give the texts of a step in the form of `Batch`, or as `Request.rollout` writes them, and a state
    that keeps its form; tokens inside the vocabulary, finite scores. Raises `InvalidInput`.

    If the source prepares data from a recorded run, only shapes are checked, not values.
    """
    require_numbers(source)
    called(source, "writes", bool)
    request, key = Request(BATCH, write_pairs), jax.random.key(0)
    work = called(source, "work", object, request)
    if not (isinstance(work, tuple) and len(work) == 2):
        raise InvalidInput(
            f"{named(source, 'work')} returns {work!r}: needs responses and judgements, two numbers"
        )
    given = jax.eval_shape(functools.partial(samples.supplied, sizes))
    given, prepares = _prepared(source, given, sizes)
    source = as_arrays(source)

    def start(source: AbstractSource, inputs: TrainingInputs) -> PyTree:
        return source.init(inputs, inputs.reference, request)

    def draw(source: AbstractSource, state: PyTree, inputs: TrainingInputs, step: jax.Array) -> Any:
        return source.draw(state, inputs, inputs.reference, request, key, step)

    what = named(source, "draw")
    state = traced(source, "init", start, source, given)
    result = traced(source, "draw", draw, source, state, given, jnp.asarray(0))
    require_two(what, result, "the texts of the step and the next state")
    rows = jnp.arange(BATCH)
    written = jax.eval_shape(lambda s: write_pairs(s, s.reference, rows, key), given)
    require_like(what, result[0], written, f"a Batch of {BATCH} pairs")
    require_like(what, result[1], state, "a next state like that of init")
    if prepares:
        return

    def twice(source: AbstractSource, inputs: TrainingInputs) -> list[Batch]:
        state, batches = start(source, inputs), []
        for step in range(2):
            batch, state = draw(source, state, inputs, jnp.asarray(step))
            batches.append(batch)
        return batches

    for batch in computed(source, "", twice, source, samples.training_inputs(sizes)):
        _check_batch(what, batch, sizes)


def _prepared(
    source: AbstractSource, given: TrainingInputs, sizes: Sizes
) -> tuple[TrainingInputs, bool]:
    """The training inputs with the data that the source prepares, as shapes, and whether the source prepares any."""
    with guarded(source, "recorded_run"):
        run = source.recorded_run
    with guarded(source, "preparation"):
        preparation = source.preparation
    if run is None or preparation is None:
        return given, False
    world, key = samples.world(sizes), jax.random.key(0)
    small = config.replace_all(run, {"run.batch_size": BATCH})
    golden = GoldenPreference(world)
    made = jax.eval_shape(lambda inputs: online_run.make(small, inputs, golden, key), given)

    def prepare(source: AbstractSource, inputs: TrainingInputs, made: PyTree) -> PyTree:
        return source.prepare(Given(inputs, made, world, BradleyTerry(), key))

    result = traced(source, "prepare", prepare, as_arrays(source), given, made)
    needed = "what is prepared and a dict of measured numbers"
    require_two(named(source, "prepare"), result, needed, dict)
    return TrainingInputs(given.data, given.reference, given.teacher, result[0]), True


def _check_batch(what: str, batch: Batch, sizes: Sizes) -> None:
    """Check the values of a batch of pairs."""
    for name in ("winner", "loser"):
        text, most = getattr(batch.pairs, name), sizes.response
        require_tokens(f"{what} gives a {name} with", text.tokens, sizes.vocabulary)
        needed = f": needs 1 to {most} tokens"
        require_within(f"{what} gives a {name} of length", text.length, 1, most, needed)
    require_finite(what, batch, "numbers")
    pairs, count = batch.pairs, samples.PAIRS
    require_within(f"{what} gives a preference of", pairs.preference, 0, 1, ": needs 0 to 1")
    require_within(f"{what} gives a weight of", pairs.weight, 0, np.inf, ": needs 0 or more")
    require_within(f"{what} gives row", batch.rows, 0, count - 1, f" of data with {count} pairs")


def check_reference(reference: AbstractReference, sizes: Sizes) -> None:
    """The next reference policy must have the form of the present one and be finite. Raises `InvalidInput`."""
    require_numbers(reference)
    called(reference, "moves", bool)
    reference = as_arrays(reference)
    policy = samples.training_inputs(sizes).reference
    other = jax.tree.map(lambda x: 0.5 * x, policy)
    step = jnp.asarray(0)
    follow: Callable[..., PyTree] = lambda r, *given: r.next(*given)  # noqa: E731
    given = reference, "next", follow, reference, policy, other, step
    what = named(reference, "next")
    require_like(what, traced(*given), policy, "a policy like the one it is given")
    require_finite(what, computed(*given), "parameters")


def check_proxy(
    proxy: AbstractProxyConfig, sizes: Sizes, model: TransformerConfig, task: Any
) -> None:
    """`train` must make an `AbstractProxy` with one finite margin per pair, which changes its sign when the pair is
    swapped. Raises `InvalidInput`."""
    require_numbers(proxy)
    form = called(proxy, "form", tuple, model)
    with guarded(proxy, "form"):
        hash(tuple(jax.tree.structure(x) if isinstance(x, eqx.Module) else x for x in form))
    called(proxy, "reading", Reading, model, task, samples.PAIRS)
    with guarded(proxy, "fit"):
        fit = FitConfig(steps=2, batch_size=BATCH, optimiser=proxy.fit.optimiser)
        short = as_arrays(config.replace_all(proxy, {"fit": fit}))
    small = model.parameters(sizes.vocabulary) <= _SMALL
    given = functools.partial(samples.supplied, sizes, model)
    inputs = samples.training_inputs(sizes, model) if small else jax.eval_shape(given)
    key = jax.random.key(0)

    def train(proxy: AbstractProxyConfig, inputs: TrainingInputs) -> Any:
        policy: Any = inputs.reference
        return proxy.train(key, model, policy, inputs.data.pairs)

    def margins(trained: Any, inputs: TrainingInputs) -> Any:
        pairs = inputs.data.pairs
        there = trained.margin(pairs.prompt, pairs.winner, pairs.loser)
        return there, trained.margin(pairs.prompt, pairs.loser, pairs.winner)

    trained = traced(proxy, "train", train, short, inputs)
    require_kind(named(proxy, "train"), trained, AbstractProxy)
    check_margins(trained, lambda: jax.eval_shape(margins, trained, inputs), samples.PAIRS)
    losses: Callable = lambda t, s: t.loss(s.data.pairs)  # noqa: E731
    count = (samples.PAIRS,)
    require_traced(trained, "loss", count, "one number a pair", losses, trained, inputs)
    if not small:
        return
    fitted = computed(proxy, "train", train, short, inputs)
    require_finite(f"{named(proxy, 'train')} makes a proxy that", fitted, "numbers")
    check_margins(fitted, lambda: quick(margins)(fitted, inputs), samples.PAIRS)


def check_margins(judge: Any, margins: Callable[[], tuple[Any, Any]], count: int) -> None:
    """Margins of ``count`` pairs and of the swapped pairs must be one number per pair. If values are given and not only
    shapes, margins must be finite, and each the opposite of the other. Raises `InvalidInput`."""
    what = named(judge, "margin")
    with guarded(judge, "margin"):
        there, back = margins()
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

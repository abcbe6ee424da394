"""The one training loop: source -> loss or method -> update. Evaluation is `testbed.metrics`."""

from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from testbed.config.ranges import Checked, hyper
from testbed.logprob import Policy
from testbed.losses.ipo import Ipo
from testbed.objective import AbstractObjective
from testbed.optimiser import OptimiserConfig
from testbed.policies.trainable import rebuilt, trained
from testbed.references.base import AbstractReference
from testbed.references.fixed import Fixed
from testbed.source import AbstractSource, Ledger, TrainingInputs

#: The judge of the texts that sources have written: the learned proxy, or the golden reward itself, without noise.
Teacher: TypeAlias = Literal["proxy", "golden"]


class TrainConfig(eqx.Module):
    """How a policy is optimised, with ``batch_size`` prompts an update. The number of steps is an argument of the
    compiled program. ``teacher`` names the judge that the training inputs hold.

    Raises `InvalidInput` if the loss or method cannot learn from the source.
    """

    source: AbstractSource
    loss: AbstractObjective
    optimiser: OptimiserConfig
    batch_size: int = eqx.field(static=True)
    reference: AbstractReference = Fixed()
    teacher: Teacher = eqx.field(static=True, default="proxy")

    def __check_init__(self) -> None:
        self.loss.refuse(self.source)


class OnlineRun(Checked):
    """The plan of an online run from the SFT policy: of the golden baseline, or of the run whose stream or checkpoints
    a source uses.

    Attributes:
        loss: what is minimised. optimiser, steps, batch_size, reference: as in `testbed.experiment.Experiment`.
    """

    loss: AbstractObjective = Ipo(beta=0.1)
    optimiser: OptimiserConfig = OptimiserConfig()
    steps: int = hyper(1000, least=0, static=True)
    batch_size: int = hyper(32, least=1, static=True)
    reference: AbstractReference = Fixed()

    def train(self, source: AbstractSource) -> TrainConfig:
        """The plan's policy optimisation from a source: `testbed.sources.online.Online`, or a source that records its
        pairs.

        Raises `InvalidInput` if the loss or method cannot learn from the source.
        """
        return TrainConfig(source, self.loss, self.optimiser, self.batch_size, self.reference)


class TrainState(eqx.Module):
    """The state of a policy optimisation.

    ``policy`` and ``reference`` hold the trained part of a policy (`testbed.policies.trainable`), which is the whole
    policy unless it has adapters; `present` gives the whole policy. ``critic`` holds additional trained parameters of
    the loss or method, ``reference`` is None if it does not move, and ``ledger`` counts what was consumed.
    ``diverged_step`` is the first step whose loss, gradient or parameters were not finite, -1 if there is none; from
    then on the policy stays frozen as it was before that step, and consumes nothing. ``loss`` and ``gradient_norm`` are
    sums since `restarted`, and means of these once `averaged`.
    """

    policy: Policy
    critic: PyTree
    optimiser: Any
    source: PyTree
    reference: Policy | None
    ledger: Ledger
    diverged_step: Int[Array, ""]
    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]


def init(config: TrainConfig, inputs: TrainingInputs) -> TrainState:
    """Start from a copy of the reference: the buffers of a donated state must not be shared."""

    def copy() -> Policy:
        return jax.tree.map(jnp.copy, trained(inputs.reference))

    def whole() -> Policy:
        return rebuilt(copy(), inputs.reference)

    policy: Any = copy()  # optax's annotations admit nested containers of arrays, not modules
    critic = config.loss.critic(whole())
    return TrainState(
        policy=policy,
        critic=critic,
        optimiser=config.optimiser.transform().init((policy, critic)),
        source=config.source.init(inputs, whole(), config.loss.request(config.batch_size)),
        reference=copy() if config.reference.moves else None,
        ledger=Ledger.zero(),
        diverged_step=jnp.asarray(-1, dtype=jnp.int32),
        loss=jnp.asarray(jnp.nan, dtype=jnp.float32),
        gradient_norm=jnp.asarray(jnp.nan, dtype=jnp.float32),
    )


def update(
    config: TrainConfig,
    inputs: TrainingInputs,
    state: TrainState,
    key: PRNGKeyArray,
    step: Int[Array, ""],
) -> TrainState:
    """One gradient step. ``key`` is the run's, the same at every step; ``loss`` and ``gradient_norm`` are added up."""
    batch, state = draw(config, inputs, state, key, step)
    # The barrier makes learning from a batch independent, to the last bit, of how the batch was made: XLA must not
    # simplify or share computations across it. On CPUs XLA drops barriers before it fuses operations, but here this is
    # harmless: only whole numbers, gathered scores and sums over tokens pass the barrier, and fusion does not change
    # their values.
    batch = jax.lax.optimization_barrier(batch)
    return learn(config, held_to(inputs, state), state, batch, step)


def present(inputs: TrainingInputs, state: TrainState) -> Policy:
    """The whole present policy."""
    return rebuilt(state.policy, inputs.reference)


def held_to(inputs: TrainingInputs, state: TrainState) -> TrainingInputs:
    """The training inputs with the present reference policy."""
    if state.reference is None:
        return inputs
    reference = rebuilt(state.reference, inputs.reference)
    return TrainingInputs(inputs.data, reference, inputs.teacher, inputs.prepared, fixed=False)


def draw(
    config: TrainConfig,
    inputs: TrainingInputs,
    state: TrainState,
    key: PRNGKeyArray,
    step: Int[Array, ""],
) -> tuple[PyTree, TrainState]:
    """The texts of one step, and the state with the reference and the source's state updated."""
    if state.reference is not None:
        reference = config.reference.next(state.reference, state.policy, step)
        state = eqx.tree_at(lambda s: s.reference, state, reference)
    inputs, policy = held_to(inputs, state), present(inputs, state)
    request = config.loss.request(config.batch_size)
    batch, source = config.source.draw(state.source, inputs, policy, request, key, step)
    batch = config.loss.prepare(batch, inputs, policy, key, step)
    return batch, eqx.tree_at(lambda s: s.source, state, source)


def learn(
    config: TrainConfig,
    inputs: TrainingInputs,
    state: TrainState,
    batch: PyTree,
    step: Int[Array, ""],
) -> TrainState:
    """Move policy and critic down the gradient of a batch's mean loss, unless the result is not finite."""

    def loss(moving: tuple[Policy, PyTree]) -> Float[Array, ""]:
        part, critic = moving
        return config.loss.value(rebuilt(part, inputs.reference), critic, inputs, batch)

    old: Any = (state.policy, state.critic)
    value, gradient = jax.value_and_grad(loss)(old)
    norm = optax.tree.norm(gradient)
    updates, optimiser = config.optimiser.transform().update(gradient, state.optimiser, old)
    new = optax.apply_updates(old, updates)
    finite = jnp.isfinite(value) & jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(new))
    running = finite & (state.diverged_step < 0)
    (policy, critic), optimiser = jax.tree.map(
        lambda new, old: jnp.where(running, new, old), (new, optimiser), (old, state.optimiser)
    )
    ledger = jax.tree.map(
        lambda total, spent: total + jnp.where(running, jnp.sum(spent), 0).astype(total.dtype),
        state.ledger,
        batch.spent,
    )
    return TrainState(
        policy,
        critic,
        optimiser,
        state.source,
        state.reference,
        ledger,
        jnp.where(~finite & (state.diverged_step < 0), step, state.diverged_step),
        state.loss + value,
        state.gradient_norm + norm,
    )


def advance(
    config: TrainConfig,
    inputs: TrainingInputs,
    state: TrainState,
    key: PRNGKeyArray,
    start: Int[Array, ""],
    steps: Int[Array, ""],
) -> TrainState:
    """``steps`` gradient steps from step ``start`` on; ``loss`` and ``gradient_norm`` become their means over these
    steps. ``start`` and ``steps`` are arguments of the compiled program, so one program serves runs of every length; 0
    steps are allowed."""
    return averaged(go_on(config, inputs, restarted(state), key, start, steps), steps)


def restarted(state: TrainState, anew: Bool[Array, ""] | bool = True) -> TrainState:
    """The state with its sums set to 0, if ``anew`` holds."""
    return eqx.tree_at(_sums, state, replace_fn=lambda total: jnp.where(anew, 0.0, total))


def averaged(state: TrainState, steps: Int[Array, ""]) -> TrainState:
    """The state with its sums replaced by means over ``steps`` steps."""
    return eqx.tree_at(_sums, state, replace_fn=lambda total: total / steps)


def go_on(
    config: TrainConfig,
    inputs: TrainingInputs,
    state: TrainState,
    key: PRNGKeyArray,
    start: Int[Array, ""],
    steps: Int[Array, ""],
) -> TrainState:
    """A part of `advance`: the sums continue from the state. Any division into parts gives the same result, to the last
    bit. Runs of a stack share ``steps``, and each has its own ``start``."""
    # The loop counts from 0: if every run had its own bounds, a batched loop would select between old and new states at
    # every step.
    return jax.lax.fori_loop(
        0, steps, lambda done, s: update(config, inputs, s, key, start + done), state
    )


def _sums(state: TrainState) -> tuple[Any, Any]:
    return state.loss, state.gradient_norm

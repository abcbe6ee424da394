"""The optimiser that every stage shares: AdamW with a clipped global gradient norm and a linear warm-up."""

from collections.abc import Callable
from typing import NamedTuple, Self, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from testbed.batches import CHUNK, in_chunks, minibatch
from testbed.config.canonical_form import read
from testbed.config.ranges import Checked, hyper
from testbed.errors import InvalidInput
from testbed.streams import Stream, stream

Model = TypeVar("Model", bound=PyTree)

#: How often early stopping measures the loss of held-out examples, at even distances.
CHECKS = 8


class OptimiserConfig(Checked):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101).

    Attributes:
        learning_rate: after warm-up; policies keep it from then on, as in arXiv 2405.08448.
        warmup: steps over which the rate rises linearly from 0.
        clip: largest global gradient norm.
        b1, b2: decay of Adam's means of gradients and of their squares. epsilon: added to the root of the mean of
            squares.
        weight_decay: decoupled from the gradient.
    """

    learning_rate: float = hyper(3e-4, above=0)
    warmup: float = hyper(20.0, least=0)
    clip: float = hyper(1.0, above=0)
    b1: float = hyper(0.9, least=0, below=1)
    b2: float = hyper(0.99, least=0, below=1)
    epsilon: float = hyper(1e-8, above=0)
    weight_decay: float = hyper(0.0, least=0)

    def transform(
        self, share: Callable[[Array], Array] | None = None
    ) -> optax.GradientTransformation:
        """The optax transformation; hyper-parameters may be traced. ``share`` maps the number of updates so far to the
        share of the rate that the next update has; none: 1."""

        def rate(count: Array) -> Array:
            warm = self.learning_rate * jnp.minimum(1.0, (count + 1) / (self.warmup + 1.0))
            return warm if share is None else warm * share(count)

        return optax.chain(
            optax.clip_by_global_norm(self.clip),  # pyright: ignore[reportArgumentType]
            optax.adamw(
                rate,  # pyright: ignore[reportArgumentType]
                self.b1,
                self.b2,
                self.epsilon,
                weight_decay=self.weight_decay,
            ),
        )


class FitConfig(Checked):
    """Supervised training: gradient steps, examples a step, and the optimiser.

    Attributes:
        decay: share of the steps, the last ones, over which the rate falls linearly to 0 (Defazio et al. 2023, arXiv
            2310.07831); 0: the rate stays constant.
        validation: number of examples, the last ones of the data, that no step learns from. Their mean loss is measured
            `CHECKS` times, and the model with the least is kept (early stopping); 0: the last model is kept.
    """

    steps: int = hyper(600, least=1, static=True)
    batch_size: int = hyper(64, least=1, static=True)
    optimiser: OptimiserConfig = OptimiserConfig(learning_rate=1e-3)
    decay: float = hyper(0.0, least=0, most=1, later=True)
    validation: int = hyper(0, least=0, static=True, later=True)

    def share(self, count: Array) -> Array:
        """Share of the rate that the update after ``count`` updates has."""
        return jnp.minimum(1.0, (self.steps - count) / (self.decay * self.steps))

    @property
    def cost(self) -> float:
        """The cost of training, in examples that are learnt from; early stopping only reads its examples, at a third of
        that."""
        return self.batch_size * self.steps + CHECKS * self.validation / 3

    def refuse_pairs(self, count: int, where: str = "") -> None:
        """Raise `InvalidInput`, with ``where`` in front of the field's name, if ``validation`` leaves less than a batch
        of ``count`` examples to learn from."""
        validation, batch_size = read(self, "validation"), read(self, "batch_size")
        if validation > count - batch_size:
            raise InvalidInput(
                f"{where}validation must leave a batch of {batch_size} of the {count} examples, got {validation}"
            )


class Fit(NamedTuple):
    """The state of supervised training: model, optimiser, order of examples, and the sum of the losses of the last
    tenth of steps."""

    model: PyTree
    optimiser: PyTree
    order: Int[Array, " example"]
    total: Float[Array, ""]


class Fitting(NamedTuple):
    """Supervised training that can stop between any two steps: its first state, and a function that trains a state from
    one step up to another."""

    start: Fit
    advance: Callable[[Fit, Int[Array, ""] | int, Int[Array, ""] | int], Fit]

    @classmethod
    def of(
        cls,
        loss: Callable[[Model, PyTree], Float[Array, " batch"]],
        model: Model,
        data: PyTree,
        config: FitConfig,
        key: PRNGKeyArray,
    ) -> Self:
        """Training to minimise the mean loss over ``data`` (leading axis: example), all of which is learnt from."""
        steps = config.steps
        transform = config.optimiser.transform(config.share)
        key = stream(key, Stream.ORDER)

        def body(step: Array, now: Fit) -> Fit:
            order, index = minibatch(now.order, key, step, config.batch_size)
            batch = jax.tree.map(lambda x: x[index], data)
            value, gradient = jax.value_and_grad(lambda m: jnp.mean(loss(m, batch)))(now.model)
            updates, state = transform.update(gradient, now.optimiser, now.model)
            total = now.total + jnp.where(step >= steps - _tail(steps), value, 0.0)
            return Fit(optax.apply_updates(now.model, updates), state, order, total)

        start = Fit(model, transform.init(model), jnp.arange(_examples(data)), jnp.zeros(()))
        return cls(start, lambda now, first, last: jax.lax.fori_loop(first, last, body, now))


def fit(
    loss: Callable[[Model, PyTree], Float[Array, " batch"]],
    model: Model,
    data: PyTree,
    config: FitConfig,
    key: PRNGKeyArray,
) -> tuple[Model, Float[Array, ""]]:
    """Minimise the mean loss over ``data`` (leading axis: example). Returns the model and the mean loss of the last
    tenth of steps. Raises `InvalidInput` if ``config.validation`` leaves less than a batch to learn from."""
    config.refuse_pairs(_examples(data))
    steps, learnt = config.steps, _examples(data) - config.validation
    held_out = jax.tree.map(lambda x: x[learnt:], data)
    fitting = Fitting.of(loss, model, jax.tree.map(lambda x: x[:learnt], data), config, key)
    if not config.validation:
        found = fitting.advance(fitting.start, 0, steps)
        return found.model, found.total / _tail(steps)

    def part(now: tuple[Fit, Model, Array], ends: tuple[Array, Array]) -> tuple[tuple, None]:
        state, best, least = now
        state = fitting.advance(state, *ends)
        value = jnp.mean(in_chunks(lambda batch: loss(state.model, batch), held_out, CHUNK))
        # A loss that is not a number is never the least.
        better = value < least
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), state.model, best)
        return (state, best, jnp.where(better, value, least)), None

    ends = jnp.round(jnp.linspace(0, steps, CHECKS + 1)).astype(jnp.int32)
    start = fitting.start, model, jnp.asarray(jnp.inf)
    (found, best, _), _ = jax.lax.scan(part, start, (ends[:-1], ends[1:]))
    return best, found.total / _tail(steps)


def _examples(data: PyTree) -> int:
    return jax.tree.leaves(data)[0].shape[0]


def _tail(steps: int) -> int:
    """Number of the last steps whose loss is reported."""
    return max(1, steps // 10)

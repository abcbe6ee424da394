"""The optimiser that every stage shares: AdamW with a clipped global gradient norm and a linear warm-up."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from testbed.batches import minibatch
from testbed.config.ranges import Checked, hyper
from testbed.streams import Stream, stream

Model = TypeVar("Model", bound=PyTree)


class OptimiserConfig(Checked):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101).

    Attributes:
        learning_rate: after warm-up; constant from then on, as in arXiv 2405.08448.
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

    def transform(self) -> optax.GradientTransformation:
        """The optax transformation; hyper-parameters may be traced."""

        def rate(count: Array) -> Array:
            return self.learning_rate * jnp.minimum(1.0, (count + 1) / (self.warmup + 1.0))

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
    """Supervised training: gradient steps, examples a step, and the optimiser."""

    steps: int = hyper(600, least=1, static=True)
    batch_size: int = hyper(64, least=1, static=True)
    optimiser: OptimiserConfig = OptimiserConfig(learning_rate=1e-3)


def fit(
    loss: Callable[[Model, PyTree], Float[Array, " batch"]],
    model: Model,
    data: PyTree,
    config: FitConfig,
    key: PRNGKeyArray,
) -> tuple[Model, Float[Array, ""]]:
    """Minimise the mean loss over ``data`` (leading axis: example). Returns the model and the mean loss of the last
    tenth of steps."""
    steps, batch_size = config.steps, config.batch_size
    transform = config.optimiser.transform()
    examples = jax.tree.leaves(data)[0].shape[0]
    key = stream(key, Stream.ORDER)
    tail = max(1, steps // 10)

    def body(step: Array, carry: tuple) -> tuple:
        model, state, order, total = carry
        order, index = minibatch(order, key, step, batch_size)
        batch = jax.tree.map(lambda x: x[index], data)
        value, gradient = jax.value_and_grad(lambda m: jnp.mean(loss(m, batch)))(model)
        updates, state = transform.update(gradient, state, model)
        total = total + jnp.where(step >= steps - tail, value, 0.0)
        return optax.apply_updates(model, updates), state, order, total

    start = (model, transform.init(model), jnp.arange(examples), jnp.zeros(()))
    model, _, _, total = jax.lax.fori_loop(0, steps, body, start)
    return model, total / tail

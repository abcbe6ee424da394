"""Language generation as a gymnax environment: a prompt, one token a step, golden reward at the end.

The world of a task is the environment's parameters, so one compiled program serves every world of a shape. This module
is separate from `testbed.environment` because gymnax imports all its own environments and drawing libraries, which
takes seconds, and only stepping needs it.
"""

from typing import Any

import equinox as eqx
import gymnax
import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from testbed.environment import AbstractTask, World
from testbed.types import END_TOKEN, Prompt, Response, Scalar

#: Under vmap, finished episodes are rewarded in at most `MOST_PAYMENTS` equal portions of at least `LEAST_PAID`.
MOST_PAYMENTS, LEAST_PAID = 16, 32


class State(eqx.Module):
    """Episode state: the prompt, the tokens written so far, and how many."""

    prompt: Prompt
    tokens: Int[Array, " response"]
    time: Int[Array, ""]
    ended: Bool[Array, ""]


@jax.custom_batching.custom_vmap
def _paid(world: World, prompt: Prompt, response: Response, done: Bool[Array, ""]) -> Scalar:
    """The reward of one response if it is done; otherwise 0, without computing anything."""
    return jax.lax.cond(done, lambda: world.reward(prompt, response), lambda: jnp.zeros(()))


@_paid.def_vmap
def _paid_lanes(
    lanes: int, batched: Any, world: World, prompt: Prompt, response: Response, done: Array
) -> tuple[Float[Array, " lane"], bool]:
    """`_paid` of many lanes: only the rewards of finished lanes are computed, some of them at a time.

    A plain vmap would turn the condition into a choice between both results, and every step would compute the reward of
    every lane.
    """
    arguments = (world, prompt, response)
    axes = jax.tree.map(lambda own: 0 if own else None, tuple(batched[:3]))
    size = min(lanes, max(LEAST_PAID, -(-lanes // MOST_PAYMENTS)))
    done = jnp.broadcast_to(done, lanes)
    last = -(-lanes // size) * size
    (order,) = jnp.nonzero(done, size=last, fill_value=lanes)

    def pay(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        start, rewards = carry
        index = jax.lax.dynamic_slice_in_dim(order, start, size)
        taken = jax.tree.map(
            lambda own, x: jnp.take(x, index, axis=0, mode="clip") if own else x,
            tuple(batched[:3]),
            arguments,
        )
        found = jax.vmap(lambda w, *text: w.reward(*text), axes, axis_size=size)(*taken)
        return start + size, rewards.at[index].set(found, mode="drop")

    count = jnp.sum(done)
    start = (jnp.zeros_like(count), jnp.zeros(lanes))
    _, rewards = jax.lax.while_loop(lambda carry: carry[0] < count, pay, start)
    return rewards, True


class TokenEnvironment(gymnax.environments.environment.Environment):
    """The gymnax environment of a task; its parameters are a `World`.

    Action: the next token. Observation: prompt and response so far, -1 where nothing is written. Reward: the
    world's, at the last step, 0 before. The end token *terminates* an episode, the length limit *truncates* it; both
    are rewarded. Roll out with ``step_env``: ``step`` pays for a reset at every call.
    """

    def __init__(self, task: AbstractTask) -> None:
        self.task = task

    def _identity(self) -> tuple[Any, ...]:
        return type(self), jax.tree.structure(self.task), *jax.tree.leaves(self.task)

    def __eq__(self, other: object) -> bool:
        """Environments of equal tasks are equal: gymnax compiles ``step`` once for all of them."""
        return isinstance(other, TokenEnvironment) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    @property
    def name(self) -> str:
        """The task's name."""
        return type(self.task).__name__

    @property
    def default_params(self) -> Any:
        """The task's world of seed 0."""
        return self.task.world(jax.random.key(0))

    @property
    def num_actions(self) -> int:
        """Size of the vocabulary, end token included."""
        return self.task.vocabulary

    def reset_env(self, key: PRNGKeyArray, params: Any) -> tuple[Array, State]:
        """Draw a prompt and start with an empty response."""
        tokens = jnp.full(self.task.response_length, END_TOKEN, dtype=jnp.int32)
        state = State(params.prompts(key), tokens, jnp.asarray(0), jnp.asarray(False))
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: PRNGKeyArray, state: State, action: Any, params: Any
    ) -> tuple[Array, State, Float[Array, ""], Bool[Array, ""], dict]:
        """Write one token."""
        token = jnp.asarray(action, dtype=jnp.int32)
        tokens = state.tokens.at[state.time].set(token)
        state = State(state.prompt, tokens, state.time + 1, token == END_TOKEN)
        done = state.ended | self.is_truncated(state, params)
        # Rewards need no gradient with respect to the world here, and a loop of unknown length has no reverse mode.
        fixed = jax.lax.stop_gradient(params)
        reward = _paid(fixed, state.prompt, Response(state.tokens, state.time), done)
        return self.observe(key, state, action, params), state, reward, state.ended, {}

    def observe(self, key: PRNGKeyArray, state: State, action: Any, params: Any) -> Array:
        """Prompt and response so far; -1 where nothing is written."""
        prompt, response = state.prompt, state.tokens
        return jnp.concatenate(
            [
                jnp.where(jnp.arange(prompt.tokens.shape[0]) < prompt.length, prompt.tokens, -1),
                jnp.where(jnp.arange(response.shape[0]) < state.time, response, -1),
            ]
        )

    def is_terminated(self, state: State, params: Any) -> Bool[Array, ""]:
        """Whether the response was closed by the end token."""
        return state.ended

    def is_truncated(self, state: State, params: Any) -> Bool[Array, ""]:
        """Whether the length limit was reached without an end token."""
        return (state.time >= self.task.response_length) & ~state.ended

    def action_space(self, params: Any = None) -> spaces.Discrete:
        """One token id."""
        return spaces.Discrete(self.task.vocabulary)

    def observation_space(self, params: Any = None) -> spaces.Box:
        """Token ids, -1 where nothing is written."""
        length = self.task.prompt_length + self.task.response_length
        return spaces.Box(-1, self.task.vocabulary - 1, (length,), jnp.int32)

    def state_space(self, params: Any = None) -> spaces.Dict:
        """Prompt, response and time."""
        vocabulary, limit = self.task.vocabulary, self.task.response_length
        return spaces.Dict(
            {
                "prompt": spaces.Dict(
                    {
                        "tokens": spaces.Box(
                            0, vocabulary - 1, (self.task.prompt_length,), jnp.int32
                        ),
                        "length": spaces.Discrete(self.task.prompt_length + 1),
                    }
                ),
                "tokens": spaces.Box(0, vocabulary - 1, (limit,), jnp.int32),
                "time": spaces.Discrete(limit + 1),
                "ended": spaces.Discrete(2),
            }
        )

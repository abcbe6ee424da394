"""The environment against gymnax's contract, against a replay by hand, and against the fast path."""

import dataclasses
import functools

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    PROMPT,
    TIME,
    VOCABULARY,
    SumGolden,
    SumTask,
    UniformPrompts,
    UniformWriters,
    cut,
    model,
    prompt,
    sum_reward,
    world,
)
from helpers import sample as decode_sample

from envs.neural import Neural
from testbed import decode
from testbed.environment import World
from testbed.token_environment import State, TokenEnvironment
from testbed.types import Response

ENVIRONMENT = TokenEnvironment(SumTask())
LANES, STEPS = 64, 3 * TIME


@functools.cache
def played():
    """64 environments, 15 steps of random tokens each, with `step` and its automatic resets."""

    def lane(key: jax.Array, params):
        k_reset, k_actions, k_steps = jax.random.split(key, 3)
        observation, state = ENVIRONMENT.reset(k_reset, params)
        actions = jax.random.randint(k_actions, (STEPS,), 0, VOCABULARY)

        def step(carry, inputs):
            _, state = carry
            observation, state, *rest = ENVIRONMENT.step(inputs[0], state, inputs[1], params)
            return (observation, state), (observation, state, *rest)

        inputs = (jax.random.split(k_steps, STEPS), actions)
        _, trace = jax.lax.scan(step, (observation, state), inputs)
        return observation, state, actions, trace

    keys = jax.random.split(jax.random.key(0), LANES)
    return jax.device_get(jax.jit(jax.vmap(lane, in_axes=(0, None)))(keys, world()))


def shown(given: np.ndarray, response: list[int]) -> list[int]:
    """The observation, by hand."""
    return [
        *given,
        *[-1] * (PROMPT - len(given)),
        *response,
        *[-1] * (TIME - len(response)),
    ]


def test_is_a_gymnax_environment() -> None:
    assert isinstance(ENVIRONMENT, gymnax.environments.environment.Environment)
    assert ENVIRONMENT.name == "SumTask"
    assert ENVIRONMENT.num_actions == VOCABULARY
    observation, state = ENVIRONMENT.reset(jax.random.key(1))
    assert len(ENVIRONMENT.step(jax.random.key(2), state, 3)) == 6
    assert ENVIRONMENT.observation_space().contains(observation)
    assert ENVIRONMENT.action_space().contains(ENVIRONMENT.action_space().sample(jax.random.key(3)))


def test_replay_by_hand() -> None:
    """Observation, reward, both ends and the reset of every step, from the actions and prompts alone."""
    observation, state, actions, trace = played()
    seen, states, reward, terminated, truncated, info = trace
    ends = {"terminated": 0, "truncated": 0}
    for lane in range(LANES):
        given, response = cut(state.prompt, lane), []
        assert observation[lane].tolist() == shown(given, response)
        for step in range(STEPS):
            action = int(actions[lane, step])
            response.append(action)
            ended, full = action == 0, action != 0 and len(response) == TIME
            place = (lane, step)
            assert (terminated[place], truncated[place]) == (ended, full)
            assert (info["terminated"][place], info["truncated"][place]) == (ended, full)
            assert info["final_observation"][place].tolist() == shown(given, response)
            if ended or full:
                expected = sum_reward(given, np.array(response))
                ends["terminated" if ended else "truncated"] += 1
                given, response = cut(states.prompt, place), []
            else:
                expected = 0.0
            assert reward[place] == pytest.approx(expected, abs=1e-6)
            assert seen[place].tolist() == shown(given, response)
            assert states.time[place] == len(response)
            assert not states.ended[place]
    assert min(ends.values()) > 20


def test_environments_of_equal_tasks_share_a_program() -> None:
    """gymnax compiles per environment: equal tasks must hash alike, tasks with other numbers must not be equal."""
    task = ENVIRONMENT.task
    again = TokenEnvironment(dataclasses.replace(task))
    assert again == ENVIRONMENT
    assert hash(again) == hash(ENVIRONMENT)
    assert TokenEnvironment(Neural(fluency_weight=0.25)) != TokenEnvironment(Neural())
    assert TokenEnvironment(Neural(vocabulary=9)) != TokenEnvironment(Neural())


def test_resets_draw_new_prompts() -> None:
    _, state, _, trace = played()
    fresh = trace[1].time == 0
    prompts = trace[1].prompt.tokens[fresh]
    assert len(np.unique(prompts, axis=0)) > 100
    before = np.broadcast_to(state.prompt.tokens[:, None], trace[1].prompt.tokens.shape)[fresh]
    assert np.mean((prompts != before).any(axis=-1)) > 0.95


def test_spaces_contain_what_happens() -> None:
    observation, state, actions, trace = played()
    seen, states, *_, info = trace
    everything = functools.partial(jax.tree.map, lambda x: x.reshape(-1, *x.shape[2:]))
    spaces = {
        "observation": (ENVIRONMENT.observation_space(), observation),
        "later observations": (ENVIRONMENT.observation_space(), everything(seen)),
        "final observations": (
            ENVIRONMENT.observation_space(),
            everything(info["final_observation"]),
        ),
        "state": (ENVIRONMENT.state_space(), state),
        "later states": (ENVIRONMENT.state_space(), everything(states)),
        "actions": (ENVIRONMENT.action_space(), everything(actions)),
    }
    for name, (space, values) in spaces.items():
        assert np.all(jax.jit(jax.vmap(space.contains))(values)), name
    space = ENVIRONMENT.observation_space()
    assert seen.shape[2:] == space.shape
    assert seen.dtype == space.dtype
    assert not space.contains(seen[0, 0] + VOCABULARY)
    outside = State(
        prompt([VOCABULARY] * PROMPT, 1), jnp.zeros(TIME, int), jnp.asarray(0), jnp.asarray(False)
    )
    assert not ENVIRONMENT.state_space().contains(outside)
    assert not ENVIRONMENT.action_space().contains(VOCABULARY)


def test_end_token_at_the_limit_terminates() -> None:
    """At the last position an end token ends the response by itself; nothing was cut."""
    state = State(
        prompt([2, 3, 0, 0], 2), jnp.array([1, 2, 3, 4, 0]), jnp.asarray(4), jnp.asarray(False)
    )
    key = jax.random.key(0)
    _, _, reward, terminated, truncated, _ = ENVIRONMENT.step(key, state, 0, world())
    assert (bool(terminated), bool(truncated)) == (True, False)
    assert float(reward) == (10.0 - 2.0 - 2.0) / 4.0
    _, _, reward, terminated, truncated, _ = ENVIRONMENT.step(key, state, 5, world())
    assert (bool(terminated), bool(truncated)) == (False, True)
    assert float(reward) == (15.0 - 2.0 - 2.0) / 4.0


CALLS: list[int] = []


class CountedGolden(SumGolden):
    """`SumGolden` that notes every evaluation, of many lanes together."""

    def __call__(self, prompt, response):
        jax.debug.callback(lambda: CALLS.append(1))
        return super().__call__(prompt, response)


def test_only_finished_episodes_pay_for_a_reward() -> None:
    """Of 64 lanes none, 3 or all end; a portion is 32. Each lane has a world of its own."""
    empty = State(prompt([2, 3, 0, 0], 2), jnp.zeros(TIME, int), jnp.asarray(0), jnp.asarray(False))
    state = jax.tree.map(lambda x: jnp.broadcast_to(x, (LANES, *x.shape)), empty)
    centres = jnp.arange(LANES, dtype=jnp.float32)
    worlds = jax.vmap(
        lambda c: World(UniformPrompts(), UniformWriters(), CountedGolden(), c, jnp.array(4.0))
    )(centres)
    step = jax.jit(jax.vmap(functools.partial(ENVIRONMENT.step_env, jax.random.key(0))))
    for ending, portions in ((0, 0), (3, 1), (LANES, 2)):
        CALLS.clear()
        actions = jnp.where(jnp.arange(LANES) >= LANES - ending, 0, 1)
        _, _, reward, _, _ = jax.block_until_ready(step(state, actions, worlds))
        jax.effects_barrier()
        assert len(CALLS) == portions
        expected = np.where(actions == 0, (0.0 - 2.0 - centres) / 4.0, 0.0)
        np.testing.assert_array_equal(reward, expected)


def test_lanes_of_several_worlds() -> None:
    """A vmap over worlds of a vmap over lanes: rewards by hand, wherever episodes end."""
    state = State(prompt([2, 3, 0, 0], 2), jnp.zeros(TIME, int), jnp.asarray(0), jnp.asarray(False))
    centres, actions = jnp.array([0.0, 2.0, 8.0]), jnp.array([1, 0, 4, 0, 2])

    def lane(centre, action):
        own = World(UniformPrompts(), UniformWriters(), SumGolden(), centre, jnp.array(4.0))
        return ENVIRONMENT.step_env(jax.random.key(0), state, action, own)[2]

    reward = jax.jit(jax.vmap(jax.vmap(lane, (None, 0)), (0, None)))(centres, actions)
    by_hand = np.where(actions == 0, (0.0 - 2.0 - centres[:, None]) / 4.0, 0.0)
    np.testing.assert_array_equal(reward, by_hand)


def test_fast_path_equals_stepping_the_environment() -> None:
    """`decode.sample` against `step_env` with a policy that reads observations: the same tokens, log-probabilities
    to 1e-5, and the rewards that the world gives to the sampled responses."""
    net, n = model(1), 48
    keys = jax.random.split(jax.random.key(5), n)
    prompts = jax.vmap(UniformPrompts())(jax.random.split(jax.random.key(6), n))

    def policy(net, observation: jax.Array) -> jax.Array:
        """Next-token logits: the visible tokens moved together, through the plain model."""
        visible = observation >= 0
        together = jnp.where(visible, observation, 0)[jnp.argsort(~visible, stable=True)]
        return net(together)[jnp.sum(visible) - 1]

    @jax.jit
    def stepped(net, prompts, keys, params):
        def lane(given, key):
            state = State(given, jnp.zeros(TIME, jnp.int32), jnp.asarray(0), jnp.asarray(False))
            key = jax.random.split(key, 1)[0]

            def step(carry, t):
                observation, state, over = carry
                logits = policy(net, observation)
                token = decode.draw(decode.uniform(key, t), logits)
                observation, state, reward, ended, _ = ENVIRONMENT.step_env(
                    key, state, token, params
                )
                out = token, jax.nn.log_softmax(logits)[token], reward, over
                return (observation, state, over | ended), out

            start = (ENVIRONMENT.observe(key, state, None, params), state, jnp.asarray(False))
            _, out = jax.lax.scan(step, start, jnp.arange(TIME))
            return out

        return jax.vmap(lane)(prompts, keys)

    token, logprob, reward, over = jax.device_get(stepped(net, prompts, keys, world()))
    found = jax.device_get(decode_sample(net, prompts, keys, time=TIME, count=1))
    np.testing.assert_array_equal(found.response.tokens[:, 0], np.where(over, 0, token))
    np.testing.assert_array_equal(found.response.length[:, 0], (~over).sum(axis=1))
    np.testing.assert_allclose(found.logprobs[:, 0], np.where(over, 0.0, logprob), atol=1e-5)
    golden = jax.jit(jax.vmap(world().reward))(prompts, first(found.response))
    last = found.response.length[:, 0] - 1
    np.testing.assert_allclose(reward[np.arange(n), last], golden, atol=1e-6)
    assert np.all(np.where(np.arange(TIME) < last[:, None], reward, 0.0) == 0.0)
    assert len(set(found.response.length[:, 0].tolist())) > 2
    by_hand = [sum_reward(cut(prompts, i), cut(first(found.response), i)) for i in range(n)]
    np.testing.assert_allclose(golden, by_hand, atol=1e-6)


def first(response: Response) -> Response:
    """The first of the stacked responses to each prompt."""
    return jax.tree.map(lambda x: jnp.asarray(x[:, 0]), response)

"""Rules that every loss, method, source, reference, proxy, task and golden reward keeps, found by walking their
packages.

The other families: labelers in `tests/envs/test_labelers.py`, studies in `tests/sweeps/test_studies.py`, rules and
estimands in `test_judging.py`.
"""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from helpers import (
    BATCH,
    VOCABULARY,
    experiment,
    prompts,
    responses,
    scored_pair,
    training_inputs,
    world,
)

from envs.goldens.human_rating import HumanRating
from envs.goldens.random_head import RandomTaste
from envs.goldens.residual import Residual
from envs.goldens.sentiment import Sentiment
from envs.goldens.variety import Variety
from envs.labelers.bradley_terry import BradleyTerry
from sweeps import contracts
from sweeps.contracts import samples
from sweeps.contracts.goldens import (
    check_golden,
    check_golden_shape,
    check_rewards,
    parts,
    require_same,
)
from sweeps.contracts.samples import Sizes
from sweeps.contracts.worlds import check_form, check_sizes, check_text
from testbed import train
from testbed.config import describe, fingerprint, members, replace
from testbed.config.canonical_form import default_of, fields_of
from testbed.environment import AbstractGolden, AbstractTask
from testbed.errors import InvalidInput
from testbed.losses.base import AbstractLoss
from testbed.objective import AbstractObjective
from testbed.optimiser import OptimiserConfig
from testbed.preference import GoldenPreference
from testbed.proxies.base import AbstractProxyConfig
from testbed.proxies.linear_head import HeadConfig
from testbed.recorded_runs.recorded_run import Given, Recorded
from testbed.references.base import AbstractReference
from testbed.source import AbstractSource, Request, RolloutFunction, TrainingInputs, write_pairs
from testbed.sources.online import Online
from testbed.stages import online_run
from testbed.token_environment import TokenEnvironment
from testbed.train import OnlineRun, TrainConfig, TrainState
from testbed.types import PairScores, Prompt, Response

TASKS = members(AbstractTask, AbstractTask.family)
#: Tasks whose worlds can be drawn here and now; of the others tests of their own draw one.
DRAWN = {name: kind for name, kind in TASKS.items() if not kind.checkpointed}
LOSSES = members(AbstractLoss, AbstractLoss.family)
OBJECTIVES = members(AbstractObjective, AbstractObjective.family)
SOURCES = members(AbstractSource, AbstractSource.family)
METHODS = {name: kind for name, kind in OBJECTIVES.items() if name not in LOSSES}
GOLDENS = members(AbstractGolden, AbstractGolden.family)
#: Golden rewards of text worlds, whose checkpoint would have to be fetched.
ON_A_CHECKPOINT = ("HumanRating", "RandomHead", "Residual", "Sentiment")
#: Responses on which a golden reward is tried.
N_TEXTS = 48
PROXIES = members(AbstractProxyConfig, AbstractProxyConfig.family)
#: Families whose check compiles a policy; losses, labelers and tasks are checked where they are tested.
JUDGED = METHODS | SOURCES | members(AbstractReference, AbstractReference.family) | PROXIES
EXAMPLE = experiment()


@pytest.mark.parametrize("kind", [*TASKS.values(), *OBJECTIVES.values(), *SOURCES.values()])
def test_members_are_configs(kind: type) -> None:
    """Documented, built from defaults, and named by content."""
    assert kind.__doc__
    assert describe(kind())["kind"] == kind.__name__
    assert fingerprint(kind()) == fingerprint(kind())


@pytest.mark.parametrize("kind", LOSSES.values(), ids=LOSSES)
def test_losses_are_finite_with_finite_slopes(kind: type) -> None:
    """As a user's loss must be; and also where log-probabilities are hundreds of nats apart."""
    contracts.check_member(kind(), EXAMPLE)
    far = jnp.array([-300.0, -1.0])
    loss = jax.tree.map(jnp.asarray, kind())

    @jax.jit
    def slope(loss, winner, loser):
        scores = PairScores(winner, loser)
        anchor = PairScores(jnp.asarray(-20.0), jnp.asarray(-20.0))
        return jax.value_and_grad(
            lambda p: loss(scored_pair(p, anchor, (5, 3), reward_margin=1.0, target=p.winner))
        )(scores)

    for winner in far:
        for loser in far:
            found = slope(loss, winner, loser)
            assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(found))
            assert found[0].shape == ()


@pytest.mark.parametrize("kind", JUDGED.values(), ids=JUDGED)
def test_members_pass_what_users_classes_are_held_to(kind: type) -> None:
    """Methods, sources, references and proxies, by the check that commands make of a user's own."""
    contracts.check_member(kind(layers=1) if kind is HeadConfig else kind(), EXAMPLE)


@functools.cache
def given(kind: type) -> TrainingInputs:
    """What a source of this kind draws on: what it has prepared is made of a short recorded run."""
    plain, key = training_inputs(), jax.random.key(1)
    run = OnlineRun(steps=4, batch_size=BATCH)
    made = jax.jit(online_run.make)(Recorded(run), plain, GoldenPreference(world()), key)
    parts = Given(plain, made, world(), BradleyTerry(), key)
    prepared, _ = jax.jit(lambda source, parts: source.prepare(parts))(kind(), parts)
    return TrainingInputs(plain.data, plain.reference, plain.teacher, prepared)


@functools.cache
def drawing(kind: type, rollout: RolloutFunction):
    """The first steps of a source of this kind, with texts as rollouts write them: one program for all that ask for
    the same."""

    def start(source, inputs, policy):
        return source.init(inputs, policy, Request(BATCH, rollout))

    def draw(source, state, inputs, policy, step):
        key = jax.random.key(1)
        return source.draw(state, inputs, policy, Request(BATCH, rollout), key, step)

    return jax.jit(start), jax.jit(draw)


prepare = jax.jit(lambda loss, *arguments: loss.prepare(*arguments))


@jax.jit
def learn(config: TrainConfig, given: TrainingInputs, state: TrainState, batch, step):
    state = eqx.tree_at(lambda s: (s.loss, s.gradient_norm), state, (jnp.zeros(()),) * 2)
    return train.learn(config, given, state, batch, step)


def unpriced(objective: AbstractObjective) -> AbstractObjective:
    """The same without a KL penalty, where it can be without."""
    try:
        return replace(objective, "beta", 0.0)
    except InvalidInput:
        return objective


#: All pairs of objectives and sources take minutes; the quick tests have every objective on the two simplest sources.
_SOURCES = [
    pytest.param(kind, id=name, marks=() if name in ("Offline", "Online") else pytest.mark.slow)
    for name, kind in SOURCES.items()
]


@pytest.mark.parametrize("source", _SOURCES)
@pytest.mark.parametrize("kind", OBJECTIVES.values(), ids=OBJECTIVES)
def test_every_objective_learns_from_every_source(kind: type, source: type) -> None:
    """Three steps on any source that can feed it are finite and move the policy, and one batch is memorised; a source
    that cannot is refused with a sentence that says why and what to use.

    These are the parts of `train.update`, compiled apart: each source and each objective once, not all their pairs."""
    objective = kind()
    if not source().writes and objective.request(BATCH).rollout is not write_pairs:
        why = (
            rf"loss {kind.__name__} .*learns from .*, and {source.__name__}.*: use source Online.*"
        )
        with pytest.raises(InvalidInput, match=why):
            TrainConfig(source(), objective, OptimiserConfig(), BATCH)
        return
    config = TrainConfig(Online(), objective, OptimiserConfig(3e-3, warmup=0.0), BATCH)
    artifacts, key = given(source), jax.random.key(1)
    begin, draw = drawing(source, objective.request(BATCH).rollout)
    state = eqx.tree_at(lambda s: s.source, train.init(config, artifacts), None)
    drawn = begin(source(), artifacts, state.policy)
    bare = TrainingInputs(artifacts.data, artifacts.reference, artifacts.teacher)
    for step in map(jnp.asarray, range(3)):
        batch, drawn = draw(source(), drawn, artifacts, state.policy, step)
        if objective.fresh:
            batch = prepare(objective, batch, bare, state.policy, key, step)
        state = learn(config, bare, state, batch, step)
        assert int(state.diverged_step) == -1
        assert np.isfinite(float(state.loss))
    moved = jax.tree.map(lambda a, b: np.any(a != b), state.policy, artifacts.reference)
    assert all(jax.tree.leaves(moved))
    # A KL price in the reward has no gradient: the loss of a policy gradient moves with it, up or down.
    config = eqx.tree_at(lambda c: c.loss, config, unpriced(objective))
    values = []
    for _ in range(30):
        state = learn(config, bare, state, batch, step)
        values.append(float(state.loss))
    assert int(state.diverged_step) == -1
    assert values[-1] < values[0] - 0.02 * abs(values[0])


LANES = 64


@functools.cache
def program(kind: type):
    """A world, prompts, written responses, and the rewards of these, of the same with junk behind their ends, and of
    responses of a repeated token that never end: one program a task."""

    def use(task: AbstractTask, world_key, key):
        drawn = task.world(world_key)
        k_prompts, k_writers = jax.random.split(key)
        prompts = jax.vmap(drawn.prompts)(jax.random.split(k_prompts, LANES))
        written = jax.vmap(drawn.writers)(jax.random.split(k_writers, LANES), prompts)
        junk = Response(jnp.where(written.mask, written.tokens, 1), written.length)
        endless = Response(
            jnp.ones_like(written.tokens), jnp.full_like(written.length, task.response_length)
        )
        together = jax.tree.map(lambda *parts: jnp.concatenate(parts), written, junk, endless)
        thrice = jax.tree.map(lambda x: jnp.concatenate([x, x, x]), prompts)
        reward = jax.vmap(drawn.reward)(thrice, together)
        return drawn, prompts, written, reward.reshape(3, LANES)

    return jax.jit(use)


@functools.cache
def made(kind: type):
    """A task with its defaults, and what `program` makes of it."""
    return kind(), *program(kind)(kind(), jax.random.key(0), jax.random.key(1))


@pytest.fixture(scope="module", params=DRAWN.values(), ids=DRAWN)
def drawn(request):
    """`made`, of every task."""
    return made(request.param)


@pytest.mark.parametrize("kind", TASKS.values(), ids=TASKS)
def test_tasks_have_the_form_that_users_tasks_are_held_to(kind: type) -> None:
    """Their values are checked below, and so are those of golden rewards."""
    (check_sizes if kind.checkpointed else check_form)(kind())


def test_worlds_write_valid_text(drawn) -> None:
    task, _, prompts, written, _ = drawn
    assert prompts.tokens.shape == (LANES, task.prompt_length)
    assert written.tokens.shape == (LANES, task.response_length)
    for part in (prompts, written):
        check_text(type(task).__name__, part, Sizes.of(task))
        assert np.all((part.tokens >= 0) & (part.tokens < task.vocabulary))
        assert np.all((part.length >= 1) & (part.length <= part.tokens.shape[1]))
    tokens, length = np.asarray(written.tokens), np.asarray(written.length)
    last = np.take_along_axis(tokens, length[:, None] - 1, axis=1)[:, 0]
    assert np.all((last == 0) | (length == task.response_length))
    assert np.all(tokens[np.arange(task.response_length) >= length[:, None]] == 0)
    assert np.all(tokens[np.arange(task.response_length) < length[:, None] - 1] != 0)
    assert len(np.unique(prompts.tokens, axis=0)) > LANES / 2


def test_golden_reward_is_a_finite_function_of_the_text(drawn) -> None:
    """It varies, and what stands behind the end is not text."""
    _, world, _, written, (reward, with_junk, endless) = drawn
    check_rewards(world.golden, written, np.asarray(reward))
    assert np.all(np.isfinite(reward))
    assert np.all(np.isfinite(endless))
    assert np.std(reward) > 0.1
    np.testing.assert_allclose(with_junk, reward, atol=1e-5)


def test_worlds_differ_by_key_alone(drawn) -> None:
    """The same keys give the same world, prompts, text and rewards to the last bit, another key another world."""
    task, *found = drawn
    make = program(type(task))
    again = make(task, jax.random.key(0), jax.random.key(1))
    other = make(task, jax.random.key(7), jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, again, tuple(found))
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.any(a != b)), other[0], found[0])))
    assert np.any(other[-1] != found[-1])


def test_tasks_play_as_environments(drawn) -> None:
    """An episode that never ends is cut at the limit and rewarded there as the world rewards it, and nowhere before."""
    task, world, prompts, _, (_, _, endless) = drawn
    environment = TokenEnvironment(task)
    observation, state = environment.reset(jax.random.key(2), world)
    assert environment.observation_space().contains(observation)
    state = eqx.tree_at(lambda s: s.prompt, state, jax.tree.map(lambda x: x[0], prompts))
    for step in range(task.response_length):
        assert environment.state_space().contains(state)
        observation, state, reward, terminated, truncated, _ = environment.step(
            jax.random.key(step), state, 1, world
        )
        assert environment.observation_space().contains(observation)
        assert not terminated
        assert bool(truncated) == (step == task.response_length - 1)
        expected = float(endless[0]) if truncated else 0.0
        assert float(reward) == pytest.approx(expected, abs=1e-4)


def on_a_checkpoint() -> dict[str, AbstractGolden]:
    """Golden rewards of text worlds, on the tiny checkpoint instead of one that would have to be fetched."""
    size = {"vocabulary": tiny.VOCABULARY}
    model, tokenizer = tiny.loaded()
    asked, written = prompts(N_TEXTS, **size), responses(N_TEXTS, **size)
    each = jax.tree.map(lambda x: jnp.stack([x, x[::-1]], axis=1), written)
    taste = RandomTaste(layers=2, units=8)
    drawn = taste.golden(jax.random.key(0), model, None, asked, each)
    words = tokenizer.words(tiny.VOCABULARY)
    return {
        "RandomHead": drawn,
        "HumanRating": HumanRating(drawn.trunk, drawn.head),
        "Residual": Residual.standardised(Variety(), asked, each, without_length=True),
        "Sentiment": Sentiment.of(words, {"great": 3.0, "bad": -2.0, "film": 1.0, "a": 0.5}),
    }


def an_example(kind: type) -> tuple[AbstractGolden, Prompt, Response, int]:
    """A golden reward of a kind with prompts, responses of every length, and the number of token ids: with its
    defaults, or as a task's world has it."""
    name, built = kind.__name__, None
    if all(default_of(field) is not dataclasses.MISSING for field in fields_of(kind)):
        built, vocabulary = kind(), VOCABULARY
    elif name in ON_A_CHECKPOINT:
        built, vocabulary = on_a_checkpoint()[name], tiny.VOCABULARY
    if built is not None:
        return built, prompts(N_TEXTS, 0, vocabulary), responses(N_TEXTS, 0, vocabulary), vocabulary
    for task in DRAWN.values():
        config, world, asked, _, _ = made(task)
        for part in parts(world.golden):
            if type(part) is kind:
                asked = jax.tree.map(lambda x: x[:N_TEXTS], asked)
                sizes = Sizes.of(config)
                return part, asked, samples.responses(sizes, N_TEXTS), sizes.vocabulary
    pytest.fail(
        f"{name} is part of no task's world and has fields without defaults: give them defaults"
    )


def padded(text):
    """The same text with three places more behind its end."""
    return type(text)(jnp.pad(text.tokens, ((0, 0), (0, 3))), text.length)


def together(golden: AbstractGolden, prompts: Prompt, texts: Response) -> np.ndarray:
    """The rewards of all texts at once."""
    return np.asarray(samples.quick(jax.vmap(golden))(prompts, texts))


@pytest.mark.parametrize("kind", GOLDENS.values(), ids=GOLDENS)
def test_goldens_are_functions_of_the_text_alone(kind: type) -> None:
    """Finite; equal when computed again, one by one or together; blind to what stands behind the ends; different within
    prompts; and independent of the room behind the ends."""
    assert kind.__doc__
    golden, asked, texts, vocabulary = an_example(kind)
    prompt, text = (jax.tree.map(lambda x: x[0], given) for given in (asked, texts))
    check_golden_shape(golden, prompt, text)
    rewards = together(golden, asked, texts)
    check_golden(golden, asked, texts, vocabulary, rewards)
    reads_room = any(part.reads_room for part in parts(golden))
    again = together(golden, padded(asked), texts if reads_room else padded(texts))
    require_same(golden, rewards, again, "with more room behind its end", "the same reward")

"""What every task's world is held to: a reachable best, rewards that differ within a prompt, no cheap tricks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from testbed.config import members
from testbed.environment import AbstractTask, World
from testbed.types import END_TOKEN, Prompt, Response, response_length

#: Those that need no checkpoint, whose vocabulary is too large for what is tried here besides.
TASKS = {
    name: kind
    for name, kind in members(AbstractTask, AbstractTask.family).items()
    if not kind.checkpointed
}
#: Prompts, and writers' responses to each.
PROMPTS, EACH = 64, 32
#: Writers' responses to other prompts that are tried as constant answers; prompts that repeated tokens are tried on.
CONSTANTS, FEW = 16, 16
#: Rewards worked out at a time.
CHUNK = 256


@functools.cache
def program(kind: type):
    """Writers' responses, the best known ones where there are any, and the golden rewards of these and of trivial
    answers (leading axis: prompt); all rewards in one loop, which is most of what there is to compile."""

    def use(task: AbstractTask, key):
        time = task.response_length
        k_world, k_prompts, k_writers, k_ideal = jax.random.split(key, 4)
        world = task.world(k_world)
        prompts = jax.vmap(world.prompts)(jax.random.split(k_prompts, PROMPTS))
        keys = jax.random.split(k_writers, (PROMPTS, EACH))
        written = jax.vmap(jax.vmap(world.writers, (0, None)))(keys, prompts)

        def everywhere(tokens, count):
            """The same answers to the first prompts."""
            return jnp.broadcast_to(tokens[None], (count, *tokens.shape))

        counts = jnp.arange(1, time + 1)[None, :, None]
        token = jnp.arange(1, task.vocabulary)[:, None, None]
        repeated = jnp.where(jnp.arange(time)[None, None] < counts, token, END_TOKEN)
        texts = {
            "writers": written.tokens,
            "empty": jnp.full((PROMPTS, 1, time), END_TOKEN),
            "copy": jnp.pad(prompts.tokens, ((0, 0), (0, time)))[:, None, :time],
            "constant": everywhere(written.tokens[:CONSTANTS, 0], PROMPTS),
            "repeated": everywhere(repeated.reshape(-1, time), FEW),
        }
        ideal = None
        if world.ideal is not None:
            ideal = jax.vmap(world.ideal)(jax.random.split(k_ideal, PROMPTS), prompts)
            texts["ideal"] = ideal.tokens[:, None]
        return written, ideal, rewards(world, prompts, texts)

    return jax.jit(use)


def rewards(world: World, prompts: Prompt, texts: dict) -> dict:
    """Golden rewards of every group of texts, each of them (prompt, answer, token)."""
    shapes = [text.shape[:2] for text in texts.values()]
    sizes = [rows * columns for rows, columns in shapes]
    which = np.concatenate([np.repeat(np.arange(rows), columns) for rows, columns in shapes])
    tokens = jnp.concatenate([text.reshape(-1, text.shape[2]) for text in texts.values()])
    # The last chunk is filled up from the front, so that chunks are alike.
    padded = np.arange(-(-sum(sizes) // CHUNK) * CHUNK) % sum(sizes)
    asked = jax.tree.map(lambda x: x[which[padded]], prompts)
    answers = Response(tokens[padded], response_length(tokens[padded]))
    chunks = jax.tree.map(lambda x: x.reshape(-1, CHUNK, *x.shape[1:]), (asked, answers))
    found = jax.lax.map(lambda chunk: jax.vmap(world.golden)(*chunk), chunks).ravel()
    parts = jnp.split(found[: sum(sizes)], np.cumsum(sizes)[:-1].tolist())
    return {
        name: part.reshape(shape) for name, part, shape in zip(texts, parts, shapes, strict=True)
    }


@pytest.fixture(scope="module", params=TASKS.values(), ids=TASKS)
def found(request):
    """A task with its defaults, and what `program` finds."""
    task = request.param()
    return task, *jax.device_get(program(request.param)(task, jax.random.key(3)))


def test_best_known_response_is_valid(found) -> None:
    task, _, ideal, _ = found
    if ideal is None:
        pytest.skip("no best response is known")
    assert ideal.tokens.shape == (PROMPTS, task.response_length)
    assert np.all((ideal.tokens >= 0) & (ideal.tokens < task.vocabulary))
    np.testing.assert_array_equal(ideal.length, response_length(jnp.asarray(ideal.tokens)))
    behind = np.arange(task.response_length)[None] >= ideal.length[:, None]
    assert np.all(ideal.tokens[behind] == END_TOKEN)


def test_best_known_response_stands_out(found) -> None:
    """It is a standard deviation of the writers' or more above their mean; where none is known, the best of 32."""
    *_, reward = found
    written = reward["writers"]
    best = reward.get("ideal", written.max(axis=1))
    assert best.mean() > written.mean() + written.std()


def test_rewards_vary_within_prompts(found) -> None:
    *_, reward = found
    written = reward["writers"]
    assert np.var(written, axis=1, ddof=1).mean() / np.var(written) >= 1 / 3


def test_writers_differ_and_rewards_seldom_tie(found) -> None:
    """Two responses to a prompt mostly differ; if they do, so do their rewards, but for one pair in 20."""
    _, written, _, reward = found
    golden, half = reward["writers"], EACH // 2
    same = np.all(written.tokens[:, :half] == written.tokens[:, half:], axis=-1)
    assert same.mean() < 0.5
    assert np.mean((golden[:, :half] == golden[:, half:])[~same]) < 0.05


def test_trivial_answers_do_not_win(found) -> None:
    """Empty, constant, repeated-token and prompt-copying answers, whichever is the best of its kind, stay below the
    writers' 99th percentile on average over prompts, but for those that a task names in ``won_by``."""
    task, _, _, reward = found
    limit = np.quantile(reward["writers"], 0.99)
    tried = {"empty", "constant", "repeated", "copy"} - set(getattr(task, "won_by", ()))
    best = {name: float(reward[name].mean(axis=0).max()) for name in tried}
    assert max(best.values()) <= limit, f"{best} against {limit}"

"""The mixture of transformers as writers: chunks by hand, and every response against sampling from its own writer."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import PROMPT, TIME, VOCABULARY, model

from envs.writers import Chunks, TransformerWriters
from testbed import decode
from testbed.streams import Stream, stream
from testbed.types import Prompt


def test_chunks_hold_one_group_each_and_give_every_item_back() -> None:
    """Group 0 has no item, group 1 three, group 2 one: two places a chunk make 1 1 | 1 . | 2 . , and the most uneven
    groups would need no more than the (4 + 3) // 2 chunks that there are."""
    chunks = Chunks.of(jnp.asarray([1, 2, 1, 1]), groups=3, size=2)
    np.testing.assert_array_equal(chunks.group, [1, 1, 2])
    assert np.asarray(chunks.index)[[0, 0, 1, 2], [0, 1, 0, 0]].tolist() == [0, 2, 3, 1]
    np.testing.assert_array_equal(chunks.undone(chunks.index), np.arange(4))


def test_chunks_hold_any_groups() -> None:
    """Whatever the groups, every item stands in a chunk of its own group."""
    draws = np.random.default_rng(0)
    for groups in (1, 2, 5):
        for _ in range(20):
            group = draws.integers(0, draws.integers(1, groups + 1), size=17)
            chunks = Chunks.of(jnp.asarray(group), groups, size=4)
            np.testing.assert_array_equal(chunks.undone(chunks.index), np.arange(17))
            owners = np.repeat(np.asarray(chunks.group)[:, None], 4, axis=1)
            np.testing.assert_array_equal(chunks.undone(jnp.asarray(owners)), group)


def test_every_response_is_sampled_from_the_writer_who_was_picked() -> None:
    """Of 40 responses to 20 prompts, with all three writers at work."""
    models = [model(seed) for seed in range(3)]
    writers = TransformerWriters(jax.tree.map(lambda *x: jnp.stack(x), *models), TIME)
    drawn = np.random.default_rng(0).integers(1, VOCABULARY, size=(20, PROMPT))
    prompts = Prompt(jnp.asarray(drawn, jnp.int32), jnp.full(20, PROMPT))
    keys = jax.random.split(jax.random.key(3), (20, 2))
    found = jax.jit(lambda keys, prompts: writers.write(keys, prompts))(keys, prompts)
    samples = jax.vmap(jax.vmap(lambda key: stream(key, Stream.SAMPLES)))(keys)
    who = np.asarray(
        jax.vmap(jax.vmap(lambda key: jax.random.randint(stream(key, Stream.WORLD), (), 0, 3)))(
            keys
        )
    )
    assert set(who.reshape(-1)) == {0, 1, 2}
    write = jax.jit(decode.sample, static_argnums=(3, 4))
    for j in range(2):
        each = [write(m, prompts, samples[:, j], TIME, 1).response for m in models]
        tokens = np.stack([np.asarray(response.tokens[:, 0]) for response in each])
        expected = tokens[who[:, j], np.arange(20)]
        np.testing.assert_array_equal(found.tokens[:, j], expected)
        alone = jax.jit(lambda keys, prompts: jax.vmap(writers)(keys, prompts))(keys[:, j], prompts)
        np.testing.assert_array_equal(alone.tokens, expected)
        np.testing.assert_array_equal(alone.length, found.length[:, j])

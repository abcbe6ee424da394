"""The first stages: shared data of worlds, the world, and its writers' texts."""

import jax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from testbed.data.collect import Written, write
from testbed.data.spec import TextCounts
from testbed.environment import AbstractTask, World
from testbed.streams import Stream, stream

#: A run's seed: a number, or a traced one.
Seed = int | Int[Array, ""]


def load_material(task: AbstractTask, content: str | None) -> PyTree:
    """Data that every world of the task shares and that no key draws. ``content`` identifies the content of the files
    behind them."""
    return task.material()


def draw_world(task: AbstractTask, golden: Seed, writers: Seed | None, material: PyTree) -> World:
    """Draw the world from the golden reward's seed; ``writers``, if it is given, is the seed of the writers."""
    key = stream(jax.random.key(golden), Stream.WORLD)
    if writers is None:
        return task.world_on(material, key)
    return task.world_with(material, key, stream(jax.random.key(writers), Stream.WORLD))


def write_texts(counts: TextCounts, seed: Seed, world: World) -> Written:
    """Generate the texts of the world's writers."""
    held_out = stream(jax.random.key(seed), Stream.HELD_OUT)
    return write(world, counts, corpus_key(seed), held_out)


def corpus_key(seed: Seed) -> PRNGKeyArray:
    """The key of the corpus: the prompts and texts from which the data are made."""
    return stream(jax.random.key(seed), Stream.PROMPTS)

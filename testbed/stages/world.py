"""The first stages: shared data of worlds, the world, and its writers' texts."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from testbed.data.collect import Written, write
from testbed.data.spec import TextCounts
from testbed.environment import AbstractTask, World
from testbed.streams import Stream, stream

#: A run's seed: a number, or a traced one.
Seed = int | Int[Array, ""]


class DrawnWorld(NamedTuple):
    """The world, and its writers' texts."""

    world: World
    written: Written


def load_material(task: AbstractTask, content: str | None) -> PyTree:
    """Data that every world of the task shares and that no key draws. ``content`` identifies the content of the files
    behind them."""
    return task.material()


def draw_world(task: AbstractTask, counts: TextCounts, seed: Seed, material: PyTree) -> DrawnWorld:
    """Draw the world, and generate its writers' texts."""
    key = jax.random.key(seed)
    world = task.world_on(material, stream(key, Stream.WORLD))
    written = write(world, counts, corpus_key(seed), stream(key, Stream.HELD_OUT))
    return DrawnWorld(world, written)


def corpus_key(seed: Seed) -> PRNGKeyArray:
    """The key of the corpus: the prompts and texts from which the data are made."""
    return stream(jax.random.key(seed), Stream.PROMPTS)

"""The first stages: what worlds are made of, the world, and what its writers wrote."""

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
    """The world, and what its writers wrote."""

    world: World
    written: Written


def load_material(task: AbstractTask, content: str | None) -> PyTree:
    """What worlds are made of that no key draws. ``content`` names the content of the files behind it."""
    return task.material()


def draw_world(task: AbstractTask, counts: TextCounts, seed: Seed, material: PyTree) -> DrawnWorld:
    """Draw the world, and let its writers write."""
    key = jax.random.key(seed)
    world = task.world_on(material, stream(key, Stream.WORLD))
    written = write(world, counts, corpus_key(seed), stream(key, Stream.HELD_OUT))
    return DrawnWorld(world, written)


def corpus_key(seed: Seed) -> PRNGKeyArray:
    """The key of the prompts and texts that the data are made of."""
    return stream(jax.random.key(seed), Stream.PROMPTS)

"""Named random streams: the key of every draw is its parent key with the stream's number folded in.

Splitting one key in several places gives colliding streams (``split(key, 2)[0] == split(key, 128)[0]``), and so does
splitting a key that streams are also folded into (``split(key, n)[i] == fold_in(key, i)``). So a key is either split or
given named streams, never both.
"""

import enum

import jax
from jaxtyping import PRNGKeyArray


class Stream(enum.IntEnum):
    """The purpose of a key. The values are part of the reproducibility contract: new ones may be added, and none may
    change."""

    WORLD = 0
    PROMPTS = 1
    FIRST_RESPONSE = 2
    SECOND_RESPONSE = 3
    LABELS = 4
    HELD_OUT = 5
    SFT = 6
    STANDARDISE = 7
    PROXY = 8
    BASELINE = 9
    TRAINING = 10
    EVALUATION = 11
    ORDER = 12
    SAMPLES = 13
    BASELINE_RESPONSES = 14
    CANDIDATES = 15
    DATA = 16
    MIXTURE = 17
    GENERATED = 18
    REUSED = 19
    SHUFFLE = 20
    FRESH = 21
    ADAPTERS = 22


def stream(key: PRNGKeyArray, name: Stream) -> PRNGKeyArray:
    """The key of a named stream."""
    return jax.random.fold_in(key, int(name))

"""Streams that are too long for the device: they are recorded to disk in parts, and replayed from there.

This module runs on the host. The numbers are those of `testbed.sources.record.Record` and
`testbed.sources.replay.Replay` to the last bit: the same steps with the same keys, only in parts.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from testbed import train
from testbed.errors import InvalidInput
from testbed.recorded_runs.pair_stream import Recording, shuffled
from testbed.source import Supply
from testbed.sources.record import Record
from testbed.sources.replay import Replay
from testbed.streams import Stream, stream
from testbed.train import TrainConfig, TrainState

_INDEX = "recording.json"
_init, _advance = jax.jit(train.init), jax.jit(train.advance, donate_argnums=2)


def record(
    config: TrainConfig,
    supply: Supply,
    key: PRNGKeyArray,
    steps: int,
    directory: Path,
    room: int = 256,
) -> TrainState:
    """Train for ``steps`` steps and write the stream of pairs into ``directory``, ``room`` steps at a time.

    The directory can be read once it is complete. Raises `InvalidInput` if it holds a recording already, if ``steps``
    or ``room`` is below 1, or if the disk refuses.
    """
    if steps < 1 or room < 1:
        raise InvalidInput(f"steps and room must be at least 1, got {steps} and {room}")
    if (directory / _INDEX).exists():
        raise InvalidInput(f"directory {directory} holds a recording already: choose another")
    source = Record(config.source, min(room, steps))
    config = dataclasses.replace(config, source=source)
    state = _init(config, supply)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            files: list[BinaryIO] = []
            for start, count in _parts(steps, room):
                # A separate array: the one in the state is donated.
                here = jnp.asarray(start)
                state = eqx.tree_at(lambda s: s.source.recording.start, state, here)
                state = _advance(config, supply, state, key, jnp.asarray(start), jnp.asarray(count))
                leaves = jax.device_get(_leaves(state.source.recording))
                if not files:
                    files = [
                        opened.enter_context(_create(directory, i, (steps, *x.shape[1:]), x))
                        for i, x in enumerate(leaves)
                    ]
                for file, part in zip(files, leaves, strict=True):
                    file.write(part[:count].tobytes())
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        _write_index(directory, {"files": len(files), "steps": steps})
    except OSError as problem:
        raise InvalidInput(
            f"directory {directory} cannot be written ({problem.strerror or problem}): make room there, or choose "
            "another"
        ) from problem
    return state


def read(directory: Path) -> Recording:
    """A recording on disk, mapped into memory: only the parts that are read are loaded.

    Raises `InvalidInput` if there is none."""
    try:
        index = json.loads((directory / _INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"directory {directory} holds no finished recording") from None
    leaves = [np.load(_file(directory, i), mmap_mode="r") for i in range(index["files"])]
    return _from_leaves(leaves)


def replay(
    config: TrainConfig,
    supply: Supply,
    key: PRNGKeyArray,
    recording: Recording,
    steps: int,
    room: int = 256,
) -> TrainState:
    """Train for ``steps`` steps on a recording opened by `read`, ``room`` steps at a time on the device.

    ``config.source`` is a `Replay`, whose shuffle window is used. Raises `InvalidInput` for another source, another
    batch size than the recorded one, or more than one pass.
    """
    if not isinstance(config.source, Replay):
        raise InvalidInput(f"source must be Replay, got {type(config.source).__name__}")
    recorded, batch = recording.rows.shape
    if config.batch_size != batch:
        raise InvalidInput(f"batch_size must be the recorded {batch}, got {config.batch_size}")
    if not 1 <= steps <= recorded:
        raise InvalidInput(f"steps must be between 1 and the recorded {recorded}, got {steps}")
    epoch = jax.random.fold_in(stream(key, Stream.SHUFFLE), 0)
    order = np.asarray(shuffled(epoch, recorded, batch, config.source.shuffle_window))
    config = TrainConfig(
        Replay(config.source.recorded), config.loss, config.optimiser, batch, config.reference
    )
    flat = [leaf.reshape(-1, *leaf.shape[2:]) for leaf in _leaves(recording)]
    state = None
    for start, count in _parts(steps, room):
        index = order[start * batch : (start + count) * batch]
        # Sorted places are read sequentially; the shuffled order is restored in memory.
        sorting = np.argsort(index)
        back = np.argsort(sorting)
        part = [leaf[index[sorting]][back].reshape(count, batch, *leaf.shape[1:]) for leaf in flat]
        held = eqx.tree_at(lambda r: r.start, _from_leaves(part), jnp.asarray(start))
        given = eqx.tree_at(lambda s: s.prepared, supply, held, is_leaf=lambda x: x is None)
        fresh = _init(config, given)
        state = fresh if state is None else eqx.tree_at(lambda s: s.source, state, fresh.source)
        state = _advance(config, given, state, key, jnp.asarray(start), jnp.asarray(count))
    assert state is not None
    return state


def _parts(steps: int, room: int) -> Iterator[tuple[int, int]]:
    """First step and number of steps of each part."""
    return ((start, min(room, steps - start)) for start in range(0, steps, room))


def _leaves(recording: Recording) -> list[Any]:
    """All arrays of a recording except its first step."""
    return jax.tree.leaves(eqx.tree_at(lambda r: r.start, recording, None))


def _from_leaves(leaves: list[Any]) -> Recording:
    """A recording that starts at step 0, from the arrays of `_leaves`."""
    structure = jax.tree.structure(Recording.room(1, 1, 1, jnp.uint8))
    return jax.tree.unflatten(structure, [*leaves, np.asarray(0, np.int32)])


def _file(directory: Path, number: int) -> Path:
    return directory / f"{number:02d}.npy"


def _create(directory: Path, number: int, shape: tuple[int, ...], like: np.ndarray) -> BinaryIO:
    """A file for an array, to be written from its beginning on. The file is not mapped into memory: on a full disk,
    writing to the map would end the process."""
    file = _file(directory, number).open("wb")
    described = {"descr": np.lib.format.dtype_to_descr(like.dtype), "shape": shape}
    np.lib.format.write_array_header_1_0(file, {**described, "fortran_order": False})
    return file


def _write_index(directory: Path, index: dict[str, int]) -> None:
    """Mark the recording as complete: the index is written under another name and then renamed."""
    temporary = directory / f"{_INDEX}.tmp"
    temporary.write_text(json.dumps(index), encoding="utf-8")
    os.replace(temporary, directory / _INDEX)

"""Devices: how a function of one run is compiled for many runs, the memory limit, the speed.

Only this module, and `sweeps.sharding`, which splits one run, depend on the kind of device. Runs are stacked twice:
*lanes* share a world, *rows* are worlds. Rows are spread over a mesh of devices,
``jit(shard_map(rows(lanes(function))))``, with no communication between them. Within a device, both stacks are a
`jax.vmap` on GPUs, where batched products are cheap, and a `jax.lax.map` on CPUs: a CPU runs one lane after the other
at full speed, with one XLA device per core. Arrays of a world are not copied for its lanes.
"""

import enum
import functools
import math
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from sweeps import runtime
from testbed.errors import InvalidInput
from testbed.policies import pretrained
from testbed.policies.shared_weights import Weight, Weights, sharing

#: The environment variable that limits a chunk's memory on each device: ``6GB``, ``500MB`` or bytes.
LIMIT = "TESTBED_DEVICE_MEMORY"
#: Share of a device's memory that plans use; XLA's own memory and fragmentation are not counted in the plans.
MEMORY_SHARE = 0.8


class Along(enum.Enum):
    """What an argument of a compiled function is stacked over: runs within worlds, worlds, or nothing."""

    LANES = "lanes"
    ROWS = "rows"
    ALL = "all"


class Machine(NamedTuple):
    """The properties of a host that a plan depends on: the kind and the number of its devices, bytes of memory for
    each, and the operations a second that all devices together reach in float32 matrix products."""

    platform: str
    devices: int
    memory: float
    peak: float

    @classmethod
    def here(cls) -> Self:
        """This host. Raises `InvalidInput` if the memory limit cannot be read."""
        platform, count = jax.default_backend(), jax.device_count()
        # A single CPU device uses every core for a large product.
        peak = matrix_peak() * (1 if platform == "cpu" else count)
        return cls(platform, count, memory_limit(), peak)

    @property
    def stacks(self) -> bool:
        """Whether lanes are computed side by side instead of one after the other."""
        return self.platform != "cpu"


class OutOfMemory(Exception):
    """A device has too little memory for the data or the program."""


@functools.cache
def mesh() -> Mesh:
    """All devices of this process in a row, with one axis of worlds."""
    return jax.make_mesh((jax.device_count(),), ("worlds",), axis_types=(AxisType.Auto,))


def everywhere(names: tuple[Weight, ...]) -> Weights:
    """Arrays of checkpoints, complete on every device."""
    with _LOADING:
        return Weights(names, tuple(map(_everywhere, names)))


#: Held while checkpoints are read, so that two threads do not both read one.
_LOADING = threading.Lock()


@functools.cache
def _everywhere(name: Weight) -> Array:
    """One array on every device, loaded once per process, whichever programs use the array."""
    (array,) = pretrained.held((name,)).arrays
    return jax.device_put(array, NamedSharding(mesh(), PartitionSpec()))


def over_devices() -> NamedSharding:
    """The sharding that spreads rows over the devices, in order."""
    return NamedSharding(mesh(), PartitionSpec("worlds"))


def compiled(
    function: Callable[..., PyTree], along: Sequence[Along], donate: tuple[int, ...] = ()
) -> Any:
    """Compile a function of one lane, whose arguments are stacked as ``along`` says, for all lanes of all rows. The
    compiled function takes one more argument, before the others: the `testbed.policies.shared_weights.Weights` that the
    other arguments leave out."""
    along = (Along.ALL, *along)
    function = sharing(function)
    by_lane = _each(function, [axis is Along.LANES for axis in along])
    by_row = _each(by_lane, [axis is not Along.ALL for axis in along])
    over, same = PartitionSpec("worlds"), PartitionSpec()

    def sharded(*arguments: PyTree) -> PyTree:
        specs = tuple(same if axis is Along.ALL else over for axis in along)
        body = jax.shard_map(by_row, mesh=mesh(), in_specs=specs, out_specs=over, check_vma=False)
        return body(*arguments)

    return jax.jit(sharded, donate_argnums=tuple(1 + number for number in donate))


@functools.cache
def spread(function: Callable[[PyTree, PyTree], PyTree]) -> Any:
    """Compile a function of one world, with two arguments, for rows of worlds."""
    return compiled(function, (Along.ROWS, Along.ROWS))


def _each(function: Callable[..., PyTree], mapped: Sequence[bool]) -> Callable[..., PyTree]:
    """Map the function over the first axis of its mapped arguments."""
    if not any(mapped):
        return function
    if jax.default_backend() != "cpu":
        return jax.vmap(function, in_axes=[0 if along else None for along in mapped])

    def one_by_one(*arguments: PyTree) -> PyTree:
        def one(entries: list[PyTree]) -> PyTree:
            rest = iter(entries)
            given = zip(arguments, mapped, strict=True)
            return function(*(next(rest) if along else argument for argument, along in given))

        return jax.lax.map(one, [a for a, along in zip(arguments, mapped, strict=True) if along])

    return one_by_one


def stacked(parts: Sequence[PyTree], *shape: int) -> PyTree:
    """Stack pytrees of equal structure into one pytree of numpy arrays. ``shape`` is the shape of the new leading axes;
    the last part fills unused places. A leaf that all parts share is stacked once."""
    size = math.prod(shape) if shape else len(parts)
    padded = [*parts, *[parts[-1]] * (size - len(parts))]

    made: dict[tuple[int, ...], np.ndarray] = {}

    def stack(*leaves: Any) -> np.ndarray:
        key = tuple(map(id, leaves))
        if key not in made:
            arrays = np.stack([as_array(leaf) for leaf in leaves])
            made[key] = arrays.reshape(*(shape or (size,)), *arrays.shape[1:])
        return made[key]

    return jax.tree.map(stack, *padded)


def as_array(leaf: Any) -> np.ndarray:
    """A leaf as an array with jax's types: 32-bit numbers."""
    array = np.asarray(leaf)
    narrow = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}
    return array.astype(narrow.get(array.dtype, array.dtype))


def place(rows: PyTree) -> PyTree:
    """Place rows on their devices; an array that occurs in the rows more than once is placed once."""
    leaves, structure = jax.tree.flatten(rows)
    held = jax.device_put({id(leaf): leaf for leaf in leaves}, over_devices())
    return jax.tree.unflatten(structure, [held[id(leaf)] for leaf in leaves])


def shapes(part: PyTree, *lead: int) -> PyTree:
    """Shapes of a pytree's leaves, stacked on further leading axes, with the sharding of rows."""

    def shape(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype, sharding=over_devices())

    return jax.tree.map(shape, alone(part))


def alone(part: PyTree) -> PyTree:
    """Shapes of a pytree's leaves, without sharding."""

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        array = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else as_array(leaf)
        return jax.ShapeDtypeStruct(array.shape, array.dtype)

    return jax.tree.map(shape, part)


def shapes_of(arrays: PyTree) -> PyTree:
    """Shapes of arrays on the devices, with the sharding of the arrays."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), arrays
    )


def needed_memory(program: Any) -> int | None:
    """Bytes that a compiled program needs on each device, as XLA reports; None if XLA reports nothing."""
    facts = program.memory_analysis()
    if facts is None:
        return None
    results = facts.output_size_in_bytes - facts.alias_size_in_bytes
    return facts.argument_size_in_bytes + results + facts.temp_size_in_bytes


def as_memory(problem: Exception) -> Exception:
    """`OutOfMemory` if the error says that memory is exhausted, otherwise the same error."""
    words = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
    if isinstance(problem, MemoryError) or any(word in str(problem) for word in words):
        return OutOfMemory(str(problem).splitlines()[0][:200])
    return problem


def memory_limit() -> float:
    """Bytes that may be used on each device: the user's limit, or a share of the device's memory."""
    chosen = os.environ.get(LIMIT)
    if chosen:
        size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(k|M|G|T|)B?", chosen.strip())
        if not size or not float(size[1]):
            raise InvalidInput(f"{LIMIT} must be a size such as 6GB or 500MB, got '{chosen}'")
        return float(size[1]) * 1000 ** " kMGT".index(size[2] or " ")
    device = jax.devices()[0]
    if device.platform == "cpu":
        return host_memory() * MEMORY_SHARE * runtime.share() / jax.device_count()
    return (device.memory_stats() or {}).get("bytes_limit", 8e9) * MEMORY_SHARE


def host_memory() -> float:
    """Bytes of main memory that this process may use."""
    bytes_here = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(file)
        if path.is_file() and (text := path.read_text(encoding="utf-8").strip()).isdigit():
            bytes_here = min(bytes_here, int(text))
    return float(bytes_here)


def peak_memory() -> int | None:
    """The most bytes that a device has held so far; None if the device does not count."""
    counts = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.devices()]
    return max((count for count in counts if count is not None), default=None)


def matrix_peak() -> float:
    """Measured float32 matrix-product rate of one device, in operations a second: the best of a few products."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((size, size))
    _product(a).block_until_ready()
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        _product(a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


@jax.jit
def _product(a: Array) -> Array:
    return a @ a

"""How a process uses the machine: one XLA device per core, and a compilation cache on disk.

Call `configure` before the first import of jax, which it does not import itself.
"""

import contextlib
import gc
import os
import sys
from pathlib import Path

from testbed.errors import InvalidInput
from testbed.paths import cache_directory

#: Memory maps of a process at which compiled programs are let go: half of what Linux allows by default.
MOST_MAPS = 32_000
_DEVICES = "xla_force_host_platform_device_count"
#: XLA stops at half of what AVX-512 has: a run of width 64 takes 2 to 4% longer then. Others ignore it.
_VECTORS = "xla_cpu_prefer_vector_width"
#: Settings of jax that decide which random numbers are drawn: the same everywhere, whatever the user's variables say.
PINNED = {
    "jax_threefry_partitionable": "1",
    "jax_default_prng_impl": "threefry2x32",
    "jax_random_seed_offset": "0",
}
#: Cores that `configure` was given for this process.
_given: list[int] = []


def cores() -> int:
    """Cores that this process may use: those that `configure` was given, or all that the system allows."""
    return _given[-1] if _given else _allowed()


def share() -> float:
    """Share of the machine's cores that this process may use."""
    return min(1.0, cores() / _allowed())


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def configure(cores_here: int | None = None) -> None:
    """Set XLA's devices and jax's compilation cache, unless the user has set them already, and jax's generator of
    random numbers (`PINNED`), in any case. ``cores_here`` are the cores of a process that shares the machine with
    others: they count more than what it inherits from its parent.

    Independent runs go faster on one CPU device per core than on one device of many cores. Raises `InvalidInput` if
    XLA_FLAGS is the name of a file: XLA takes either a file or flags, and flags must be added.
    """
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if flags and not flags.startswith("-"):
        raise InvalidInput(
            f"XLA_FLAGS must hold flags, as in --xla_dump_to=DIR, got '{flags}': put the file's flags into the variable"
        )
    if cores_here is not None:
        _given.append(cores_here)
        flags = " ".join(flag for flag in flags.split() if _DEVICES not in flag)
    for flag, value in ((_DEVICES, cores()), (_VECTORS, 512)):
        if flag not in flags:
            flags = f"{flags} --{flag}={value}".strip()
    os.environ["XLA_FLAGS"] = flags
    settings = {
        # Small programs count too: a study compiles dozens of them.
        "jax_persistent_cache_min_compile_time_secs": "0.1",
        "jax_persistent_cache_min_entry_size_bytes": "-1",
        # GPUs else round the factors of float32 products; networks state their own, see `testbed.nn.matmul`.
        "jax_default_matmul_precision": "highest",
    }
    # Who has no directory for a cache is told of it by what needs one; reading results does not.
    with contextlib.suppress(InvalidInput):
        settings["jax_compilation_cache_dir"] = str(cache_directory() / "xla")
    chosen = {name: value for name, value in settings.items() if name.upper() not in os.environ}
    chosen |= PINNED
    os.environ.update({name.upper(): value for name, value in chosen.items()})
    if "jax" in sys.modules:
        # jax reads these variables when it is imported, XLA_FLAGS only at its first computation.
        _tell(chosen)


def leave_accelerators() -> None:
    """Let this process compute on the CPU alone: accelerators are for others. Call it before jax computes anything."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def make_room(most: int = MOST_MAPS) -> bool:
    """Let compiled programs go if this process has more than ``most`` memory maps; whether it did.

    Every program that XLA compiles for a CPU holds many maps, and when none is left (65,530 by default on Linux) it
    aborts. A program that is wanted again is read back from the compilation cache.
    """
    import jax

    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") <= most:
        return False
    jax.clear_caches()
    gc.collect()
    return True


def _tell(chosen: dict[str, str]) -> None:
    """Give the settings to a jax that was imported before `configure`."""
    import jax

    readers = {
        "secs": float,
        "bytes": int,
        "offset": int,
        "partitionable": lambda text: text == "1",
    }
    for name, text in chosen.items():
        jax.config.update(name, readers.get(name.rpartition("_")[2], str)(text))

"""How a process uses the machine: one XLA device per core, and a compilation cache on disk.

Call `configure` before jax is imported for the first time; `configure` itself does not import jax.
"""

import contextlib
import gc
import os
import sys
from pathlib import Path
from typing import Any

from testbed.errors import InvalidInput
from testbed.paths import cache_directory

#: Number of a process's memory maps at which compiled programs are released: half of Linux's default limit.
MOST_MAPS = 32_000
_DEVICES = "xla_force_host_platform_device_count"
#: Without this flag XLA uses half of AVX-512's width: a run of width 64 then takes 2 to 4% longer. Other machines
#: ignore the flag.
_VECTORS = "xla_cpu_prefer_vector_width"
#: Settings of jax that decide which random numbers are drawn. They are the same everywhere; the user's variables are
#: overridden.
PINNED = {
    "jax_threefry_partitionable": True,
    "jax_default_prng_impl": "threefry2x32",
    "jax_random_seed_offset": 0,
}
#: The cores that `configure` assigned to this process.
_given: list[int] = []


def cores() -> int:
    """Cores that this process may use: those that `configure` assigned, or all that the system allows."""
    return _given[-1] if _given else _allowed()


def share() -> float:
    """Share of the machine's cores that this process may use."""
    return min(1.0, cores() / _allowed())


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def configure(cores_here: int | None = None) -> None:
    """Set XLA's devices and jax's compilation cache, unless the user has set them already. Set jax's generator of
    random numbers (`PINNED`) in any case. ``cores_here`` is the number of cores of a process that shares the machine
    with others; the number overrides what the process inherits from its parent.

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
    settings: dict[str, Any] = {
        # Small programs are cached too: a study compiles dozens of them.
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        # By default GPUs round the factors of float32 products; networks set a precision, see `testbed.nn.matmul`.
        "jax_default_matmul_precision": "highest",
    }
    # Code that needs a cache directory reports that there is none; code that reads results needs no cache.
    with contextlib.suppress(InvalidInput):
        settings["jax_compilation_cache_dir"] = str(cache_directory() / "xla")
    chosen = {name: value for name, value in settings.items() if name.upper() not in os.environ}
    chosen |= PINNED
    os.environ.update({name.upper(): str(value) for name, value in chosen.items()})
    if "jax" in sys.modules:
        import jax

        # jax reads these variables when it is imported, XLA_FLAGS only at its first computation.
        for name, value in chosen.items():
            jax.config.update(name, value)


def leave_accelerators() -> None:
    """Let this process compute on the CPU alone: other processes use the accelerators. Call before jax computes."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def make_room(most: int = MOST_MAPS) -> bool:
    """Release compiled programs if this process has more than ``most`` memory maps; return whether they were released.

    Every program that XLA compiles for a CPU holds many maps, and XLA aborts when none is left (the default limit on
    Linux is 65,530). A released program that is needed again is read from the compilation cache.
    """
    import jax

    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") <= most:
        return False
    jax.clear_caches()
    gc.collect()
    return True

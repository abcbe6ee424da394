"""What numbers depend on beside config and code: libraries, settings of jax and XLA, processor and devices."""

import functools
import hashlib
import os
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import jax

#: Libraries that compute, or that decide what is computed.
LIBRARIES: Final = ("jax", "jaxlib", "equinox", "optax", "numpy")
#: Parts of the names of jax's settings that change no number: caches, messages, checks, where to compute.
_HARMLESS: Final = (
    "cache", "log", "debug", "traceback", "dump", "check", "transfer", "guard", "timeout", "visible_devices",
    "platform", "backend_target", "distributed", "coordinator", "topology", "profile", "pgle", "pprint", "source",
    "warn", "error", "leak", "export", "serialization", "preemption", "recoverability", "mock", "num_cpu_devices",
    "cross_host", "share_binary", "array_garbage", "captured_constants", "refs_to_pins", "rank_promotion",
    "default_device", "xla_backend", "legacy_prng_key", "no_tracing", "no_execution", "async_dispatch", "collectives",
)  # fmt: skip
#: XLA's flags that change no number: the number of devices (`bits` includes it), and which files are written where.
_HARMLESS_FLAGS: Final = (
    "--xla_force_host_platform_device_count",
    "--xla_dump",
    "--xla_hlo_profile",
)


def settings() -> dict[str, Any]:
    """Everything outside of config and code that changes results: versions of libraries, kind of device, XLA's flags,
    and jax's settings. JSON-able; the same on all hosts that are set up alike."""
    return {
        "libraries": _versions(),
        "backend": jax.default_backend(),
        "xla_flags": [
            f"{name}={value}" for name, value in flags() if not name.startswith(_HARMLESS_FLAGS)
        ],
        "jax": {
            name: str(value)
            for name, value in sorted(jax.config.values.items())
            if not any(part in name for part in _HARMLESS)
        },
    }


def snapshot() -> tuple[Any, ...]:
    """The raw data behind `settings`: two snapshots are equal if nothing has changed. Much faster than `settings`."""
    values = tuple(jax.config.values.values())
    return values, os.environ.get("XLA_FLAGS"), repr(_versions()), jax.default_backend()


def bits() -> dict[str, Any]:
    """What the last bits of numbers depend on beside `settings`: processor, kind and number of devices. JSON-able."""
    devices = jax.devices()
    return {
        "processor": processor(),
        "instructions": _instructions(),
        "devices": [devices[0].device_kind, len(devices)],
        "runtime": devices[0].client.platform_version,
    }


def flags() -> list[tuple[str, str]]:
    """XLA's flags, sorted by name; if a flag is given several times, the last one counts, as in XLA."""
    parts = (flag.partition("=") for flag in os.environ.get("XLA_FLAGS", "").split())
    return sorted({name: value for name, _, value in parts}.items())


def processor() -> str:
    """The processor's name; empty if the system does not tell it."""
    return _cpu_line("model name")


@functools.cache
def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in LIBRARIES}


def _instructions() -> str:
    """A hash of the processor's instruction sets, among which XLA chooses."""
    found = _cpu_line("flags") or _cpu_line("Features")
    return hashlib.sha256(found.encode()).hexdigest()[:16]


@functools.cache
def _cpu_line(name: str) -> str:
    """The first value of an entry in the system's description of its processors."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    found = (
        line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name
    )
    return next(found, "")

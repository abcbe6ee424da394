"""The origin of results: the code, the versions, the machine."""

import datetime
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

import jax

from sweeps.runtime import cores
from testbed import numerics
from testbed.config import code_files

_PACKAGES = ("testbed", "envs", "sweeps", "analysis")
_DISTRIBUTIONS = ("jax", "jaxlib", "equinox", "optax", "gymnax", "numpyro", "numpy")


def source_hash() -> str:
    """16 hexadecimal characters of the sha256 over every file of the four packages."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            for file in sorted(code_files.package_files(Path(root))):
                digest.update(f"{package}/{file.relative_to(root).as_posix()}\0".encode())
                digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that affect the numbers."""
    installed = {name: importlib.metadata.version(name) for name in _DISTRIBUTIONS}
    return {"python": platform.python_version()} | installed


def machine() -> dict[str, Any]:
    """A description of the machine, without anything that identifies its owner."""
    devices = jax.devices()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": numerics.processor() or platform.processor() or "unknown",
        "cores": cores(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
    }


def now() -> str:
    """The time, UTC, to the second, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def session() -> dict[str, Any]:
    """Code, versions, machine and time of one invocation. ``numerics`` holds everything that changes numbers
    (`testbed.numerics`), ``bits`` the facts that change only their last bits."""
    return {
        "source": source_hash(),
        "versions": versions(),
        "numerics": numerics.settings(),
        "bits": numerics.bits(),
        "machine": machine(),
        "created": now(),
    }

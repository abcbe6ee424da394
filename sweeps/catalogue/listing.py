"""The lists of `testbed list`, kept in the cache after their first use, so that printing names does not import jax.

A kept list is found by a hash of the source files that define its members: when a file changes or a member is added,
the list is made again from the classes and studies themselves.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from sweeps.store import files
from testbed.errors import InvalidInput
from testbed.paths import cache_directory

#: The folder that holds the packages.
ROOT = Path(__file__).parents[2]
#: Folder of the kept lists, in the cache.
FOLDER = "catalogue"
#: The names of the lists, and the files that define their members, relative to `ROOT`.
SOURCES: dict[str, tuple[str, ...]] = {
    "studies": ("sweeps/studies/*.py", "sweeps/paper.py", "sweeps/language.py"),
    "tasks": ("envs/**/*.py",),
    "labelers": ("envs/labelers/*.py",),
    "goldens": ("envs/goldens/*.py",),
    "losses": ("testbed/losses/*.py",),
    "methods": ("testbed/methods/*.py",),
    "sources": ("testbed/sources/*.py",),
    "references": ("testbed/references/*.py",),
    "proxies": ("testbed/proxies/*.py",),
    "estimands": ("sweeps/estimands/*.py",),
    "rules": ("sweeps/rules/*.py",),
    "columns": ("sweeps/store/columns.py", "testbed/metric_table.py"),
}


def listed(what: str) -> list[dict[str, Any]]:
    """Studies, members of a family or columns, one of `SOURCES`, as JSON-able data."""
    try:
        file = cache_directory() / FOLDER / f"{what}-{digest(what)}.json"
    except InvalidInput:  # no home directory: commands that only read need no cache
        return _made(what)
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(kept, list) and all(isinstance(row, dict) for row in kept):
            return kept
    members = _made(what)
    # A list that cannot be kept is made again next time.
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(members, ensure_ascii=False).encode()
        files.write(file, content, file.with_name(f".{file.name}.{os.getpid()}.tmp"))
    return members


def _made(what: str) -> list[dict[str, Any]]:
    """A list, made from the classes and studies themselves; imports jax."""
    from sweeps.catalogue import families

    return families.members(what)


def digest(what: str) -> str:
    """16 hexadecimal characters of the sha256 over this file and the files that define the members."""
    sha = hashlib.sha256(Path(__file__).read_bytes())
    for pattern in ("sweeps/catalogue/families.py", *SOURCES[what]):
        for file in sorted(ROOT.glob(pattern)):
            sha.update(f"{file.relative_to(ROOT).as_posix()}\0".encode())
            sha.update(file.read_bytes() + b"\0")
    return sha.hexdigest()[:16]

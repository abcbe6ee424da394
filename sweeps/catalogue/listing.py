"""What `testbed list` prints, kept in `catalogue.json` beside the code, so that printing names does not import jax.

Each part of the file carries a hash of the source files that define its members. If they have changed since, the part
is made anew from the classes and studies themselves. ``python -m sweeps.catalogue.families`` writes the file.
"""

import hashlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import sweeps.studies

FILE = Path(__file__).parent / "catalogue.json"
#: What can be listed, and the files that define its members, from the folder on that the packages are in.
SOURCES: dict[str, tuple[str, ...]] = {
    "studies": ("sweeps/studies/*.py", "sweeps/paper.py", "sweeps/language.py"),
    "tasks": ("envs/*.py",),
    "labelers": ("envs/labelers/*.py",),
    "goldens": ("envs/goldens/*.py",),
    "losses": ("testbed/losses/*.py",),
    "methods": ("testbed/methods/*.py",),
    "sources": ("testbed/sources/*.py",),
    "references": ("testbed/references/base.py",),
    "columns": ("sweeps/store/columns.py", "testbed/metrics.py"),
}


def listed(what: str) -> list[dict[str, Any]]:
    """Studies, members of a family or columns, one of `SOURCES`, as JSON-able data."""
    kept = read().get(what, {})
    if kept.get("sources") == digest(what):
        return kept["members"]
    from sweeps.catalogue import families

    return families.members(what)


def read() -> dict[str, Any]:
    """What the file holds; nothing if it is missing or damaged."""
    try:
        return json.loads(FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def digest(what: str) -> str:
    """16 hexadecimal characters of the sha256 over the files that define the members."""
    found = hashlib.sha256()
    root = FILE.parent.parent
    for pattern in SOURCES[what]:
        for file in sorted(root.glob(pattern)):
            found.update(f"{file.relative_to(root).as_posix()}\0".encode())
            found.update(file.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def study_names() -> list[str]:
    """Names of the studies that come with the testbed, without importing them."""
    return sorted(found.name for found in pkgutil.iter_modules(sweeps.studies.__path__))

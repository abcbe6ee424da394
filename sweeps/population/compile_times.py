"""How long programs took to compile the last time, by name: kept beside the compiled programs, for forecasts and for
the progress line. A lost or damaged file only makes these say less."""

import contextlib
import json
import threading
from pathlib import Path

import jax

from sweeps.console.progress import duration
from sweeps.store import json_files
from testbed.cache import write
from testbed.errors import InvalidInput, Unfinished

FILE = "programs.seconds.json"
_lock = threading.Lock()


def _path() -> Path | None:
    directory = jax.config.values["jax_compilation_cache_dir"]
    return Path(directory) / FILE if directory else None


def seconds() -> dict[str, float]:
    """Seconds of tracing and compiling by the program's name, of all programs that were compiled with this cache."""
    path = _path()
    if path is not None and path.is_file():
        with contextlib.suppress(InvalidInput):
            return json_files.read(path, {str: float}, "")
    return {}


def note(name: str, taken: float) -> None:
    """Record that a program has taken so many seconds, if the disk accepts the file."""
    path = _path()
    if path is None:
        return
    with _lock, contextlib.suppress(Unfinished):
        text = json.dumps({**seconds(), name: round(taken, 2)}, indent=1, sort_keys=True)
        write(path, [text.encode()])


def said(name: str) -> str:
    """``compiling sft (0:14 last time)``."""
    before = seconds().get(name)
    return f"compiling {name}" + ("" if before is None else f" ({duration(before)} last time)")

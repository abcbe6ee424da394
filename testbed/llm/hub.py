"""Checkpoints of the Hugging Face hub, if the hub can be reached."""

import functools
from pathlib import Path

from testbed.errors import Unfinished, said
from testbed.llm.optional import package

_WANTED = ("*.json", "*.safetensors", "*.jinja")


@functools.cache
def snapshot(name: str) -> Path:
    """The directory of a model's newest files, downloaded into the hub's own cache if they are missing. The hub is
    asked once a process, so that a model stays the same while the process runs.

    Raises `Unfinished` if they cannot be obtained."""
    hub = package("huggingface_hub")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(_WANTED)))
    except (OSError, ValueError, RuntimeError, hub.errors.HfHubHTTPError) as problem:
        raise Unfinished(f"model {name} could not be downloaded ({said(problem)})") from problem

"""Where things are kept between commands."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """Where compiled programs, shared stages and pretrained models are kept: ``$TESTBED_CACHE``, or under ~/.cache."""
    chosen = os.environ.get("TESTBED_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "alignment-testbed"

"""Files that would do something if they were unpickled."""

import contextlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Marker:
    """When this is unpickled, a directory appears."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@contextlib.contextmanager
def trapped(folder: Path) -> Iterator[bytes]:
    """A pickle; leaving fails if it was read meanwhile."""
    marker = folder / "unpickled"
    content = pickle.dumps(Marker(marker))
    pickle.loads(content)
    assert marker.is_dir()  # it does what it says
    marker.rmdir()
    yield content
    assert not marker.exists()

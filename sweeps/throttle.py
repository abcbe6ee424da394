"""What is done now and then beside the work, and may take only a small share of its time."""

import time

#: Of the time.
SHARE = 0.05


class Pace:
    """Says when something is due again: after some seconds, or later if it would take more than `SHARE` of the time.

    It is a context manager around what is done.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._since, self._took = seconds, time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether it is."""
        return time.monotonic() - self._since > max(self._seconds, self._took / SHARE)

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._took = time.monotonic() - self._since
        self._since += self._took

"""Work that is repeated from time to time beside the main work, and may take only a small share of the time."""

import time

#: The largest share of the time that the repeated work may take.
SHARE = 0.05


class Pace:
    """Decides when repeated work is due again: after some seconds, or later if it would take more than `SHARE` of the
    time. Use the object as a context manager around the repeated work, which is how its duration is measured.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._since, self._took = seconds, time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether the work is due."""
        return time.monotonic() - self._since > max(self._seconds, self._took / SHARE)

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._took = time.monotonic() - self._since
        self._since += self._took

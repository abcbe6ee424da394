"""The present activity of this process: printed after a long time without output, and at Ctrl-C."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from sweeps.console import terminal

#: Seconds without any output after which a command prints its present activity.
SILENCE = 19.8
_doing = ["starting"]
#: What threads do beside it.
_beside: list[str] = []


def begin(text: str) -> None:
    """Set the present activity, such as "analysing the results"."""
    _doing[-1] = text


def doing() -> str:
    """The present activity, and what threads do beside it."""
    return with_beside(_doing[-1])


def with_beside(text: str) -> str:
    """A text about the present activity, followed by what threads do beside it: "building sft; compiling proxy"."""
    return "; ".join([text, ", ".join(_beside)]) if _beside else text


@contextlib.contextmanager
def beside(text: str) -> Iterator[None]:
    """What a thread does beside the present activity, inside of the context, such as "compiling proxy"."""
    _beside.append(text)
    try:
        yield
    finally:
        _beside.remove(text)


@contextlib.contextmanager
def ticking(tick: Callable[[], object], seconds: float) -> Iterator[None]:
    """Call a function from a thread, again and again after so many ``seconds``, even if the main thread is busy."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(seconds):
            tick()

    ticker = threading.Thread(target=run, daemon=True)
    ticker.start()
    try:
        yield
    finally:
        over.set()
        ticker.join()


@contextlib.contextmanager
def told(silence: float = SILENCE) -> Iterator[None]:
    """Print the present activity to standard error whenever nothing has been printed for ``silence`` seconds, even if
    the main thread is busy."""
    start = time.monotonic()

    def tick() -> None:
        if terminal.silence() >= silence:
            terminal.wrote()
            seconds = round(time.monotonic() - start)
            print(f"{seconds // 60}:{seconds % 60:02d} elapsed, {doing()}", file=sys.stderr)

    terminal.wrote()
    with ticking(tick, min(0.2, silence / 4)):
        yield

"""Ctrl-C: obeyed at once while Python runs, and answered with a message while other code runs.

While XLA compiles or computes, Python receives a signal only when XLA is done. A thread receives the signal at once, by
the pipe of `signal.set_wakeup_fd`: the thread prints what the process is waiting for, and ends the process at the
second Ctrl-C. Results are written whole or not at all, so that a process can end at any moment.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

EXIT_INTERRUPTED = 130
#: Seconds that the work has to stop before the message is printed.
PATIENCE = 1.0


@contextlib.contextmanager
def answered(waits_for: Callable[[], str], farewell: str) -> Iterator[None]:
    """Answer Ctrl-C within two seconds, whatever the main thread does.

    The first Ctrl-C raises `KeyboardInterrupt` in the main thread; if the process still runs a second later, the text
    that ``waits_for`` returns is printed on standard error. The second Ctrl-C ends the process with ``farewell`` and
    status 130. Outside the main thread, where signals cannot be handled, this context does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    heard = [0]

    def raise_once(number: int, frame: FrameType | None) -> None:
        heard[0] += 1
        if heard[0] == 1:
            raise KeyboardInterrupt

    def listen() -> None:
        count = 0
        while byte := os.read(reading, 1):
            count += byte[0] == signal.SIGINT
            if count > 1:
                _end(farewell)
            if count == 1:
                timer = threading.Timer(PATIENCE, lambda: _say(_waiting(waits_for())))
                timer.daemon = True
                timer.start()

    threading.Thread(target=listen, daemon=True).start()
    handler = signal.signal(signal.SIGINT, raise_once)
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        # An interrupted process may still wait for threads at its end: the thread listens until then.
        if not heard[0]:
            signal.signal(signal.SIGINT, handler)
            signal.set_wakeup_fd(wakeup)
            os.close(writing)


def _waiting(what: str) -> str:
    return f"Interrupted; this cannot be left half done: {what}. Ctrl-C again ends at once; finished runs are kept."


def _end(farewell: str) -> None:
    # The timer ends the process if printing blocks, for example because the terminal is stopped.
    late = threading.Timer(0.5, os._exit, [EXIT_INTERRUPTED])
    late.daemon = True
    late.start()
    _say(farewell)
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h\n")  # shows the cursor, which a progress bar hides
    os._exit(EXIT_INTERRUPTED)


def _say(text: str) -> None:
    """Print a line on standard error, above the progress bar."""
    with contextlib.suppress(Exception):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

"""Output of commands: consoles, and streams whose printing never fails.

`streams` replaces standard output and standard error so that printing never fails: a reader that goes away ends no run,
and a character that the encoding lacks is escaped. `reserved` keeps standard output for data for programs.
"""

import codecs
import contextlib
import errno
import io
import json
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

#: Width in columns of an output that reports no width.
WIDTH = 120
#: Errors of a write which mean that the reader has gone, which is no fault; after other errors, output is lost.
_GONE = {errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.ENXIO}
#: Standard output while it is reserved for `write`.
_reserved: list[TextIO] = []
#: The program's standard error, if `streams` has replaced it.
_errors: "list[_Stream]" = []
#: When something was last written to standard output or standard error, in seconds of `time.monotonic`.
_written = [time.monotonic()]


def console(quiet: bool = False, stderr: bool = False) -> "Console":
    """The console that commands print to. Colours and other control characters are for terminals alone, and are off if
    NO_COLOR is set; ``quiet`` prints nothing."""
    from rich.console import Console

    # An invalid width, such as 0, is ignored: with it, rich would print nothing, or stop.
    size = {name: os.environ.get(name, "") for name in ("COLUMNS", "LINES")}
    given = {name: text for name, text in size.items() if text.isdecimal() and int(text) > 0}
    environ = {name: text for name, text in os.environ.items() if name not in size} | given
    made = Console(quiet=quiet, stderr=stderr, _environ=environ)
    if made.is_terminal:
        # FORCE_COLOR may make a log a terminal: the log gets colours, but no bar that is redrawn in place.
        made.is_interactive = made.is_interactive and (made.is_jupyter or made.file.isatty())
    elif "COLUMNS" not in given:
        # Logs have no width; 80 columns would fold the tables.
        made.width = WIDTH
    return made


def chosen(given: "Console | None") -> "Console":
    """The console of a call: the given one, or the commands' console."""
    return console() if given is None else given


def write(text: str) -> None:
    """Print data for programs on standard output, even while standard output is `reserved`."""
    (_reserved[-1] if _reserved else sys.stdout).write(text)


def write_json(data: Any) -> None:
    """Print data for programs as JSON; characters that the output's encoding lacks are escaped as in JSON."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    stream = _reserved[-1] if _reserved else sys.stdout
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeError:
        text = json.dumps(data, indent=2, allow_nan=False)
    write(text + "\n")


@contextlib.contextmanager
def reserved() -> Iterator[None]:
    """Keep standard output for `write`: meanwhile, output of a study's code goes to standard error."""
    _reserved.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _reserved.pop()


def silence() -> float:
    """Seconds since this process last wrote to standard output or standard error."""
    return time.monotonic() - _written[-1]


def wrote() -> None:
    """Restart the count of `silence`."""
    _written[-1] = time.monotonic()


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning as one unbroken line."""
    text = " ".join(str(message).split())
    print(f"{category.__name__}: {text} ({filename}:{lineno})", file=file or sys.stderr)


class _Outlet(io.RawIOBase):
    """A file descriptor to which writing never fails: after the first error, output is discarded.

    Attributes:
        problem: why output is lost; None as long as no output is lost, or if only the reader has gone.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.problem: OSError | None = None

    def writable(self) -> bool:
        """True."""
        return True

    def fileno(self) -> int:
        """The file descriptor, which child processes inherit."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def write(self, data: Any, /) -> int:
        """Write or discard all bytes; return their number."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        wrote()
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError as problem:
                if problem.errno not in _GONE:
                    self.problem = problem
                # Output of libraries and child processes is discarded, too.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._descriptor)
                os.close(nowhere)
                break
        return size


class _Stream(io.TextIOWrapper):
    """A standard stream that can pass its output on to another stream."""

    elsewhere: TextIO | None = None

    def write(self, text: str, /) -> int:
        """Write to this stream, or to the stream that output is passed on to."""
        return super().write(text) if self.elsewhere is None else self.elsewhere.write(text)


@contextlib.contextmanager
def diverted(elsewhere: TextIO) -> Iterator[None]:
    """Send output to the program's standard error to ``elsewhere`` instead, whichever code writes it. Loggers may hold
    the standard error from before `sys.stderr` was replaced by a stream that writes above the progress bar."""
    held = [stream for stream in _errors if stream is not elsewhere]
    for stream in held:
        stream.elsewhere = elsewhere
    try:
        yield
    finally:
        for stream in held:
            stream.elsewhere = None


@contextlib.contextmanager
def streams() -> Iterator[list[OSError]]:
    """Replace standard output and standard error by streams to which printing never fails.

    Output to closed streams (``>&-``) is discarded. A stream that is not a file of the operating system, as in
    notebooks and tests, is not replaced. At the end, the returned list gets the error by which standard output was
    lost, unless only the reader has gone.
    """
    codecs.register_error("testbed", _spelt_out)
    _reopen()
    lost: list[OSError] = []
    before = sys.stdout, sys.stderr
    made = [_outlet(stream) for stream in before]
    sys.stdout, sys.stderr = (stream for stream, _ in made)
    if isinstance(sys.stderr, _Stream):
        _errors.append(sys.stderr)
    try:
        yield lost
    finally:
        _errors.clear()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        outlet = made[0][1]
        if outlet is not None and outlet.problem is not None:
            lost.append(outlet.problem)
        sys.stdout, sys.stderr = before


def _outlet(stream: TextIO) -> tuple[TextIO, _Outlet | None]:
    """A stream that never fails, in place of the given one, and the outlet that it writes to."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return stream, None
    with contextlib.suppress(OSError):
        stream.flush()
    outlet = _Outlet(descriptor)
    made = _Stream(
        io.BufferedWriter(outlet),
        encoding=stream.encoding or "utf-8",
        errors="testbed",
        line_buffering=stream is sys.stderr or outlet.isatty(),
    )
    return made, outlet


def _reopen() -> None:
    """Open the null device in place of closed standard streams. Otherwise a file that is opened later would take their
    number, and printed text would be written into this file."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _spelt_out(problem: UnicodeError) -> tuple[bytes, int]:
    """An error handler of encodings: characters that an encoding lacks are escaped (``\\u2013``); bytes of file names
    that Python could not decode are written unchanged."""
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    text = problem.object[problem.start : problem.end]
    parts = [
        bytes([ord(letter) - 0xDC00])
        if 0xDC80 <= ord(letter) <= 0xDCFF
        else letter.encode("ascii", "backslashreplace")
        for letter in text
    ]
    return b"".join(parts), problem.end

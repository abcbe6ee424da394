"""Where commands print, and what becomes of output that nobody can take.

`streams` makes standard output and standard error such that printing never fails: a reader that goes away ends no
run, and a character that the encoding lacks is spelt out. `reserved` keeps standard output for data for programs.
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

#: Columns of an output that has no width of its own.
WIDTH = 120
#: Reasons why a write fails that mean that the reader has gone, which is no fault: the others lose output.
_GONE = {errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.ENXIO}
#: Standard output while it is reserved for `write`.
_reserved: list[TextIO] = []
#: The program's standard error, if it is ours.
_errors: "list[_Stream]" = []
#: When something was last written to standard output or standard error, in seconds of `time.monotonic`.
_written = [time.monotonic()]


def console(quiet: bool = False, stderr: bool = False) -> "Console":
    """Where commands print. Colours, and whatever else takes control characters, are for terminals alone, and for none
    if NO_COLOR is set; ``quiet`` prints nothing."""
    from rich.console import Console

    # A width that is no number of columns, such as 0, says nothing: rich would print nothing, or stop.
    size = {name: os.environ.get(name, "") for name in ("COLUMNS", "LINES")}
    given = {name: text for name, text in size.items() if text.isdecimal() and int(text) > 0}
    environ = {name: text for name, text in os.environ.items() if name not in size} | given
    made = Console(quiet=quiet, stderr=stderr, _environ=environ)
    if made.is_terminal:
        # FORCE_COLOR may make a log a terminal: it gets its colours, but nothing that is redrawn in place.
        made.is_interactive = made.is_interactive and (made.is_jupyter or made.file.isatty())
        return made
    # Logs have no width of their own; 80 columns would fold the tables.
    width = None if "COLUMNS" in given else WIDTH
    return Console(quiet=quiet, stderr=stderr, width=width, _environ=environ)


def chosen(given: "Console | None") -> "Console":
    """Where a call prints: where it was told to, or as commands do."""
    return console() if given is None else given


def write(text: str) -> None:
    """Print data for programs, on standard output, whether it is `reserved` or not."""
    (_reserved[-1] if _reserved else sys.stdout).write(text)


def write_json(data: Any) -> None:
    """Print data for programs as JSON; characters that the encoding of the output lacks are escaped as JSON has it."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    stream = _reserved[-1] if _reserved else sys.stdout
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeError:
        text = json.dumps(data, indent=2, allow_nan=False)
    write(text + "\n")


@contextlib.contextmanager
def reserved() -> Iterator[None]:
    """Keep standard output for `write`: what a study's code prints goes to standard error meanwhile."""
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
    """Count `silence` from now on."""
    _written[-1] = time.monotonic()


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning as one line, which nothing comes into."""
    text = " ".join(str(message).split())
    print(f"{category.__name__}: {text} ({filename}:{lineno})", file=file or sys.stderr)


class _Outlet(io.RawIOBase):
    """A file descriptor to which writing never fails: after the first problem, output goes nowhere.

    Attributes:
        problem: why output is lost, if it is; None as long as nothing is, or if merely the reader has gone.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.problem: OSError | None = None

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The file descriptor, which programs that are started inherit."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def write(self, data: Any, /) -> int:
        """Write all bytes, or drop them; how many there are."""
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
                # What libraries and started programs write goes nowhere, too.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._descriptor)
                os.close(nowhere)
                break
        return size


class _Stream(io.TextIOWrapper):
    """A standard stream that can be told to hand what is written to it to another."""

    elsewhere: TextIO | None = None

    def write(self, text: str, /) -> int:
        """Write, here or elsewhere."""
        return super().write(text) if self.elsewhere is None else self.elsewhere.write(text)


@contextlib.contextmanager
def diverted(elsewhere: TextIO) -> Iterator[None]:
    """Hand what is written to the program's standard error to ``elsewhere``, by whoever holds it: loggers have kept it
    since before `sys.stderr` was replaced by what writes above a bar that is redrawn."""
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
    """Replace standard output and standard error by ones to which printing never fails.

    Streams that are closed (``>&-``) go nowhere. A stream that is not a file of the system's, as in notebooks and
    tests, stays. The list gets, at the end, the problem for which standard output was lost, if there was one other than
    that its reader has gone.
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
    """A stream that never fails in the place of one, and what it writes to."""
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
    """Let closed standard streams lead nowhere, lest a file that is opened later takes their number, and is written
    to by whoever prints."""
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
    """An error handler of encodings: characters that an encoding lacks are spelt out (``\\u2013``); bytes of file names
    that Python could not decode become what they were."""
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

"""Files of an output directory: written whole or not at all, by one process at a time."""

import contextlib
import errno
import fcntl
import io
import os
from pathlib import Path

from testbed.errors import InvalidInput


def lock(directory: Path) -> io.IOBase:
    """The directory, made if need be, locked for this process."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held = open(directory / ".lock", "a+")  # noqa: SIM115 (held open: closing it unlocks)
    except OSError as problem:
        raise unwritable(directory, problem) from problem
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        held.close()
        if problem.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            # A file system without locks: two commands could not be told from one.
            raise unwritable(directory, problem) from problem
        raise InvalidInput(
            f"output directory {directory} is in use by another `testbed run`: wait for it, or "
            "choose another --out"
        ) from problem
    return held


def unwritable(directory: Path, problem: OSError) -> InvalidInput:
    """The error for an output directory that the disk refuses to change."""
    reason = problem.strerror or str(problem)
    return InvalidInput(
        f"output directory {directory} cannot be written ({reason}): choose another --out"
    )


def write(path: Path, data: bytes, temporary: Path) -> None:
    """Write all of a file or nothing, surviving a kill and a power cut."""
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    settle(path.parent)


def settle(directory: Path) -> None:
    """See to it that what a directory lists survives a power cut."""
    held = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(held)
    finally:
        os.close(held)

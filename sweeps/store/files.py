"""Files of an output directory: written whole or not at all, by one process at a time."""

import contextlib
import errno
import fcntl
import io
import os
import time
from pathlib import Path

from testbed.errors import InvalidInput

#: Seconds between attempts to lock: `in_use` holds a lock for an instant.
_PAUSES = (0.05, 0.1)


def lock(directory: Path) -> io.IOBase:
    """The directory, made if need be, locked for this process."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held = open(directory / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 (held open: closing it unlocks)
    except OSError as problem:
        raise unwritable(directory, problem) from problem
    try:
        taken = not _locked(held, fcntl.LOCK_EX)
        for pause in _PAUSES if taken else ():
            time.sleep(pause)
            taken = taken and not _locked(held, fcntl.LOCK_EX)
    except OSError as problem:
        held.close()
        # A file system without locks: two commands could not be told from one.
        raise unwritable(directory, problem) from problem
    if taken:
        held.close()
        raise InvalidInput(
            f"output directory {directory} is in use by another `testbed run`: wait for it, or "
            "choose another --out"
        )
    return held


def in_use(directory: Path) -> bool:
    """Whether a process has locked the directory. Leaves nothing behind, and whoever comes to `lock` it meanwhile gets
    it all the same."""
    with contextlib.suppress(OSError), open(directory / ".lock", encoding="utf-8") as file:
        return not _locked(file, fcntl.LOCK_SH)
    return False


def _locked(file: io.IOBase, kind: int) -> bool:
    """Lock a file for as long as it is open; whether it was free."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def refused(out: Path, problem: OSError) -> InvalidInput:
    """The error for an ``--out`` that the disk refuses to write."""
    return InvalidInput(f"--out {out} cannot be written ({problem.strerror or problem})")


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

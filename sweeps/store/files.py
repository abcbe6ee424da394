"""Files of an output directory, written whole or not at all by one process at a time; a check of the cache's disk."""

import contextlib
import errno
import fcntl
import io
import os
import tempfile
import time
from pathlib import Path

from testbed.errors import InvalidInput
from testbed.paths import cache_directory

#: Folders of the cache that runs write to.
_WRITTEN = ("stages", "xla", "underway", "policies")
#: Bytes that are written to test whether a disk accepts them: the block size of common file systems.
_TRIED = 4096
#: Seconds before each attempt to lock: `in_use` holds a lock for an instant.
_PAUSES = (0.0, 0.05, 0.1)


def lock(directory: Path) -> io.IOBase:
    """Make the directory, if it does not exist, and lock it for this process."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held = open(directory / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 (held open: closing it unlocks)
    except OSError as problem:
        raise unwritable(directory, problem) from problem
    try:
        for pause in _PAUSES:
            time.sleep(pause)
            if _locked(held, fcntl.LOCK_EX):
                return held
    except OSError as problem:
        held.close()
        # The file system has no locks: two commands could write at the same time.
        raise unwritable(directory, problem) from problem
    held.close()
    raise InvalidInput(
        f"output directory {directory} is in use by another `testbed run`: wait for it, or choose another --out"
    )


def in_use(directory: Path) -> bool:
    """Whether a process has locked the directory. The check leaves no file behind, and a process that calls `lock`
    meanwhile still gets the lock."""
    with contextlib.suppress(OSError), open(directory / ".lock", encoding="utf-8") as file:
        return not _locked(file, fcntl.LOCK_SH)
    return False


def _locked(file: io.IOBase, kind: int) -> bool:
    """Lock a file for as long as it is open; return whether the lock was free."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def refused(out: Path, problem: OSError) -> InvalidInput:
    """The error for an ``--out`` that the disk does not allow to be written."""
    return InvalidInput(f"--out {out} cannot be written ({problem.strerror or problem})")


def unwritable(directory: Path, problem: OSError) -> InvalidInput:
    """The error for an output directory that the disk does not allow to be changed."""
    reason = problem.strerror or str(problem)
    return InvalidInput(
        f"output directory {directory} cannot be written ({reason}): choose another --out"
    )


def write(path: Path, data: bytes, temporary: Path) -> None:
    """Write all of a file or nothing, even after a kill or a power cut."""
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
    """Make sure that a directory's list of files survives a power cut."""
    held = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(held)
    finally:
        os.close(held)


def require_writable_cache() -> None:
    """Refuse a cache that runs could not write to, before anything is built: raises `InvalidInput`.

    The test writes and removes a file in each folder, or in the parent of a missing folder. No file stays.
    """
    directory = cache_directory()
    for place in (directory, *(directory / name for name in _WRITTEN)):
        nearest = next(x for x in (place, *place.absolute().parents) if os.path.lexists(x))
        try:
            # NotADirectoryError if the path is a file; a full disk refuses the content. Permissions are not enough: a
            # superuser has all permissions, even where files cannot be made.
            with tempfile.TemporaryFile(dir=nearest) as file:
                file.write(bytes(_TRIED))
                file.flush()
        except OSError as problem:
            reason = problem.strerror or problem
            raise InvalidInput(
                f"cache {place} cannot be written ({reason}): make room there, or set TESTBED_CACHE to another "
                "directory, and run the same command again"
            ) from problem

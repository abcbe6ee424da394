"""Paths that users give, and the cache directory, which is kept between commands."""

import os
import re
from pathlib import Path

from testbed.errors import InvalidInput


def cache_directory() -> Path:
    """The directory of compiled programs, shared stages and pretrained models: ``$TESTBED_CACHE``, or under ~/.cache.

    The path is absolute. Raises `InvalidInput` if the variable is not set and the user has no home directory.
    """
    chosen = os.environ.get("TESTBED_CACHE")
    if chosen:
        return given(chosen, "TESTBED_CACHE")
    try:
        return Path.home() / ".cache" / "alignment-testbed"
    except RuntimeError as problem:
        raise InvalidInput(
            "the home directory is not known (HOME is not set, and the user has no entry in the password file): set "
            "TESTBED_CACHE to a directory for what is kept between commands"
        ) from problem


def expanded(text: str) -> str:
    """A path with ``~`` or ``~NAME`` at its beginning replaced by that user's home directory.

    ``~NAME`` stays unchanged if no user has that name, because a file may be called so. Raises `InvalidInput` for ``~``
    if the home directory is not known.
    """
    found = os.path.expanduser(text)
    if found == "~" or found.startswith("~/"):
        raise InvalidInput(
            f"~ in '{text}' cannot be replaced, because HOME is not set and the user has no entry in the password "
            "file: give the path from / on"
        )
    return found


def given(path: str | os.PathLike[str], what: str) -> Path:
    """A path that a user gives, absolute and with ``~`` expanded. ``what`` is the option or argument that the path is
    for.

    An absolute path stays right if a study's file changes the working directory. Libraries that also take addresses
    (pyarrow) do not mistake the part of an absolute path before a colon for the name of a protocol. Symbolic links and
    ``..`` are kept. Raises `InvalidInput` for an empty path and for one that the system does not accept.
    """
    text = os.fspath(path)
    if not text:
        raise InvalidInput(f"{what} is empty: give the path of a file or directory")
    try:
        whole = Path(expanded(text)).absolute()
        os.stat(whole)
    except (FileNotFoundError, NotADirectoryError) as problem:
        if not Path(expanded(text)).is_absolute() and not _working_directory():
            raise InvalidInput(
                f"{what} is '{text}', but the working directory is gone: change to another, or give a path from / on"
            ) from problem
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise InvalidInput(f"{what} cannot be used ({reason}), got '{text}'") from problem
    return whole


def shown(path: Path) -> str:
    """A path for display: relative to the working directory if the path is inside it, otherwise absolute."""
    working = _working_directory()
    if not working or not path.is_relative_to(working):
        return str(path)
    text = str(path.relative_to(working))
    # A command would take such a name for an option, or for a home directory.
    return f"./{text}" if text.startswith(("-", "~")) else text


def shortened(text: str) -> str:
    """A sentence in which paths inside the working directory are shown relative to it."""
    working = _working_directory()
    if working in ("", "/"):
        return text
    return re.sub(rf"(?<![\w./~:-]){re.escape(working)}/(?=[^/\s])", "", text)


def _working_directory() -> str:
    """The path of the working directory; empty if the directory no longer exists."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""

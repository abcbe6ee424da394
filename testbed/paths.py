"""Paths as users give them, and the directory that is kept between commands."""

import os
import re
from pathlib import Path

from testbed.errors import InvalidInput


def cache_directory() -> Path:
    """Where compiled programs, shared stages and pretrained models are kept: ``$TESTBED_CACHE``, or under ~/.cache.

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

    ``~NAME`` stays as it is where no user has the name: a file may be called so. Raises `InvalidInput` for ``~`` where
    the home directory is not known.
    """
    found = os.path.expanduser(text)
    if found == "~" or found.startswith("~/"):
        raise InvalidInput(
            f"~ in '{text}' cannot be replaced, because HOME is not set and the user has no entry in the password "
            "file: give the path from / on"
        )
    return found


def given(path: str | os.PathLike[str], what: str) -> Path:
    """A path that a user gives, absolute and with ``~`` expanded. ``what`` is the option or argument that it is for.

    Absolute paths stay right if a study's file changes the working directory, and libraries that also take addresses
    (pyarrow) do not read the part before a colon as the name of a protocol. Symbolic links and ``..`` are kept. Raises
    `InvalidInput` for an empty path and for one that the system does not take.
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
    """A path for people: from the working directory on if the path is inside it, whole otherwise."""
    here = _working_directory()
    if not here or not path.is_relative_to(here):
        return str(path)
    text = str(path.relative_to(here))
    # Such a name is an option to a command that is given it, or a home directory.
    return f"./{text}" if text.startswith(("-", "~")) else text


def shortened(text: str) -> str:
    """A sentence whose paths inside the working directory are told from there on."""
    here = _working_directory()
    if here in ("", "/"):
        return text
    return re.sub(rf"(?<![\w./~:-]){re.escape(here)}/(?=[^/\s])", "", text)


def _working_directory() -> str:
    """Its path, empty if it is gone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""

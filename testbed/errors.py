"""Errors that a user can cause, as opposed to faults of the program."""

import difflib
from collections.abc import Iterable


class InvalidInput(ValueError):
    """A configuration, argument or directory that cannot be used.

    The message is one sentence that names the field, its value and what is allowed. The
    command line prints it and exits with status 2.
    """


def unknown(what: str, name: str, known: Iterable[str]) -> InvalidInput:
    """The error for a name that does not exist; it lists the nearest name first, then all known names."""
    known = list(known)
    folded = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    hint = f"did you mean '{folded[near[0]]}'? " if near else ""
    return InvalidInput(f"unknown {what} '{name}': {hint}known: {', '.join(known) or 'none'}")


def said(problem: BaseException) -> str:
    """The message of a library's error, on one line and without its full stop, for use in a sentence."""
    return printable(str(problem)).rstrip(".")


def printable(text: str) -> str:
    """A text of a file or a library on one line; halves of surrogate pairs, which cannot be printed, are escaped."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())


class Unfinished(Exception):
    """Work that could not be completed for reasons outside of its config.

    The message says what is missing and why. The command line prints it and exits with status 1. ``runs`` are the ids
    of the runs that were given up, where they are known.
    """

    def __init__(self, message: str, runs: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.runs = tuple(runs)

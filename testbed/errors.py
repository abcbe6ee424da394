"""Errors that a user can cause, as opposed to faults of the program."""

import difflib
from collections.abc import Iterable


class InvalidInput(ValueError):
    """A configuration, argument or directory that cannot be used.

    The message is one sentence that names the field, its value and what is allowed. The
    command line prints it and exits with status 2.
    """


def unknown(what: str, name: str, known: Iterable[str]) -> InvalidInput:
    """The error for a name that does not exist: nearest name first, then the whole list."""
    known = list(known)
    folded = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    hint = f"did you mean '{folded[near[0]]}'? " if near else ""
    return InvalidInput(f"unknown {what} '{name}': {hint}known: {', '.join(known) or 'none'}")


def said(problem: BaseException) -> str:
    """What an error of a library says, on one line and without its full stop, to be quoted in a sentence."""
    return printable(str(problem)).rstrip(".")


def printable(text: str) -> str:
    """A text of a file or a library on one line, with halves of surrogate pairs, which cannot be printed, escaped."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())


class Unfinished(Exception):
    """Work that could not be completed for reasons outside of its config.

    The message says what is missing and why. The command line prints it and exits with status 1. ``runs`` are the ids
    of those that were given up, where it is known.
    """

    def __init__(self, message: str, runs: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.runs = tuple(runs)

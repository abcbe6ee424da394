"""Errors that a user can cause, as opposed to faults of the program."""


class InvalidInput(ValueError):
    """A configuration, argument or directory that cannot be used.

    The message is one sentence that names the field, its value and what is allowed. The
    command line prints it and exits with status 2.
    """


def said(problem: Exception) -> str:
    """What an error of a library says, on one line and without its full stop, to be quoted in a sentence."""
    return " ".join(str(problem).split()).rstrip(".")


class Unfinished(Exception):
    """Work that could not be completed for reasons outside of its config.

    The message says what is missing and why. The command line prints it and exits with status 1.
    """

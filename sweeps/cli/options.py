"""Options that several commands take, and the console that they ask for."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sweeps.console import terminal
from testbed import paths
from testbed.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
Command = argparse.ArgumentParser


def add_path(command: Command, name: str, metavar: str, help: str) -> None:
    """Add an argument or option that is a path."""
    command.add_argument(name, metavar=metavar, type=path, help=help)


def add_number(
    command: Command, name: str, help: str = "(default: %(default)s)", default: int | None = None
) -> None:
    """Add an option that is a whole number."""
    whole = parsed(int, "a whole number")
    command.add_argument(name, metavar="N", type=whole, default=default, help=help)


def add_flag(command: Command, name: str, help: str) -> None:
    """Add an option without a value."""
    command.add_argument(name, action="store_true", help=help)


def add_repeated(command: Command, name: str, metavar: str, help: str) -> None:
    """Add an option that may be given several times; its value is a list."""
    command.add_argument(name, metavar=metavar, action="append", default=[], help=help)


def add_results(command: Command) -> None:
    """Add a results directory as an argument."""
    add_path(command, "directory", "DIR", "the --out of a run")


def add_format(command: Command, help: str) -> None:
    """Let a command write pages, or print in a form for programs and papers."""
    forms = ("html", "json", "csv", "markdown")
    command.add_argument("--format", choices=forms, default="html", help=help)


def add_json(command: Command) -> None:
    """Let a command print data for programs."""
    add_flag(command, "--json", "print JSON for programs; all else goes to standard error")


def add_loudness(command: Command, verbose: str = "") -> None:
    """Let a command print nothing but errors, or, where ``verbose`` says what, more."""
    either = command.add_mutually_exclusive_group() if verbose else command
    either.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    if verbose:
        either.add_argument("-v", "--verbose", action="store_true", help=verbose)


def path(text: str) -> Path:
    """The absolute path that an option's text means; a mistake is answered with a sentence."""
    try:
        return paths.given(text, "the path")
    except InvalidInput as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def parsed(kind: Callable[[str], T], what: str) -> Callable[[str], T]:
    """A function that reads an option's text as a ``kind``, and answers a mistake with ``what`` the text must be."""

    def read(text: str) -> T:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {what}, got '{text}'") from None

    return read


def console_of(options: argparse.Namespace) -> "Console":
    """The console of a command by its options: quiet, or on standard error beside data for programs."""
    asked: dict[str, Any] = vars(options)
    return terminal.console(asked.get("quiet", False), asked.get("json", False))


def say(options: argparse.Namespace, *lines: str) -> None:
    """Print lines to a command's console."""
    from sweeps.console import tables

    for line in lines:
        tables.say(console_of(options), line)


def show(options: argparse.Namespace, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print rows with equal keys as a table to a command's console."""
    from sweeps.console import tables

    tables.show(tables.rich_table(rows, title), console_of(options))

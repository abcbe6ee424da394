"""Commands that read what others have written: ``status``, ``compare``, ``export``, ``cache``, and ``completion`` for
shells.

Their options and what they do with them. Slow imports wait until a command needs them.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sweeps import results
from sweeps.commands import console_of
from sweeps.console import terminal
from testbed import paths
from testbed.errors import InvalidInput

T = TypeVar("T")
SHELLS = ("bash", "zsh", "fish")

_STATUS_EXAMPLES = """\
examples:
  testbed status results/gap-laptop            what is done, lacking, diverged or failed; time left
  testbed status results/gap-laptop --json | jq .left
  until testbed status results/gap-laptop --quiet; do sleep 60; done

Exit status: 0 if every planned run is stored, 1 if not.
"""

_COMPARE_EXAMPLES = """\
examples:
  testbed compare results/gap-laptop results/noisy
  testbed compare results/old results/new --verbose        why of every verdict, moved or not
  testbed compare results/old results/new --json | jq '.verdicts[] | select(.moved)'

Both are judged by the studies' present rules, as `testbed report` does. What differs between the two (design,
code, runs) is told first, then why each verdict that moved has moved, as far as the two can tell.

Exit status: 0 if no verdict moved, 1 if one did.
"""

_EXPORT_EXAMPLES = """\
examples:
  testbed export results/gap-laptop --out gap.parquet
  testbed export results/gap-laptop --out gap.csv
  testbed export results/gap-laptop --format csv --out - | head

A row a run and evaluation, of all studies in DIR. What the columns mean: testbed list columns.
"""

_CACHE_EXAMPLES = """\
examples:
  testbed cache                                what is kept, and how much
  testbed cache --forget 30                    deletes what has not been used for 30 days
  testbed cache --forget 0                     deletes all that can be made again, bar the last minute

Worlds and compiled programs are kept under all that they depend on, so that those of older versions are never
used again. What cannot be made again stays: runs under way, what language models have learnt, models.
"""

_COMPLETION_EXAMPLES = """\
examples:
  testbed completion bash > ~/.local/share/bash-completion/completions/testbed
  testbed completion zsh > ~/.zfunc/_testbed           with ~/.zfunc in fpath, before compinit
  testbed completion fish > ~/.config/fish/completions/testbed.fish

It completes commands, options, studies, presets, what `list` lists, directories and study files. Write it anew when
studies have come.
"""


#: Adds a command to the others: its name, its one line of help, its examples.
MakeCommand = Callable[[Any, str, str, str], argparse.ArgumentParser]


def add_commands(subcommands: Any, command: MakeCommand) -> None:
    """Add this module's commands, made by ``command``."""
    one = command(
        subcommands,
        "status",
        "show which runs are done, lacking, diverged or failed, and the time left",
        _STATUS_EXAMPLES,
    )
    add_results(one)
    add_json(one)
    add_loudness(one, "print the ids of the runs that are lacking, too")
    one.set_defaults(command=status)
    two = command(
        subcommands,
        "compare",
        "compare two results directories: which verdicts moved, and why",
        _COMPARE_EXAMPLES,
    )
    two.add_argument("a", metavar="A", type=path, help="the --out of a run")
    two.add_argument("b", metavar="B", type=path, help="the --out of another")
    add_json(two)
    add_loudness(two, "tell why of every verdict, moved or not")
    two.set_defaults(command=compare)
    table = command(
        subcommands,
        "export",
        "write all evaluations as one table for other programs",
        _EXPORT_EXAMPLES,
    )
    add_results(table)
    table.add_argument(
        "--format",
        choices=("parquet", "csv"),
        help="(default: what FILE ends in; csv for standard output)",
    )
    table.add_argument(
        "--out", metavar="FILE", required=True, help="the table; - is standard output, for csv"
    )
    table.add_argument(
        "--configs", action="store_true", help="add each run's whole config, as JSON"
    )
    add_loudness(table)
    table.set_defaults(command=export)
    cache = command(
        subcommands, "cache", "show what the cache holds, or make room", _CACHE_EXAMPLES
    )
    cache.add_argument(
        "--forget",
        metavar="DAYS",
        type=parsed(float, "a number of days"),
        help="delete worlds and programs that have not been used for so many days, and show those",
    )
    add_json(cache)
    add_loudness(cache)
    cache.set_defaults(command=show_cache)
    shells = command(
        subcommands,
        "completion",
        "print what completes this command in a shell",
        _COMPLETION_EXAMPLES,
    )
    shells.add_argument("shell", choices=SHELLS, help="the shell")
    shells.set_defaults(command=completion)


def add_results(command: argparse.ArgumentParser) -> None:
    """Let a command be given a results directory."""
    command.add_argument("directory", metavar="DIR", type=path, help="the --out of a run")


def add_json(command: argparse.ArgumentParser) -> None:
    """Let a command print data for programs."""
    command.add_argument(
        "--json",
        action="store_true",
        help="print JSON for programs; all else goes to standard error",
    )


def add_loudness(command: argparse.ArgumentParser, verbose: str = "") -> None:
    """Let a command print nothing but errors, or, where ``verbose`` says what, more."""
    how = command.add_mutually_exclusive_group() if verbose else command
    how.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    if verbose:
        how.add_argument("-v", "--verbose", action="store_true", help=verbose)


def path(text: str) -> Path:
    """Read an option's text as a path, absolute; a mistake is answered with what is wrong with it."""
    try:
        return paths.given(text, "the path")
    except InvalidInput as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def parsed(kind: Callable[[str], T], what: str) -> Callable[[str], T]:
    """What reads an option's text as a ``kind``; a mistake is answered with ``what`` it must be."""

    def read(text: str) -> T:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {what}, got '{text}'") from None

    return read


def status(options: argparse.Namespace) -> int:
    """Show how a results directory stands; 1 if runs are lacking."""
    found = results.status(options.directory)
    if options.json:
        terminal.write_json(found.describe())
    elif not options.quiet:
        from sweeps.console.tables import say, show

        console = console_of(options)
        show(found.table(), console)
        for sentence in found.sentences():
            say(console, sentence)
        for run in sorted(found.total.lacking) if options.verbose else ():
            say(console, f"lacking     {run}{' (failed)' if run in found.total.failed else ''}")
    return 0 if found.complete else 1


def compare(options: argparse.Namespace) -> int:
    """Show which verdicts moved, and why; 1 if one did."""
    found = results.compare(options.a, options.b)
    if options.json:
        terminal.write_json(found.describe())
    elif not options.quiet:
        from sweeps.console.tables import rich_table, say, show

        console = console_of(options)
        show(rich_table([row.cells() for row in found.rows], f"A {found.a}, B {found.b}"), console)
        for sentence in found.sentences(options.verbose):
            console.print(sentence, markup=False, highlight=False)
        say(console, found.summary())
    return 1 if found.moved else 0


def export(options: argparse.Namespace) -> int:
    """Write the evaluations to a file, or as CSV to standard output."""
    if options.out == "-":
        if options.format == "parquet":
            raise InvalidInput("--out - is for csv: give a file for parquet")
        table = results.load(options.directory).evaluations(options.configs)
        terminal.write(table.to_csv(index=False, lineterminator="\n"))
        return 0
    rows = results.export(options.directory, options.out, options.format, options.configs)
    from sweeps.console.tables import say

    runs = len(rows[["study", "arm", "run"]].drop_duplicates())
    say(console_of(options), f"{len(rows)} evaluations of {runs} runs are in {options.out}")
    return 0


def show_cache(options: argparse.Namespace) -> int:
    """Show what the cache holds, or what of it was deleted."""
    from sweeps import upkeep
    from testbed.paths import cache_directory

    forgets = options.forget is not None
    found = upkeep.forget(options.forget) if forgets else upkeep.cached()
    if options.json:
        rows = [kept.describe() for kept in found]
        terminal.write_json(
            {"directory": str(cache_directory()), "deleted" if forgets else "kept": rows}
        )
    elif not options.quiet:
        from sweeps.console.tables import rich_table, show

        title = f"{'Deleted from' if forgets else 'In'} {cache_directory()}"
        show(rich_table([kept.cells() for kept in found], title), console_of(options))
    return 0


def completion(options: argparse.Namespace) -> int:
    """Print what a shell needs to complete the command."""
    from sweeps import cli, completion

    terminal.write(completion.script(cli.parser(), options.shell))
    return 0

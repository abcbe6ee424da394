"""Show what the cache holds, or make room.

examples:
  testbed cache                                what is kept, and how much
  testbed cache --forget 30                    deletes what has not been used for 30 days
  testbed cache --forget 0                     deletes all that can be made again, bar the last minute

Worlds and compiled programs are kept under all that they depend on, so that those of older versions are never
used again. What cannot be made again stays: runs under way, what language models have learnt, models.
"""

import argparse

from sweeps import api
from sweeps.cli import options as shared
from sweeps.console import terminal
from testbed.paths import cache_directory


def add_options(command: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    command.add_argument(
        "--forget",
        metavar="DAYS",
        type=shared.parsed(float, "a number of days"),
        help="delete worlds and programs that have not been used for so many days, and show those",
    )
    shared.add_json(command)
    shared.add_loudness(command)


def execute(options: argparse.Namespace) -> int:
    """Print what the cache holds, or what of it was deleted."""
    forgets = options.forget is not None
    folders = api.forget(options.forget) if forgets else api.cached()
    if options.json:
        rows = [folder.describe() for folder in folders]
        kind = "deleted" if forgets else "kept"
        terminal.write_json({"directory": str(cache_directory()), kind: rows})
    elif not options.quiet:
        title = f"{'Deleted from' if forgets else 'In'} {cache_directory()}"
        shared.show(options, [folder.cells() for folder in folders], title)
    return 0

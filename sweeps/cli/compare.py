"""Compare two results directories: which verdicts moved, and why.

examples:
  testbed compare results/gap-laptop results/noisy
  testbed compare results/old results/new --verbose        why of every verdict, moved or not
  testbed compare results/old results/new --json | jq '.verdicts[] | select(.moved)'

Both are judged by the studies' present rules, as `testbed report` does. What differs between the two (design,
code, runs) is told first, then why each verdict that moved has moved, as far as the two can tell.

Exit status: 0 if no verdict moved, 1 if one did.
"""

import argparse

from sweeps import api
from sweeps.cli import options as shared
from sweeps.console import terminal


def add_options(command: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    shared.add_path(command, "a", "A", "the --out of a run")
    shared.add_path(command, "b", "B", "the --out of another")
    shared.add_json(command)
    shared.add_loudness(command, "tell why of every verdict, moved or not")


def execute(options: argparse.Namespace) -> int:
    """Print which verdicts moved, and why; 1 if one did."""
    comparison = api.compare(options.a, options.b)
    if options.json:
        terminal.write_json(comparison.describe())
    elif not options.quiet:
        rows = [row.cells() for row in comparison.rows]
        shared.show(options, rows, f"A {comparison.a}, B {comparison.b}")
        for sentence in comparison.sentences(options.verbose):
            shared.console_of(options).print(sentence, markup=False, highlight=False)
        shared.say(options, comparison.summary())
    return 1 if comparison.moved else 0

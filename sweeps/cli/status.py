"""Show which runs are done, lacking, diverged or failed, and the time left.

examples:
  testbed status results/gap-laptop            what is done, lacking, diverged or failed; time left
  testbed status results/gap-laptop --json | jq .left
  until testbed status results/gap-laptop --quiet; do sleep 60; done

Exit status: 0 if every planned run is stored, 1 if not.
"""

import argparse

from sweeps import api
from sweeps.cli import options as shared
from sweeps.console import terminal


def add_options(command: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    shared.add_results(command)
    shared.add_json(command)
    shared.add_loudness(command, "print the ids of the runs that are lacking, too")


def execute(options: argparse.Namespace) -> int:
    """Print the status of a results directory; 1 if runs are lacking."""
    status = api.status(options.directory)
    if options.json:
        terminal.write_json(status.describe())
    elif not options.quiet:
        from sweeps.console.tables import show

        show(status.table(), shared.console_of(options))
        shared.say(options, *status.sentences())
        for run in sorted(status.total.lacking) if options.verbose else ():
            failed = " (failed)" if run in status.total.failed else ""
            shared.say(options, f"lacking     {run}{failed}")
    return 0 if status.complete else 1

"""Write all evaluations as one table for other programs.

examples:
  testbed export results/gap-laptop --out gap.parquet
  testbed export results/gap-laptop --out gap.csv
  testbed export results/gap-laptop --format csv --out - | head
  testbed export results/gap-laptop --out gap.parquet --by-prompt
  testbed export results/gap-laptop --draws draws.nc

A row a run and evaluation, of all studies in DIR. What the columns mean: testbed list columns.
With --draws: posterior draws of the claims' effects, for ArviZ (netCDF) or pandas (Parquet).
"""

import argparse

from sweeps import api
from sweeps.cli import options as shared
from sweeps.console import terminal
from testbed.errors import InvalidInput


def add_options(command: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    shared.add_results(command)
    help = "(default: what FILE ends in; csv for standard output)"
    command.add_argument("--format", choices=("parquet", "csv"), help=help)
    help = "the table; - is standard output, for csv"
    command.add_argument("--out", metavar="FILE", help=help)
    help = (
        "posterior draws of every effect, and its worlds: .nc (needs the extra arviz) or .parquet"
    )
    command.add_argument("--draws", metavar="FILE", help=help)
    shared.add_flag(command, "--configs", "add each run's whole config, as JSON")
    shared.add_flag(command, "--by-prompt", "add the outcome on every prompt, as lists (parquet)")
    shared.add_loudness(command)


def execute(options: argparse.Namespace) -> int:
    """Write the evaluations to a file, or as CSV to standard output; and the draws."""
    if options.draws is not None:
        count = api.export_draws(options.directory, options.draws)
        shared.say(options, f"draws of {count} effects are in {options.draws}")
        if options.out is None:
            return 0
    if options.out is None:
        raise InvalidInput("export needs a file: give --out, --draws or both")
    if options.out == "-":
        if options.format == "parquet" or options.by_prompt:
            raise InvalidInput("--out - is for csv: give a file for parquet")
        table = api.load(options.directory).evaluations(options.configs)
        terminal.write(table.to_csv(index=False, lineterminator="\n"))
        return 0
    rows = api.export(
        options.directory, options.out, options.format, options.configs, options.by_prompt
    )
    runs = len(rows[["study", "arm", "run"]].drop_duplicates())
    shared.say(options, f"{len(rows)} evaluations of {runs} runs are in {options.out}")
    return 0

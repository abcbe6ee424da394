"""Analyse results anew: scoreboard, figures, pages.

examples:
  testbed report results/gap-laptop            writes DIR/report/index.html
  testbed report results/reproduce-laptop --format markdown
  testbed report results/gap-laptop --format json | jq '.[].verdict'
  testbed report results/gap-laptop --bib      whom to cite
"""

import argparse
import json

from sweeps import api
from sweeps.cli import options as shared
from sweeps.console import terminal


def add_options(command: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    shared.add_results(command)
    shared.add_format(command, "html writes pages; the others print the scoreboard (default: html)")
    shared.add_flag(command, "--bib", "print BibTeX for the methods that the runs used")
    shared.add_loudness(command)


def execute(options: argparse.Namespace) -> int:
    """Print BibTeX or the scoreboard, or write pages."""
    if options.bib:
        terminal.write(api.bibliography(options.directory))
    elif options.format == "html":
        api.report(options.directory, shared.console_of(options))
    else:
        write(api.scoreboard(options.directory, options.format), options.format)
    return 0


def write(text: str, form: str) -> None:
    """Print a text in one of the forms of ``--format``."""
    if form == "json":
        terminal.write_json(json.loads(text))
    else:
        terminal.write(text)

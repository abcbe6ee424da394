"""Run the whole paper: every claim of arXiv 2405.08448, as a scoreboard.

examples:
  testbed reproduce                            the paper's claims at laptop size
  testbed reproduce --preset smoke             to see that everything works
  testbed reproduce --preset paper --dry-run   what it would take
  testbed report results/reproduce-laptop --format markdown

It runs every study that judges a claim of arXiv 2405.08448 (C1 to C17), as one plan: what they share is
done once. The same command resumes after an interruption.
"""

import argparse
from pathlib import Path

from sweeps import api
from sweeps.cli import options as shared
from sweeps.cli import run


def add_options(command: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    run.add_size(command)
    shared.add_path(command, "--out", "DIR", "results (default: results/reproduce-PRESET)")
    run.add_output(command)
    command.set_defaults(set=[], axis=[])


def execute(options: argparse.Namespace) -> int:
    """Run every study that judges a claim of the paper."""
    options.study = [study.name for study in api.paper_studies()]
    if options.preset is None:
        from sweeps.api.request import preset_of

        options.preset = (options.task and preset_of(options.task)) or "laptop"
    options.out = options.out or Path("results") / f"reproduce-{options.preset}"
    return run.execute(options)

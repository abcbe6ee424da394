"""Compare simulated and real effects: signs, ranks, verdicts.

examples:
  testbed transfer results/gap-laptop results/gap-llm
  testbed transfer results/reproduce-laptop results/gap-llm --format markdown

SIM_DIR holds the runs in simulation, LLM_DIR those of the same studies on a language model: every effect that
both measured is set side by side. See docs/transfer.md.
"""

import argparse

from sweeps import api
from sweeps.cli import options as shared
from sweeps.cli import report


def add_options(command: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    shared.add_path(command, "simulated", "SIM_DIR", "the --out of the runs in simulation")
    shared.add_path(command, "real", "LLM_DIR", "the --out of the runs on a language model")
    shared.add_format(
        command, "html writes LLM_DIR/report/transfer.html; the others print (default: html)"
    )


def execute(options: argparse.Namespace) -> int:
    """Print the table of effects, or write its page."""
    table = api.transfer(options.simulated, options.real)
    from analysis.transfer import table as transfer_table

    if options.format != "html":
        report.write(transfer_table.FORMS[options.format](table), options.format)
        return 0
    page = api.transfer_page(table, options.real)
    transfer_table.show(table, shared.console_of(options))
    shared.say(options, f"Page        {page}")
    return 0

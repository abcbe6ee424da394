"""Show studies, or what configs are made of.

examples:
  testbed list                                 studies
  testbed list tasks                           kinds of tasks, with their fields and defaults
  testbed list losses                          formulas, citations, hyper-parameters and their ranges
  testbed list columns                         what the columns of the results mean
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeps import api
from sweeps.catalogue import listing
from sweeps.cli import options as shared
from sweeps.console import terminal

if TYPE_CHECKING:
    from rich.console import Console


def add_options(command: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    help = "what to list (default: studies)"
    command.add_argument(
        "what", nargs="?", choices=list(listing.SOURCES), default="studies", help=help
    )
    shared.add_json(command)


def execute(options: argparse.Namespace) -> int:
    """Print what there is to choose from."""
    entries = api.listing(options.what)
    if options.json:
        terminal.write_json(entries)
        return 0
    if options.what == "columns":
        shared.show(options, entries, "Columns of the results: a row a run and evaluation")
    elif options.what == "studies":
        shared.show(options, list(map(_study_row, entries)), "Studies (* default preset)")
    else:
        _show_family(entries, shared.console_of(options))
    return 0


def _study_row(study: Mapping[str, Any]) -> dict[str, str]:
    presets = (
        f"{preset}{'*' if preset == study['default'] else ''} ({size})"
        for preset, size in study["presets"].items()
    )
    return {
        "study": study["study"],
        "question": f"{study['title']}. {study['question']}",
        "claims": ", ".join(study["claims"]),
        "presets (runs)": ", ".join(presets),
    }


def _show_family(entries: Sequence[Mapping[str, Any]], console: "Console") -> None:
    """Print each member's name, formula, citation, and fields with their ranges."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    for entry in entries:
        console.print(Text(entry["name"], style="bold"), Text(entry["formula"]), sep="  ")
        if entry["citation"]:
            console.print(Padding(Text(entry["citation"], style="italic"), (0, 0, 0, 4)))
        fields = Table.grid(padding=(0, 2))
        for field in entry["parameters"]:
            given = f"{field['name']}={field['default']}" if field["default"] else field["name"]
            fields.add_row(Text(given), Text(field["admits"]), Text(field["meaning"]))
        if entry["parameters"]:
            console.print(Padding(fields, (0, 0, 0, 4)))
        console.print()

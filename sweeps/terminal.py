"""Where commands print."""

import os

from rich.console import Console

#: Columns of an output that has no width of its own.
WIDTH = 120


def console(quiet: bool = False, stderr: bool = False) -> Console:
    """Where commands print. Colours, and whatever else takes control characters, are for terminals alone, and for none
    if NO_COLOR is set; ``quiet`` prints nothing."""
    made = Console(quiet=quiet, stderr=stderr)
    if made.is_terminal:
        # FORCE_COLOR may make a log a terminal: it gets its colours, but nothing that is redrawn in place.
        made.is_interactive = made.is_interactive and (made.is_jupyter or made.file.isatty())
        return made
    # Logs have no width of their own; 80 columns would fold the tables.
    width = None if os.environ.get("COLUMNS", "").isdigit() else WIDTH
    return Console(quiet=quiet, stderr=stderr, width=width)


def chosen(given: Console | None) -> Console:
    """Where a call prints: where it was told to, or as commands do."""
    return console() if given is None else given

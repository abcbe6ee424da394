"""What the benchmarks share: their command lines' frame, processes of their own, figures as text and as JSON."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def arguments(words: str | None, **options: tuple[Any, ...]) -> argparse.Namespace:
    """Parse a command line that shows a script's own words as its help, and takes ``--json``.

    An option has its default (a class if it has none), its help, and choices if they are limited.
    """
    parser = argparse.ArgumentParser(
        description=words, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    for name, (default, said, *choices) in options.items():
        given: dict[str, Any] = {"default": default, "type": type(default)}
        if default is False:
            given = {"action": "store_true"}
        elif isinstance(default, type):
            given = {"type": default}
        elif isinstance(default, list):
            given |= {"type": type(default[0]), "nargs": "+"}
        if choices:
            given["choices"] = choices[0]
        parser.add_argument(f"--{name}", help=said, **given)
    return parser.parse_args()


def process(file: str, *options: object, **environment: str) -> Any:
    """What a script prints as JSON on its last line, in a process of its own."""
    command = [sys.executable, file, *map(str, options)]
    ended = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        sys.exit(ended.stderr or ended.stdout)
    return json.loads(ended.stdout.splitlines()[-1])


def show(figures: Mapping[str, Any]) -> None:
    """Print a figure a line."""
    for name, value in figures.items():
        print(f"{name:38s} {f'{value:.4g}' if isinstance(value, float) else value}")


def write(file: Path | None, figures: Mapping[str, Any]) -> None:
    """Write figures with the machine and the versions that they are of, if there is a file to write to."""
    if file:
        # Only here: a script for comparison imports nothing of the testbed.
        from sweeps.store import provenance

        origin = {"machine": provenance.machine(), "versions": provenance.versions()}
        file.write_text(json.dumps({**origin, **figures}, indent=1))

"""What shells need to complete the ``testbed`` command: shtab's scripts, told of studies, presets and files."""

import argparse
import shlex
from collections.abc import Iterable, Iterator
from typing import Any

import shtab

from sweeps.catalogue.listing import listed

#: Destinations of arguments that are directories, and of those that are files.
_DIRECTORIES = {"directory", "a", "b", "simulated", "real"}


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell: one of `sweeps.reading.SHELLS`."""
    presets = dict.fromkeys(preset for study in listed("studies") for preset in study["presets"])
    for name, command in commands(parser):
        for action in command._actions:
            if action.dest == "study":
                action.complete = _studies()  # type: ignore[attr-defined]  (what shtab reads)
            elif action.dest == "preset":
                action.choices = list(presets)
            elif action.dest in _DIRECTORIES or (action.dest == "out" and name != "export"):
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.dest == "out":
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def commands(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parser of every command by its name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _studies() -> dict[str, Any]:
    """Names of studies, and files of one's own."""
    names = " ".join(shlex.quote(study["study"]) for study in listed("studies"))
    bash = _function(
        "_testbed_studies()",
        f'compgen -W "{names}" -- "$1"',
        "compgen -f -X '!*.py' -- \"$1\"",
        'compgen -d -- "$1"',
    )
    zsh = _function("_testbed_studies()", f"compadd -- {names}", "_files -g '*.py'")
    return {
        "bash": "_testbed_studies",
        "zsh": "_testbed_studies",
        "fish": f"{names} (__fish_complete_suffix .py)",
        "preamble": {"bash": bash, "zsh": zsh},
    }


def _function(head: str, *lines: Iterable[str]) -> str:
    return "\n".join([f"{head} {{", *(f"  {line}" for line in lines), "}"])

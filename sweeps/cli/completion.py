"""Print what completes this command in a shell.

examples:
  testbed completion bash > ~/.local/share/bash-completion/completions/testbed
  testbed completion zsh > ~/.zfunc/_testbed           with ~/.zfunc in fpath, before compinit
  testbed completion fish > ~/.config/fish/completions/testbed.fish

It completes commands, options, studies, presets, what `list` lists, directories and study files. Write it anew when
studies have come.
"""

import argparse
import shlex
from collections.abc import Iterator
from typing import Any

from sweeps.catalogue import listing
from sweeps.console import terminal

SHELLS = ("bash", "zsh", "fish")
#: Arguments that are results directories.
_DIRECTORIES = {"directory", "a", "b", "simulated", "real"}


def add_options(command: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    command.add_argument("shell", choices=SHELLS, help="the shell")


def execute(options: argparse.Namespace) -> int:
    """Print the script of a shell."""
    terminal.write(script(options.whole, options.shell))
    return 0


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script that completes the commands of ``parser`` in one of `SHELLS`."""
    import shtab

    studies = listing.listed("studies")
    presets = dict.fromkeys(preset for study in studies for preset in study["presets"])
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


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parser of every command by its name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _studies() -> dict[str, Any]:
    """Completion of a study: the names of the testbed's studies, and a user's files."""
    names = " ".join(shlex.quote(study["study"]) for study in listing.listed("studies"))
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


def _function(head: str, *lines: str) -> str:
    return "\n".join([f"{head} {{", *(f"  {line}" for line in lines), "}"])

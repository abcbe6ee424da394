"""What the subcommands of ``testbed`` do with their options. Slow imports wait until a command needs them."""

import argparse
import contextlib
import importlib.util
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import runtime
from testbed.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from sweeps.runner import Engine
    from sweeps.study import Selection

REPRODUCED = "laptop"


def run(options: argparse.Namespace) -> int:
    """Run studies, or finish ones that were interrupted."""
    _configure(options)
    chosen = selections(options)
    return _run(chosen, options, "-".join(selection.study.name for selection in chosen))


def reproduce(options: argparse.Namespace) -> int:
    """Run every study that judges a claim of the paper."""
    _configure(options)
    return _run(selections(options), options, "reproduce")


def selections(options: argparse.Namespace) -> "list[Selection]":
    """What ``run`` or ``reproduce`` is asked for. Raises `InvalidInput`."""
    from sweeps.study import list_studies, load_study

    if options.seeds is not None and options.seeds < 1:
        raise InvalidInput(f"--seeds must be at least 1, got {options.seeds}")
    if options.study is None:
        studies = [study for study in list_studies() if study.judges_paper]
    else:
        studies = [load_study(name) for name in options.study]
    preset, settings = options.preset, options.set
    if options.task is not None:
        preset = preset or _preset_of(options.task)
        settings = [*settings, f"task={options.task}"]
    if options.study is None:
        preset = preset or REPRODUCED
    return [study.select_texts(preset, options.seeds, settings, options.axis) for study in studies]


def _configure(options: argparse.Namespace) -> None:
    runtime.configure()
    if options.cluster is not None:
        # Workers on this machine own its GPUs.
        runtime.leave_accelerators()


def _engine(options: argparse.Namespace) -> "contextlib.AbstractContextManager[Engine]":
    """What runs the plan: this process, or a cluster."""
    from sweeps import population

    if options.cluster is not None:
        from sweeps.cluster import Cluster

        return Cluster(options.cluster, 1 if options.workers is None else options.workers)
    if options.workers is not None:
        raise InvalidInput("--workers needs --cluster: it says how many workers share a host")
    return contextlib.nullcontext(population)


def _run(selections: "Sequence[Selection]", options: argparse.Namespace, name: str) -> int:
    from sweeps import runner

    presets = dict.fromkeys(selection.preset for selection in selections)
    directory = options.out or Path("results") / f"{name}-{'-'.join(presets)}"
    console = _console()
    for selection in selections:
        for note in selection.notes():
            console.print(f"Note: {selection.study.name}: {note}", style="yellow", markup=False)
    if options.dry_run:
        with _engine(options) as engine:
            runner.show_plan(selections, directory, console, engine)
        return 0
    from analysis import report as pages

    files = [Path(name) for name in options.study or [one.study.name for one in selections]]
    origins = [
        {
            "command": options.command_line,
            "file": str(file.resolve()) if file.suffix == ".py" else None,
        }
        for file in files
    ]
    with _engine(options) as engine:
        runner.run(selections, directory, console, pages.build, engine, origins)
    return 0


def _preset_of(task: str) -> str | None:
    """The preset for worlds of a kind, if it is not the studies' own."""
    from sweeps import language, paper
    from testbed import config

    kind = type(config.parse(paper.EXPERIMENT, "task", task))
    return language.SIZES[0] if kind.checkpointed else None


def report(options: argparse.Namespace) -> int:
    """Analyse results anew; print the scoreboard in a form for programs and papers, or write pages."""
    runtime.configure()
    opened = _require_results(options.directory)
    if options.bib:
        from sweeps import citations

        sys.stdout.write(citations.bibliography(opened))
        return 0
    if options.format != "html":
        from analysis import export

        sys.stdout.write(export.render(options.directory, options.format, opened))
        return 0
    from analysis import report as pages
    from sweeps import runner

    runner.finish(options.directory, _console(), pages.build, opened)
    return 0


def transfer(options: argparse.Namespace) -> int:
    """Set simulated and real effects side by side; print them in a form for programs and papers, or write a page."""
    runtime.configure()
    opened = _require_results(options.simulated), _require_results(options.real)
    from analysis import card as words
    from analysis import transfer as effects

    card = effects.compare(options.simulated, options.real, opened)
    if options.format != "html":
        sys.stdout.write(words.FORMS[options.format](card))
        return 0
    from analysis import report as pages
    from sweeps.printing import say

    console = _console()
    page = pages.build_transfer(card, options.real)
    words.show(card, console)
    say(console, f"Page        {page}")
    return 0


def inspect(options: argparse.Namespace) -> int:
    """Show what a task looks like."""
    runtime.configure()
    from sweeps import inspection, provenance
    from sweeps.printing import say
    from sweeps.progress import display

    experiment = inspection.configure(options.task, options.set, options.seed, options.quick)
    kind = type(experiment.task).__name__.lower()
    directory = options.out or Path("results") / f"inspect-{kind}"
    _require_writable(directory)
    console = _console()
    with display(0, 0, console) as progress:
        found = inspection.inspect(experiment, options.quick, progress)
    from analysis import inspect as pages

    origin = provenance.session() | {"command": options.command_line}
    page = pages.build(found, directory, origin)
    pages.show(found, console)
    console.print()
    say(console, f"Page        {page}")
    say(console, f"Figure      {directory / 'figures' / 'inspect.png'}")
    return 0


def _require_writable(directory: Path) -> None:
    """Make the directory, or refuse it before the work is done."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InvalidInput(
            f"--out {directory} cannot be written ({problem.strerror or problem})"
        ) from problem


def listing(options: argparse.Namespace) -> int:
    """Show studies, or what configs are made of."""
    runtime.configure()
    from sweeps.printing import rich_table

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
    console.print(rich_table(rows, "Studies (* default preset)"))
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
    seeds = study.select(preset).seeds
    return seeds * len(study.points(preset, seeds=1))


def tensorboard(options: argparse.Namespace) -> int:
    """Write TensorBoard's logs, and start it if it is installed."""
    opened = _require_results(options.directory)
    from sweeps import runner
    from sweeps import tensorboard as boards
    from sweeps.study import split

    where = dict(split(text, "--where", "PATH=VALUE") for text in options.where)
    more = boards.More(options.runs or bool(where), where, options.hparams)
    logs = runner.mirror(options.directory, opened, more)
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


def llm(options: argparse.Namespace) -> int:
    """Download what pretrained models need, or check what is there."""
    runtime.configure()
    # Preparing computes next to nothing.
    runtime.leave_accelerators()
    from sweeps.printing import say
    from testbed.llm import fetch

    console = _console()
    say(console, f"Model       {fetch.smollm2(loud=True)}")
    fetch.verify()
    say(console, f"Ratings     {fetch.ratings(loud=True)}")
    return 0


def chat(options: argparse.Namespace) -> int:
    """Let a trained policy and the one it started from answer, side by side."""
    runtime.configure()
    opened = _require_results(options.directory)
    from rich.table import Table

    from sweeps import chat
    from sweeps.printing import rich_table
    from sweeps.progress import display

    console = _console()
    points = chat.planned(store for store, _ in opened)
    if not points:
        raise InvalidInput(
            f"no run in {options.directory} is one that this version would make again: run the study with it"
        )
    if options.run is None:
        rows = [
            {"run": point.run, "arm": point.arm, "seed": point.seed, **point.settings}
            for point in points
        ]
        console.print(rich_table(rows, "Runs"))
        return 0
    point = chat.chosen(points, options.run)
    with display(0, 0, console) as progress:
        both = chat.Chat.of(point, progress)

    def answer(text: str) -> None:
        shown = Table(title=text, title_justify="left", show_lines=True, expand=True)
        names = ("before", f"after ({point.arm}, seed {point.seed})")
        for name in names:
            shown.add_column(name, ratio=1)
        pair = both(text, options.samples, options.seed)
        for rows in zip(*pair, strict=True):
            shown.add_row(*map(_told, rows))
        console.print(shown)

    for text in options.prompt:
        answer(text)
    if not options.prompt:
        for line in sys.stdin:
            # What is typed by mistake ends nothing.
            try:
                answer(line.rstrip("\n"))
            except InvalidInput as problem:
                console.print(str(problem), style="yellow", markup=False)
    return 0


def _told(answer: Any) -> Any:
    from rich.text import Text

    facts = (
        f"reward {answer.reward:+.2f}, {answer.length} tokens, log ratio {answer.log_ratio:+.2f}"
    )
    return Text.assemble(answer.words.strip(), "\n", (facts, "dim"))


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


def _require_results(directory: Path) -> list[tuple[Any, Any]]:
    """Refuse a directory without results; load the studies' files, which may define kinds of their own. Its stores as
    `read_stores` gives them."""
    from sweeps.store import read_stores
    from sweeps.study import load_study

    opened = read_stores(directory)
    for store, _ in opened:
        file = store.header.get("file")
        if file and Path(file).is_file():
            # A file that no longer loads is told of in the report, which judges by the stored rules.
            with contextlib.suppress(InvalidInput):
                load_study(file)
    return opened


def _console() -> "Console":
    from rich.console import Console

    console = Console()
    # Logs have no width of their own; 80 columns would fold the tables.
    return console if console.is_terminal else Console(width=120)

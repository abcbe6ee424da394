"""What the subcommands of ``testbed`` do with their options. Slow imports wait until a command needs them."""

import argparse
import importlib.util
import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import api, results
from sweeps.console import activity, terminal
from testbed import paths
from testbed.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from sweeps.study import Selection


def run(options: argparse.Namespace) -> int:
    """Run studies, or finish ones that were interrupted."""
    return _run(options, options.study)


def reproduce(options: argparse.Namespace) -> int:
    """Run every study that judges a claim of the paper."""
    options.preset = _preset(options)
    options.out = options.out or Path("results") / f"reproduce-{options.preset}"
    return _run(options, [study.name for study in api.paper_studies()])


def selections(options: argparse.Namespace) -> "list[Selection]":
    """What ``run`` or ``reproduce`` is asked for. Raises `InvalidInput`."""
    studies = api.paper_studies() if options.study is None else options.study
    asked = (options.seeds, options.set, options.axis, options.task)
    return api.select(studies, _preset(options), *asked)


def _preset(options: argparse.Namespace) -> str | None:
    """The preset that is asked for, or, of the paper's studies, the one for its task."""
    if options.preset is None and options.study is None:
        return (options.task and api.preset_of(options.task)) or api.REPRODUCED
    return options.preset


def _run(options: argparse.Namespace, studies: Sequence[str]) -> int:
    asked = {
        "preset": options.preset,
        "seeds": options.seeds,
        "settings": options.set,
        "axes": options.axis,
        "task": options.task,
        "out": options.out,
        "cluster": options.cluster,
        "workers": options.workers,
        "console": console_of(options),
    }
    if options.dry_run:
        forecast = api.forecast(*studies, **asked)
        if options.json:
            terminal.write_json(forecast.describe())
        else:
            forecast.show(asked["console"])
        return 0
    done = api.run(*studies, **asked, verbose=options.verbose, command=options.command_line)
    if options.json:
        terminal.write_json(done.describe())
    return 0


def report(options: argparse.Namespace) -> int:
    """Analyse results anew; print the scoreboard in a form for programs and papers, or write pages."""
    if options.bib:
        terminal.write(results.bibliography(options.directory))
        return 0
    if options.format != "html":
        board = results.scoreboard(options.directory, options.format)
        if options.format == "json":
            terminal.write_json(json.loads(board))
        else:
            terminal.write(board)
        return 0
    results.report(options.directory, console_of(options))
    return 0


def transfer(options: argparse.Namespace) -> int:
    """Set simulated and real effects side by side; print them in a form for programs and papers, or write a page."""
    card = results.transfer(options.simulated, options.real)
    from analysis.site import transfer_table as words

    if options.format != "html":
        text = words.FORMS[options.format](card)
        if options.format == "json":
            terminal.write_json(json.loads(text))
        else:
            terminal.write(text)
        return 0
    from sweeps.console.tables import say

    console = _console()
    page = results.transfer_page(card, options.real)
    words.show(card, console)
    say(console, f"Page        {page}")
    return 0


def inspect(options: argparse.Namespace) -> int:
    """Show what a task looks like."""
    console = console_of(options)
    page = api.inspect(
        options.task,
        options.set,
        options.seed,
        options.quick,
        options.out,
        console,
        options.command_line,
    )
    from sweeps.console.tables import say

    console.print()
    say(console, f"Page        {page}")
    say(console, f"Figure      {page.parent / 'figures' / 'inspect.png'}")
    return 0


def listing(options: argparse.Namespace) -> int:
    """Show studies, what configs are made of, or what the columns of results mean."""
    found = api.listing(options.what)
    if options.json:
        terminal.write_json(found)
    elif options.what in ("studies", "columns"):
        _list_rows(options.what, found)
    else:
        _list_family(found)
    return 0


def _list_rows(what: str, found: Sequence[Mapping[str, Any]]) -> None:
    from sweeps.console.tables import rich_table, show

    console = _console()
    if what == "columns":
        show(rich_table(found, "Columns of the results: a row a run and evaluation"), console)
        return
    rows = [
        {
            "study": study["study"],
            "question": f"{study['title']}. {study['question']}",
            "claims": ", ".join(study["claims"]),
            "presets (runs)": ", ".join(
                f"{preset}{'*' if preset == study['default'] else ''} ({size})"
                for preset, size in study["presets"].items()
            ),
        }
        for study in found
    ]
    show(rich_table(rows, "Studies (* default preset)"), console)


def _list_family(found: Sequence[Mapping[str, Any]]) -> None:
    """Each member's name, formula, citation, and fields with their ranges."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = _console()
    for entry in found:
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


def tensorboard(options: argparse.Namespace) -> int:
    """Write TensorBoard's logs, and start it if it is installed."""
    from sweeps.study import split

    where = dict(split(text, "--where", "PATH=VALUE") for text in options.where)
    with activity.told():
        logs = results.write_logs(options.directory, options.runs, where, options.hparams)
    if importlib.util.find_spec("tensorboard") is None:
        command = ["uv", "run", "--extra", "tensorboard", "testbed", "tensorboard"]
        command.append(paths.shown(options.directory))
        print(
            f"testbed: TensorBoard is not installed: run `{shlex.join(command)}`; the logs are in {paths.shown(logs)}",
            file=sys.stderr,
        )
        return 1
    _require_free(options.port)
    # By default it smooths curves, at the first evaluation of a run too.
    print(f"Unsmoothed: http://localhost:{options.port}/?smoothing=0#timeseries", flush=True)
    board = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs)]
    try:
        return subprocess.run([*board, "--port", str(options.port)], check=False).returncode
    except KeyboardInterrupt:
        return 0


def llm(options: argparse.Namespace) -> int:
    """Download what pretrained models need, or check what is there."""
    model, ratings = api.fetch_models(loud=True)
    from sweeps.console.tables import say

    say(_console(), f"Model       {model}")
    say(_console(), f"Ratings     {ratings}")
    return 0


def chat(options: argparse.Namespace) -> int:
    """Let a trained policy and the one it started from answer, side by side."""
    from rich.table import Table

    from sweeps.console.tables import rich_table

    console = _console()
    if options.run is None:
        rows = [
            {"run": point.run, "arm": point.arm, "seed": point.seed, **point.settings}
            for point in results.trained(options.directory)
        ]
        console.print(rich_table(rows, "Runs"))
        return 0
    both = results.chat(options.directory, options.run, console)

    def answer(text: str) -> None:
        shown = Table(title=text, title_justify="left", show_lines=True, expand=True)
        names = ("before", f"after ({both.point.arm}, seed {both.point.seed})")
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


def console_of(options: argparse.Namespace) -> "Console":
    """Where a command prints, as its options have it: beside data for programs, standard error."""
    asked = vars(options)
    return _console(asked.get("quiet", False), asked.get("json", False))


def _console(quiet: bool = False, stderr: bool = False) -> "Console":
    return terminal.console(quiet, stderr)

"""Running studies, and forecasting their cost.

A study is given by name, as the path of a file, or as a `Study`. Invalid arguments raise `testbed.errors.InvalidInput`;
work that could not be completed raises `testbed.errors.Unfinished`. Modules that need jax are imported inside the
functions.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sweeps import runtime
from sweeps.api import jax_settings
from sweeps.api.results import Outcome
from sweeps.console import profile as profiling
from testbed import paths
from testbed.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from sweeps.api.forecasting import Forecast
    from sweeps.api.precision import Precision, PrecisionLike
    from sweeps.api.request import Changes, Request, StudyLike
    from sweeps.api.runner import Engine
    from sweeps.selection import SeedsLike
    from sweeps.study import Selection, Study


def run(
    *studies: "StudyLike",
    preset: str | None = None,
    seeds: "SeedsLike | None" = None,
    settings: "Changes" = (),
    axes: "Changes" = (),
    task: str | None = None,
    out: Path | str | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    console: "Console | None" = None,
    verbose: bool = False,
    command: str | None = None,
    precision: "PrecisionLike | None" = None,
    max_worlds: int | None = None,
    minutes: float | None = None,
    profile: bool = False,
) -> Outcome:
    """Run studies, or finish interrupted ones: ``testbed run``.

    ``settings`` change single fields of the config, ``axes`` sweep them; see `Study.select`. ``task`` replaces the
    studies' own task. Results go to ``out``, by default ``results/STUDY-PRESET``. ``cluster`` and ``workers`` are as on
    the command line. ``console`` receives the progress (``rich.console.Console(quiet=True)`` shows none); ``verbose``
    shows the plan and every stage. ``command`` is the command line that `study.json` shows to people. ``profile``
    writes where the time went into ``profile.json`` beside the results, which the report shows.

    With a ``precision``, worlds are added until the 90% interval of every deciding test has a half width of at most so
    many points (0.035 SFT standard deviations of golden reward; in other units half the ROPE), or until there are
    ``max_worlds`` (by default 32), or ``minutes`` are over. A mapping such as ``{"C2": 2, "C3.8": 4}`` has points for
    the claims that have a say.
    """
    with contextlib.ExitStack() as around:
        if profile:
            around.enter_context(profiling.recording())
        asked_for = (studies, preset, seeds, settings, axes, task, out, cluster, workers, console)
        request, selections, directory, engine, shown, asked = around.enter_context(
            _prepared(*asked_for, precision, max_worlds, minutes)
        )
        with profiling.part(profiling.Part.IMPORT):
            from analysis import report as pages
            from sweeps.api import runner
            from sweeps.api.precision import Growth

        further = [] if asked is None else asked.words()
        made_by = command or request.command(selections, directory, further)
        origins = request.origins(selections, made_by)
        growth = None if asked is None else Growth(asked, pages.verdicts, shown)
        made = (pages.build, engine, origins, verbose, pages.preview, growth)
        runner.run(selections, directory, shown, *made)
    return Outcome(directory)


def forecast(*studies: "StudyLike", **arguments: Any) -> "Forecast":
    """Predict the work, the cost and the precision of `run` with the same arguments, except ``verbose`` and
    ``command``; nothing is written: ``testbed run --dry-run``."""
    with _prepared(studies, **arguments) as ready:
        from sweeps.api import forecasting

        return forecasting.forecast(ready.selections, ready.directory, ready.engine, ready.asked)


def paper_studies() -> "list[Study]":
    """The studies that judge a claim of arXiv 2405.08448. ``testbed reproduce`` is `run` with these studies."""
    jax_settings.ready(devices=False)
    from sweeps.study import list_studies

    return [study for study in list_studies() if study.judges_paper]


class _Prepared(NamedTuple):
    """The checked arguments of `run` and `forecast`."""

    request: "Request"
    selections: "list[Selection]"
    directory: Path
    engine: "Engine"
    console: "Console"
    asked: "Precision | None"


@contextlib.contextmanager
def _prepared(
    studies: "tuple[StudyLike, ...]",
    preset: str | None = None,
    seeds: "SeedsLike | None" = None,
    settings: "Changes" = (),
    axes: "Changes" = (),
    task: str | None = None,
    out: Path | str | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    console: "Console | None" = None,
    precision: "PrecisionLike | None" = None,
    max_worlds: int | None = None,
    minutes: float | None = None,
) -> Iterator[_Prepared]:
    """Check the arguments of `run` and `forecast`, print their consequences, and try the user's own classes before
    anything is built."""
    runtime.configure()
    if cluster is not None:
        # The GPUs are for the workers on this machine.
        runtime.leave_accelerators()
    with profiling.part(profiling.Part.IMPORT):
        jax_settings.require()
        from sweeps import contracts
        from sweeps.api.precision import Precision
        from sweeps.api.request import Request
        from sweeps.console import terminal
        from sweeps.console.tables import say

    profiling.listen()
    asked = Precision.asked(precision, max_worlds, minutes)
    request = Request(studies, preset, seeds, settings, axes, task)
    with profiling.part(profiling.Part.PLAN):
        selections = request.selections()
    if asked is not None:
        asked.check(selections)
    names = "-".join(selection.study.name for selection in selections)
    sizes = "-".join(dict.fromkeys(selection.preset for selection in selections))
    default = Path("results") / f"{names}-{sizes}"
    directory = paths.given(default if out is None else out, "--out")
    console = terminal.chosen(console)
    for selection in selections:
        for note in selection.notes():
            console.print(f"Note: {selection.study.name}: {note}", style="yellow", markup=False)
    with profiling.part(profiling.Part.PLAN, "checks"):
        contracts.check(selections, functools.partial(say, console))
    with _engine(cluster, workers) as engine:
        yield _Prepared(request, selections, directory, engine, console, asked)


def _engine(
    cluster: str | None, workers: int | None
) -> "contextlib.AbstractContextManager[Engine]":
    """The engine that runs the plan: this process, or a cluster."""
    if cluster is not None:
        from sweeps.cluster.driver import Cluster

        return Cluster(cluster, 1 if workers is None else workers)
    if workers is not None:
        raise InvalidInput("--workers needs --cluster: it says how many workers share a host")
    from sweeps.population import host

    return contextlib.nullcontext(host)

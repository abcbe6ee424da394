"""Everything that the command line does, as calls: each command is one of these functions, and prints what it returns.

Studies are given by name, as the path of a file, or as a `Study`; directories are the ``out`` of a run. Mistakes raise
`testbed.errors.InvalidInput`, work that could not be completed `testbed.errors.Unfinished`. Slow imports wait until a
call needs them.
"""

import contextlib
import functools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import runtime
from testbed.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from analysis.comparison import Comparison
    from sweeps.runner import Engine, Forecast
    from sweeps.standing import Status
    from sweeps.study import Selection, Study

    StudyLike = Study | Path | str

#: Changes of a config: values by path (a text is read as the command line reads it), or texts as `--set` and `--axis`
#: take them.
Changes = Mapping[str, Any] | Sequence[str]

REPRODUCED = "laptop"


@dataclass(frozen=True)
class Outcome:
    """A results directory and what is in it, read when it is first asked for."""

    directory: Path

    @property
    def page(self) -> Path:
        """The report's first page."""
        return self.directory / "report" / "index.html"

    @functools.cached_property
    def table(self) -> "pd.DataFrame":
        """A row a run and evaluation, of all studies; `sweeps.columns` says what the columns mean."""
        return self.evaluations()

    def evaluations(self, configs: bool = False) -> "pd.DataFrame":
        """The same, read anew; with ``configs`` each run's whole config as well."""
        from analysis import table

        return table.evaluations(self.directory, configs=configs)

    @functools.cached_property
    def entries(self) -> list[dict[str, Any]]:
        """Every verdict with its effect, interval, rule and reason, as `report/verdicts.json` has them."""
        from analysis import report as pages

        return pages.verdicts(self.directory)

    @property
    def verdicts(self) -> "pd.DataFrame":
        """A row a claim, study and task, with the columns of the scoreboard as CSV."""
        import io

        import pandas as pd

        from analysis import export

        return pd.read_csv(io.StringIO(export.as_csv(self.entries)))

    def status(self) -> "Status":
        """Which runs are done, lacking or diverged."""
        return status(self.directory)

    def describe(self) -> dict[str, Any]:
        """As JSON-able data: what ``testbed run --json`` prints."""
        now = self.status()
        facts = {"directory": str(self.directory), "report": str(self.page)}
        return facts | now.total.describe() | {"verdicts": self.entries}

    def _repr_html_(self) -> str:
        from sweeps.printing import html_table
        from sweeps.tensorboard import verdict_cells

        names = ["claim", "task", "verdict", "estimate", "interval"]
        rows = [dict(zip(names, verdict_cells(entry), strict=True)) for entry in self.entries]
        return html_table(rows, f"{self.directory}: {self.status().sentences()[0]}")


def run(
    *studies: "StudyLike",
    preset: str | None = None,
    seeds: int | None = None,
    settings: Changes = (),
    axes: Changes = (),
    task: str | None = None,
    out: Path | str | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    console: "Console | None" = None,
    verbose: bool = False,
    command: str | None = None,
) -> Outcome:
    """Run studies, or finish ones that were interrupted: ``testbed run``.

    ``settings`` change single fields of the config, ``axes`` sweep them; see `Study.select`. ``task`` is the world in
    place of the studies' own. Results go to ``out``, by
    default ``results/STUDY-PRESET``. ``cluster`` and ``workers`` are as on the command line. ``console`` is where
    progress goes (``rich.console.Console(quiet=True)``: nowhere); ``verbose`` shows the plan and every stage.
    ``command`` is how `study.json` says that the results were made.
    """
    _configure(cluster)
    selections = select(studies, preset, seeds, settings, axes, task)
    directory = _directory(out, selections)
    from analysis import report as pages
    from sweeps import runner

    console = _shown(console)
    _show_notes(selections, console)
    command = command or _command(studies, selections, seeds, settings, axes, task, directory)
    files = [study for study in studies if isinstance(study, str | Path)]
    where = {str(study): Path(study).resolve() for study in files if Path(study).suffix == ".py"}
    origins = [
        {"command": command, "file": str(where[str(one)]) if str(one) in where else None}
        for one in studies
    ]
    with _engine(cluster, workers) as engine:
        runner.run(selections, directory, console, pages.build, engine, origins, verbose)
    return Outcome(directory)


def forecast(
    *studies: "StudyLike",
    preset: str | None = None,
    seeds: int | None = None,
    settings: Changes = (),
    axes: Changes = (),
    task: str | None = None,
    out: Path | str | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    console: "Console | None" = None,
) -> "Forecast":
    """What `run` would do with the same arguments, and what that takes; writes nothing: ``testbed run --dry-run``."""
    _configure(cluster)
    selections = select(studies, preset, seeds, settings, axes, task)
    directory = _directory(out, selections)
    from sweeps import runner

    _show_notes(selections, _shown(console))
    with _engine(cluster, workers) as engine:
        return runner.forecast(selections, directory, engine)


def paper_studies() -> "list[Study]":
    """The studies that judge a claim of arXiv 2405.08448; to `run` them is ``testbed reproduce``."""
    runtime.configure()
    from sweeps.study import list_studies

    return [study for study in list_studies() if study.judges_paper]


def report(directory: Path | str, console: "Console | None" = None) -> Outcome:
    """Analyse results anew and write their pages and TensorBoard's logs: ``testbed report``."""
    runtime.configure()
    directory = Path(directory)
    opened = open_results(directory)
    from analysis import report as pages
    from sweeps import runner

    runner.finish(directory, _shown(console), pages.build, opened)
    return Outcome(directory)


def scoreboard(directory: Path | str, form: str) -> str:
    """The verdicts as "json", "csv" or "markdown": ``testbed report --format``."""
    runtime.configure()
    opened = open_results(Path(directory))
    from analysis import export

    return export.render(Path(directory), form, opened)


def load(directory: Path | str) -> Outcome:
    """The results of a directory as pandas objects. Raises `InvalidInput` if it holds no study."""
    runtime.configure()
    open_results(Path(directory))
    return Outcome(Path(directory))


def status(directory: Path | str) -> "Status":
    """Which runs are done, lacking, diverged or failed, whether a command is at work there, and the time left:
    ``testbed status``."""
    runtime.configure()
    from sweeps import standing

    return standing.status(Path(directory))


def compare(a: Path | str, b: Path | str) -> "Comparison":
    """Which verdicts moved from one results directory to another, and why: ``testbed compare``."""
    runtime.configure()
    opened = [open_results(Path(directory)) for directory in (a, b)]
    from analysis import comparison

    return comparison.compare(a, b, opened)


def export(
    directory: Path | str, out: Path | str, form: str | None = None, configs: bool = False
) -> "pd.DataFrame":
    """Write `Outcome.table` to a file, as "parquet" or "csv" (by default what its suffix says), and return it:
    ``testbed export``. ``configs`` adds each run's whole config."""
    runtime.configure()
    opened = open_results(Path(directory))
    from analysis import table

    rows = table.evaluations(Path(directory), opened, configs)
    table.write(rows, Path(out), form)
    return rows


def inspect(
    task: str,
    settings: Sequence[str] = (),
    seed: int = 0,
    quick: bool = False,
    out: Path | str | None = None,
    console: "Console | None" = None,
    command: str | None = None,
) -> Path:
    """Build a task's world, write the page that shows what it looks like, and return its path: ``testbed inspect``."""
    runtime.configure()
    from sweeps import inspection, provenance
    from sweeps.progress import display

    experiment = inspection.configure(task, settings, seed, quick)
    kind = type(experiment.task).__name__.lower()
    directory = Path(out) if out else Path("results") / f"inspect-{kind}"
    _require_writable(directory)
    console = _shown(console)
    with display(0, 0, console) as progress:
        found = inspection.inspect(experiment, quick, progress)
    from analysis import inspect as pages

    origin = provenance.session() | {"command": command or f"sweeps.inspect({task!r})"}
    page = pages.build(found, directory, origin)
    pages.show(found, console)
    return page


def listing(what: str = "studies") -> list[dict[str, Any]]:
    """What there is to choose from: studies, a family of configs, or the columns of the results: ``testbed list``."""
    runtime.configure()
    from sweeps import catalogue, columns

    if what == "columns":
        return [{"column": name, "meaning": text} for name, text in columns.MEANINGS.items()]
    if what != "studies":
        return [entry.describe() for entry in catalogue.entries(what)]
    from sweeps.study import list_studies

    return [
        {
            "study": study.name,
            "title": study.title,
            "question": study.question,
            "claims": [claim.id for claim in study.claims],
            "default": study.default,
            "presets": {preset: _size(study, preset) for preset in study.presets},
        }
        for study in list_studies()
    ]


def bibliography(directory: Path | str) -> str:
    """BibTeX for the methods that the runs used: ``testbed report --bib``."""
    runtime.configure()
    from sweeps import citations

    return citations.bibliography(open_results(Path(directory)))


def write_logs(
    directory: Path | str,
    runs: bool = False,
    where: Mapping[str, str] | None = None,
    hparams: bool = False,
) -> Path:
    """Write TensorBoard's logs and return their directory: what ``testbed tensorboard`` does first.

    Single ``runs`` are shown too, those that have the values in ``where`` if there are any; ``hparams`` shows what came
    out of every run.
    """
    opened = open_results(Path(directory))
    from sweeps import runner, tensorboard

    more = tensorboard.More(runs or bool(where), where or {}, hparams)
    return runner.mirror(Path(directory), opened, more)


def select(
    studies: "Sequence[StudyLike]",
    preset: str | None = None,
    seeds: int | None = None,
    settings: Changes = (),
    axes: Changes = (),
    task: str | None = None,
) -> "list[Selection]":
    """The runs that `run` makes with the same arguments, study by study."""
    runtime.configure()
    if not studies:
        raise InvalidInput("no study is given: name at least one")
    if seeds is not None and seeds < 1:
        raise InvalidInput(f"--seeds must be at least 1, got {seeds}")
    loaded = [_load(study) for study in studies]
    if task is not None:
        preset = preset or preset_of(task)
        settings = [*_texts(settings), f"task={task}"]
    # Nothing is as good a mapping as a list of texts.
    settings, axes = settings or {}, axes or {}
    if isinstance(settings, Mapping) and isinstance(axes, Mapping):
        listed = [*settings.values(), *(value for values in axes.values() for value in values)]
        if not any(isinstance(value, str) for value in listed):
            return [study.select(preset, seeds, settings, axes) for study in loaded]
    texts = _texts(settings), _texts(axes, several=True)
    return [study.select_texts(preset, seeds, *texts) for study in loaded]


def preset_of(task: str) -> str | None:
    """The preset for worlds of a kind, if it is not the studies' own."""
    from sweeps import language, paper
    from testbed import config

    kind = type(config.parse(paper.EXPERIMENT, "task", task))
    return language.SIZES[0] if kind.checkpointed else None


def open_results(directory: Path) -> list[tuple[Any, Any]]:
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


def _size(study: "Study", preset: str) -> int:
    seeds = study.select(preset).seeds
    return seeds * len(study.points(preset, seeds=1))


def _configure(cluster: str | None) -> None:
    runtime.configure()
    if cluster is not None:
        # Workers on this machine own its GPUs.
        runtime.leave_accelerators()


def _shown(console: "Console | None") -> "Console":
    from sweeps import terminal

    return terminal.console() if console is None else console


def _engine(
    cluster: str | None, workers: int | None
) -> "contextlib.AbstractContextManager[Engine]":
    """What runs the plan: this process, or a cluster."""
    from sweeps import population

    if cluster is not None:
        from sweeps.cluster import Cluster

        return Cluster(cluster, 1 if workers is None else workers)
    if workers is not None:
        raise InvalidInput("--workers needs --cluster: it says how many workers share a host")
    return contextlib.nullcontext(population)


def _load(study: "StudyLike") -> "Study":
    from sweeps.study import load_study

    return load_study(str(study)) if isinstance(study, str | Path) else study


def _texts(changes: Changes, several: bool = False) -> list[str]:
    """Changes as the command line has them, with one value each or ``several``."""
    if not isinstance(changes, Mapping):
        return list(changes)
    from testbed import config

    def text(value: Any) -> str:
        return value if isinstance(value, str) else config.spell(value)

    return [
        f"{path}={','.join(map(text, value)) if several else text(value)}"
        for path, value in changes.items()
    ]


def _directory(out: Path | str | None, selections: "Sequence[Selection]") -> Path:
    names = [selection.study.name for selection in selections]
    presets = dict.fromkeys(selection.preset for selection in selections)
    return Path(out) if out else Path("results") / f"{'-'.join(names)}-{'-'.join(presets)}"


def _show_notes(selections: "Sequence[Selection]", console: "Console") -> None:
    for selection in selections:
        for note in selection.notes():
            console.print(f"Note: {selection.study.name}: {note}", style="yellow", markup=False)


def _command(
    studies: "Sequence[StudyLike]",
    selections: "Sequence[Selection]",
    seeds: int | None,
    settings: Changes,
    axes: Changes,
    task: str | None,
    directory: Path,
) -> str:
    """The command line that does the same."""
    names = [str(one) if isinstance(one, str | Path) else one.name for one in studies]
    words = ["testbed", "run", *names, "--preset", selections[0].preset]
    words += [] if seeds is None else ["--seeds", str(seeds)]
    words += [] if task is None else ["--task", task]
    words += [word for text in _texts(settings) for word in ("--set", text)]
    words += [word for text in _texts(axes, several=True) for word in ("--axis", text)]
    return shlex.join([*words, "--out", str(directory)])


def _require_writable(directory: Path) -> None:
    """Make the directory, or refuse it before the work is done."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InvalidInput(
            f"--out {directory} cannot be written ({problem.strerror or problem})"
        ) from problem

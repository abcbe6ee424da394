"""What comes before results, as calls: each is what a command does, and returns what the command prints. What is done
with results is in `sweeps.results`.

Studies are given by name, as the path of a file, or as a `Study`. Mistakes raise `testbed.errors.InvalidInput`, and
work that could not be completed `testbed.errors.Unfinished`. Slow imports wait until a call needs them.
"""

import contextlib
import functools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import jax_settings, runtime
from sweeps.results import Outcome
from sweeps.store import files
from testbed import paths
from testbed.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from sweeps.runner import Engine, Forecast
    from sweeps.study import Selection, Study

    StudyLike = Study | Path | str

#: Changes of a config: values by path (a text is read as the command line reads it), or texts as `--set` and `--axis`
#: take them.
Changes = Mapping[str, Any] | Sequence[str]

REPRODUCED = "laptop"


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
    from sweeps.console import terminal

    console = terminal.chosen(console)
    _show_notes(selections, console)
    _check(selections, console)
    command = command or _command(studies, selections, seeds, settings, axes, task, directory)
    named = [str(study) for study in studies if isinstance(study, str | Path)]
    where = {
        study: Path(paths.expanded(study)).resolve() for study in named if study.endswith(".py")
    }
    origins = [
        {"command": command, "file": str(where[str(one)]) if str(one) in where else None}
        for one in studies
    ]
    with _engine(cluster, workers) as engine:
        runner.run(
            selections, directory, console, pages.build, engine, origins, verbose, pages.preview
        )
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
    from sweeps.console import terminal

    console = terminal.chosen(console)
    _show_notes(selections, console)
    _check(selections, console)
    with _engine(cluster, workers) as engine:
        return runner.forecast(selections, directory, engine)


def paper_studies() -> "list[Study]":
    """The studies that judge a claim of arXiv 2405.08448; to `run` them is ``testbed reproduce``."""
    runtime.configure()
    jax_settings.require(devices=False)
    from sweeps.study import list_studies

    return [study for study in list_studies() if study.judges_paper]


def fetch_models(loud: bool = False) -> tuple[Path, Path]:
    """Download what pretrained models need, or check what is there: the paths of the embedded checkpoint and of the
    rated texts. ``loud`` shows progress: ``testbed llm fetch``."""
    runtime.configure()
    # Preparing computes next to nothing.
    jax_settings.require(devices=False)
    runtime.leave_accelerators()
    from testbed.llm import fetch

    model = fetch.smollm2(loud=loud)
    fetch.verify()
    return model, fetch.ratings(loud=loud)


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
    jax_settings.require()
    from sweeps import contracts, inspection
    from sweeps.console import terminal
    from sweeps.console.progress import display
    from sweeps.console.tables import say
    from sweeps.store import provenance

    experiment = inspection.configure(paths.expanded(task), settings, seed, quick)
    kind = type(experiment.task).__name__.lower()
    directory = paths.given(Path("results") / f"inspect-{kind}" if out is None else out, "--out")
    _require_writable(directory)
    console = terminal.chosen(console)
    contracts.check_experiment(experiment, functools.partial(say, console))
    with display(0, 0, console) as progress:
        found = inspection.inspect(experiment, quick, progress)
    from analysis.site import inspection as pages

    origin = provenance.session() | {"command": command or f"sweeps.inspect({task!r})"}
    page = pages.build(found, directory, origin)
    pages.show(found, console)
    return page


def listing(what: str = "studies") -> list[dict[str, Any]]:
    """What there is to choose from: studies, a family of configs, or the columns of the results: ``testbed list``."""
    runtime.configure()
    from sweeps.catalogue import listing as index

    return index.listed(what)


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
    jax_settings.require(devices=False)
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


def _configure(cluster: str | None) -> None:
    runtime.configure()
    if cluster is not None:
        # Workers on this machine own its GPUs.
        runtime.leave_accelerators()
    jax_settings.require()


def _engine(
    cluster: str | None, workers: int | None
) -> "contextlib.AbstractContextManager[Engine]":
    """What runs the plan: this process, or a cluster."""
    from sweeps.population import host

    if cluster is not None:
        from sweeps.cluster.driver import Cluster

        return Cluster(cluster, 1 if workers is None else workers)
    if workers is not None:
        raise InvalidInput("--workers needs --cluster: it says how many workers share a host")
    return contextlib.nullcontext(host)


def _load(study: "StudyLike") -> "Study":
    from sweeps.study import load_study

    return load_study(paths.expanded(str(study))) if isinstance(study, str | Path) else study


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
    default = Path("results") / f"{'-'.join(names)}-{'-'.join(presets)}"
    return paths.given(default if out is None else out, "--out")


def _show_notes(selections: "Sequence[Selection]", console: "Console") -> None:
    for selection in selections:
        for note in selection.notes():
            console.print(f"Note: {selection.study.name}: {note}", style="yellow", markup=False)


def _check(selections: "Sequence[Selection]", console: "Console") -> None:
    """Try the user's own classes before anything is built."""
    from sweeps import contracts
    from sweeps.console.tables import say

    contracts.check(selections, functools.partial(say, console))


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
    return shlex.join([*words, "--out", paths.shown(directory)])


def _require_writable(directory: Path) -> None:
    """Make the directory, or refuse it before the work is done."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise files.refused(directory, problem) from problem

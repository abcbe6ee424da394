"""Functions to use before a run: list studies and configs, inspect a task, download pretrained models."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import runtime
from sweeps.api import jax_settings
from sweeps.store import files
from testbed import paths

if TYPE_CHECKING:
    from rich.console import Console


def fetch_models(loud: bool = False) -> tuple[Path, Path]:
    """Download the files that pretrained models need, or check the files that are there. Return the paths of the
    embedded checkpoint and of the rated texts. ``loud`` shows progress: ``testbed llm fetch``."""
    # The preparation of files needs almost no computation.
    jax_settings.ready(devices=False)
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
    """Build a task's world, write a page that describes the world, and return the page's path: ``testbed inspect``."""
    jax_settings.ready()
    from sweeps import contracts, inspection
    from sweeps.console import terminal
    from sweeps.console.progress import display
    from sweeps.console.tables import say
    from sweeps.store import provenance

    experiment = inspection.configure(paths.expanded(task), settings, seed, quick)
    kind = type(experiment.task).__name__.lower()
    directory = paths.given(Path("results") / f"inspect-{kind}" if out is None else out, "--out")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise files.refused(directory, problem) from problem
    console = terminal.chosen(console)
    contracts.check_experiment(experiment, functools.partial(say, console))
    with display(0, 0, console) as progress:
        inspected = inspection.inspect(experiment, quick, progress)
    from analysis.site import inspection as pages

    origin = provenance.session() | {"command": command or f"sweeps.inspect({task!r})"}
    page = pages.build(inspected, directory, origin)
    pages.show(inspected, console)
    return page


def listing(what: str = "studies") -> list[dict[str, Any]]:
    """Studies, the members of a family of configs, or the columns of the results: ``testbed list``."""
    runtime.configure()
    from sweeps.catalogue import listing as index

    return index.listed(what)

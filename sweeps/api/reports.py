"""Reports on results, and comparisons of results: pages, scoreboards, BibTeX, TensorBoard's logs.

A directory is the ``out`` of a run. Invalid arguments raise `testbed.errors.InvalidInput`. Modules that need jax are
imported inside the functions.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.api.results import DIRECTORY, Outcome, opened
from testbed import paths

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.comparison import Comparison
    from analysis.transfer.effects import TransferTable


def report(directory: Path | str, console: "Console | None" = None) -> Outcome:
    """Analyse results again, and write their pages and TensorBoard's logs: ``testbed report``."""
    directory, results = opened(directory, computes=True)
    from analysis import report as pages
    from sweeps.api import runner
    from sweeps.console import terminal

    runner.finish(directory, terminal.chosen(console), pages.build, results)
    return Outcome(directory)


def scoreboard(directory: Path | str, form: str) -> str:
    """The verdicts as "json", "csv" or "markdown": ``testbed report --format``."""
    directory, results = opened(directory, computes=True)
    from analysis import export

    return export.render(directory, form, results)


def compare(a: Path | str, b: Path | str) -> "Comparison":
    """Verdicts that differ between two results directories, and the reasons: ``testbed compare``."""
    (a, results_a), (b, results_b) = (opened(one, computes=True) for one in (a, b))
    from analysis import comparison

    result = comparison.compare(a, b, [results_a, results_b])
    return dataclasses.replace(result, a=Path(paths.shown(a)), b=Path(paths.shown(b)))


def transfer(simulated: Path | str, real: Path | str) -> "TransferTable":
    """Simulated and real effects side by side, with intervals, sign agreement and rank correlation: ``testbed
    transfer``. `transfer_page` writes the page of the result."""
    (simulated, results), (real, real_results) = (
        opened(directory, computes=True) for directory in (simulated, real)
    )
    from analysis.transfer import effects

    return effects.compare(simulated, real, (results, real_results))


def transfer_page(table: "TransferTable", directory: Path | str) -> Path:
    """Write the page of a transfer table into the report of the real runs in ``directory``, and return its path."""
    from analysis import report as pages

    return pages.build_transfer(table, paths.given(directory, DIRECTORY))


def bibliography(directory: Path | str) -> str:
    """BibTeX for the methods that the runs used: ``testbed report --bib``."""
    _, results = opened(directory)
    from sweeps.catalogue import citations

    return citations.bibliography(results)


def write_logs(
    directory: Path | str,
    runs: bool = False,
    where: Mapping[str, str] | None = None,
    hparams: bool = False,
) -> Path:
    """Write TensorBoard's logs and return their directory: the first step of ``testbed tensorboard``.

    ``runs`` adds single runs: those with the values in ``where``, if any are given. ``hparams`` adds the outcomes of
    every run.
    """
    directory, results = opened(directory)
    from sweeps.tensorboard import refresh, writer

    more = writer.More(runs or bool(where), where or {}, hparams)
    return refresh.mirror(directory, results, more)

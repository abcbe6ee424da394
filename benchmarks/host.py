"""The cost of a sweep on the host besides computing, by the number of runs: points, rows, blocks, opening.

    uv run python benchmarks/host.py --runs 1000 10000 100000

Each number of runs is measured in a separate process, so that its memory is measured alone. The times are from one
shared machine and are not comparable between machines. Two results are: the time per run stays the same, and memory
hardly grows.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shared

from analysis.load import load_all
from sweeps.api.runner import Book
from sweeps.grid import LogUniform, random
from sweeps.store.parquet import METRICS
from sweeps.store.store import Store, read_stores
from sweeps.study import Preset, load_study
from testbed.metric_table import FACTS as PREFIX

#: Evaluations a run while runs are stored, and where their results are opened.
STORED, OPENED = 11, 50
#: Most runs whose rows are written to be opened: 10^4 runs of 50 evaluations are 200 MB of random numbers.
MOST_OPENED = 10_000
FACTS = 20


def selection(runs: int, seeds: int) -> Any:
    """A random search with two arms over learning rate and beta."""

    swept = {"optimiser.learning_rate": LogUniform(1e-4, 1e-2), "loss.beta": LogUniform(0.01, 1.0)}
    study = load_study("gap")
    arms = [dataclasses.replace(arm, fixed={}) for arm in study.arms]
    grid = random(math.ceil(runs / seeds / len(arms)), 0, **swept)
    return dataclasses.replace(
        study, arms=tuple(arms), axes=grid, presets={"laptop": Preset(seeds=seeds)}
    ).select()


def rows(points: list[Any], evaluations: int) -> dict[str, Any]:
    """The rows that an engine would deliver for some runs: random numbers in every column."""

    generator = np.random.default_rng(0)
    run = np.repeat(np.arange(len(points)), evaluations)
    evaluation = np.tile(np.arange(evaluations), len(points))
    counts = {"diverged_step": -1, "prompts": 512, "stack": 64, "devices": 1}
    facts = [f"{PREFIX}fact_{number}" for number in range(FACTS)]
    return {
        "run": np.array([point.run for point in points], dtype=object)[run],
        "evaluation": evaluation,
        "step": 100 * evaluation,
        **{name: np.full(len(run), value) for name, value in counts.items()},
        **{name: generator.normal(size=len(run)) for name in METRICS},
        **{name: generator.normal(size=len(points))[run] for name in facts},
    }


def resident() -> float:
    """MB of memory that the process holds at present."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


@contextlib.contextmanager
def timed(figures: dict[str, Any], name: str, each: int = 0) -> Iterator[None]:
    """Put the seconds that a block of code takes into ``found``; with ``each``, the milliseconds for each of so many
    items."""
    clock = time.perf_counter()
    yield
    seconds = time.perf_counter() - clock
    figures[name] = seconds * 1e3 / each if each else seconds


def stored(
    figures: dict[str, Any], chosen: Any, directory: Path, evaluations: int, block: int, most: int
) -> None:
    """Store rows of the first runs block by block, as a command does, and measure the times without making the rows."""
    points = chosen.points()
    with Store.create_or_open(directory, {**chosen.describe(), "source": "benchmark"}) as store:
        with timed(figures, "book_seconds"):
            book = Book(points, store)
        seconds, kept = 0.0, points[:most]
        for start in range(0, len(kept), block):
            part = rows(kept[start : start + block], evaluations)
            clock = time.perf_counter()
            book.put(part)
            seconds += time.perf_counter() - clock
            if start == 0:
                figures["stored_first_mb"] = resident()
        with timed(figures, "merge_seconds"):
            store.merge()
        with timed(figures, "lacking_seconds"):
            lacking = len(book.lacking())
    if lacking != len({point.run for point in points[most:]}):
        raise SystemExit(f"{lacking} runs are lacking: this is no measurement")
    figures["put_ms_per_run"] = (seconds + figures.pop("merge_seconds")) * 1e3 / len(kept)


def measure(runs: int, seeds: int, block: int) -> dict[str, Any]:
    """Every figure for one number of runs."""
    figures: dict[str, Any] = {}
    chosen = selection(runs, seeds)
    figures["before_mb"] = resident()
    with timed(figures, "points_seconds"):
        points = chosen.points()
    figures |= {
        "runs": len(points),
        "points_us_per_run": figures["points_seconds"] / len(points) * 1e6,
    }
    figures["points_mb"] = resident() - figures["before_mb"]
    with timed(figures, "describe_seconds"):
        chosen.describe()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "stored"
        stored(figures, chosen, directory, STORED, block, len(points))
        figures["stored_growth_mb"] = resident() - figures.pop("stored_first_mb")
        figures["study_json_kb"] = (directory / "study.json").stat().st_size / 1e3
        with timed(figures, "resume_seconds"):
            Store.open(directory).held()
        opened = Path(folder) / "opened"
        with contextlib.redirect_stdout(io.StringIO()):
            stored({}, chosen, opened, OPENED, block, MOST_OPENED)
        with timed(figures, "open_seconds"):
            tables = read_stores(opened)
        with timed(figures, "open_for_report_seconds"):
            load_all(opened, tables)
        figures["opened_rows"] = len(tables[0][1])
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return figures


def main() -> None:
    """Measure and print a table with one column per number of runs."""
    options = shared.arguments(
        __doc__,
        runs=([1_000, 10_000, 100_000], "numbers of runs"),
        seeds=(8, "seeds a setting (default 8)"),
        block=(1024, "runs a block (default 1024)"),
        alone=(False, argparse.SUPPRESS),
    )
    if min(*options.runs, options.seeds, options.block, 1) < 1:
        sys.exit("--runs, --seeds and --block must be at least 1")
    if options.alone:
        print(json.dumps(measure(options.runs[0], options.seeds, options.block)))
        return
    given = ("--alone", "--seeds", options.seeds, "--block", options.block)
    figures = [shared.process(__file__, "--runs", runs, *given) for runs in options.runs]
    for name in figures[0]:
        print(f"{name:28s}", *(f"{one[name]:>12,.4g}" for one in figures))
    shared.write(options.json, {"figures": figures})


if __name__ == "__main__":
    main()

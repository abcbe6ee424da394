"""The benchmarks run, in their smallest form: what they measure is for people to look at, that they measure is not."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALLEST = {
    "environments": ["--tasks=Harmless", "--environments=8", "--seconds=0.1", "--repeats=1"],
    "host": ["--runs", "20"],
    "throughput": ["--workload=S", "--mode=offline", "--stack=2", "--seconds=0.1"],
}
OTHERS = {
    "boards": ["--runs=3", "--evaluations=2"],
    "startup": ["--child", "--runs=2", "--steps=2"],
}


def ran(name: str, *options: str) -> str:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *options]
    # As a user starts it: the tests' own settings of XLA are not its.
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def numbers(found: Any) -> Iterator[float]:
    """All that stand in a JSON value."""
    if isinstance(found, dict | list):
        for part in found.values() if isinstance(found, dict) else found:
            yield from numbers(part)
    elif isinstance(found, int | float):
        yield found


@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_prints_a_table_and_writes_every_figure(name: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    printed = ran(name, *SMALLEST[name], "--json", str(file))
    written = json.loads(file.read_text())
    assert {"machine", "versions"} < written.keys()
    figures = [*numbers({k: v for k, v in written.items() if k not in ("machine", "versions")})]
    assert figures
    assert all(math.isfinite(figure) and figure >= 0 for figure in figures)
    assert len(printed.splitlines()) > 2


@pytest.mark.parametrize("name", OTHERS)
def test_a_benchmark_runs(name: str) -> None:
    assert ran(name, *OTHERS[name]).strip()

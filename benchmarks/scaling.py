"""The cost of many devices, many processes and many runs.

    uv run python benchmarks/scaling.py                              # all three tables
    uv run python benchmarks/scaling.py --part runs --runs 10000

devices: 8 runs of workload S, offline, in a process with 1, 2, 4 and 8 forced host devices: run-steps a second, and the
ratio to one device on one core. processes: 1 to N processes of one core each, side by side. runs: many tiny runs
through the whole path, from the plan to the summary: the host's time for each run beyond the time in which the devices
compute, worlds are made and curves are fitted, and the most memory that the process has held by the end of the runs.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import shared
from rich.console import Console
from throughput import Training, experiment

from analysis import report
from envs.neural import Neural
from sweeps import runtime
from sweeps.api import runner
from sweeps.grid import Axis
from sweeps.population import host
from sweeps.study import Arm, Preset, Study
from testbed.config import replace_all
from testbed.data.spec import DataSpec
from testbed.experiment import EvaluationConfig
from testbed.optimiser import FitConfig
from testbed.proxies.reader import ProxyConfig
from testbed.train import OnlineRun
from testbed.transformer_config import TransformerConfig

PARTS = ("devices", "processes", "runs")
STACK, REPEATS = 8, 5


def train(devices: int, cores: int, first: int, seconds: float) -> list[float]:
    """Run-steps a second of each repeat, in a separate process; called in a child."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[first % len(allowed) :][:cores])
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"

    runtime.configure()

    training = Training(experiment("S", "offline"), STACK)
    steps = max(1, round(seconds / (training.seconds(5) / 5)))
    print("ready", flush=True)
    sys.stdin.readline()
    return [steps * STACK / training.seconds(steps) for _ in range(REPEATS)]


def rates(configurations: list[tuple[int, int, int]], seconds: float) -> float:
    """Run-steps a second of processes side by side: devices, cores and first core of each. Medians, summed."""
    children = []
    for devices, cores, first in configurations:
        command = [sys.executable, __file__, "--seconds", str(seconds)]
        command += ["--child", f"{devices},{cores},{first}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        children.append(subprocess.Popen(command, **pipes))
    for child in children:
        assert child.stdout
        child.stdout.readline()
    for child in children:
        assert child.stdin
        child.stdin.write("go\n")
        child.stdin.flush()
    printed = [child.communicate()[0] for child in children]
    return sum(statistics.median(json.loads(text.splitlines()[-1])) for text in printed)


def compared(cases: list[tuple[dict[str, int], Any]], ratio: str, seconds: float) -> list[Any]:
    """The rate of each case, and its ratio to that of the first."""
    rows: list[dict[str, Any]] = []
    for named, configurations in cases:
        rate = rates(configurations, seconds)
        first = rows[0]["run_steps_per_second"] if rows else rate
        rows.append({**named, "run_steps_per_second": rate, ratio: rate / first})
    return rows


def by_devices(seconds: float) -> list[dict[str, Any]]:
    """Forced host devices in one process on all cores; the first row is one device on one core."""
    cores = len(os.sched_getaffinity(0))
    sizes = ((1, 1), *((devices, cores) for devices in (1, 2, 4, 8)))
    cases = [({"devices": devices, "cores": own}, [(devices, own, 0)]) for devices, own in sizes]
    return compared(cases, "times_one_core", seconds)


def by_processes(seconds: float) -> list[dict[str, Any]]:
    """Processes of one core and one device each."""
    counts = range(1, len(os.sched_getaffinity(0)) + 1)
    cases = [({"processes": n}, [(1, 1, first) for first in range(n)]) for n in counts]
    return compared(cases, "times_one", seconds)


def tiny_study(runs: int) -> Any:
    """Two worlds of minimal size, and two steps of training at each of ``runs`` learning rates."""
    base = replace_all(
        experiment("S", "offline"),
        {
            "task": Neural(vocabulary=8, prompt_length=4, response_length=4),
            "model": TransformerConfig(width=8, layers=1, heads=1, key_value_heads=1),
            "data": DataSpec(pairs=64, held_out=64),
            "sft": FitConfig(steps=5, batch_size=8),
            "proxy": ProxyConfig(fit=FitConfig(steps=5, batch_size=8)),
            "baseline": OnlineRun(steps=5),
            "evaluation": EvaluationConfig(points=1, prompts=8, kl_prompts=8, pairs=8),
            "steps": 2,
            "batch_size": 4,
        },
    )
    grid = Axis("optimiser.learning_rate", [1e-5 * (1 + k) for k in range(runs // 2)])
    title, question, arms = "Tiny runs", "What does a run cost?", (Arm("offline", {}),)
    return Study("tiny", title, question, base, arms, grid, (), {"all": Preset(seeds=2)}, "all")


def many_runs(count: int) -> dict[str, Any]:
    """``count`` tiny runs from the plan to the page; called in a child."""
    runtime.configure()

    analysing = resident = 0.0
    took = host.Spent()

    def executed(plan: Any, on_rows: Any, progress: Any) -> host.Spent:
        nonlocal took, resident
        took = host.execute(plan, on_rows, progress)
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        return took

    def analysed(directory: Path, opened: Any) -> Path:
        nonlocal analysing
        begun = time.perf_counter()
        page = report.build(directory, opened)
        analysing = time.perf_counter() - begun
        return page

    begun = time.perf_counter()
    selection = tiny_study(count).select()
    selection.points()
    pointed = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        engine: Any = SimpleNamespace(plan=host.plan, execute=executed)
        console = Console(file=open(os.devnull, "w"))  # noqa: SIM115 (as long as the process)
        runner.run([selection], Path(scratch) / "out", console, analysed, engine)
    ended = time.perf_counter()
    elsewhere = took.stage_seconds + took.busy_seconds + analysing
    return {
        "runs": count,
        "seconds": ended - begun,
        "seconds_for_points": pointed - begun,
        "seconds_for_worlds": took.stage_seconds,
        "seconds_in_runs": took.run_seconds,
        "seconds_computing": took.busy_seconds,
        "seconds_analysing": analysing,
        "host_ms_a_run": 1e3 * (ended - begun - elsewhere) / count,
        "host_ms_a_run_while_running": 1e3 * (took.run_seconds - took.busy_seconds) / count,
        "resident_mb": resident,
    }


def by_runs(count: int) -> list[dict[str, Any]]:
    """A tenth of the runs, then all: the costs that grow with the number of runs, and the costs that do not."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for runs in (count // 10, count // 10, count):
            rows.append(shared.process(__file__, "--child", runs, TESTBED_CACHE=cache))
    # The first only filled the cache of compiled programs.
    return rows[1:]


def table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows with equal keys."""
    print(f"\n{title}\n" + "".join(f"{name:>29s}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:29.4g}" for value in row.values()))


def main() -> None:
    """Measure and print tables."""
    options = shared.arguments(
        __doc__,
        part=(str, "(default: each)", PARTS),
        runs=(10_000, "tiny runs (default 10000)"),
        seconds=(5.0, "of a repeat (default 5)"),
        child=(str, argparse.SUPPRESS),
    )
    if options.child:
        numbers = [int(text) for text in options.child.split(",")]
        figures = (
            many_runs(numbers[0])
            if len(numbers) == 1
            else train(numbers[0], numbers[1], numbers[2], options.seconds)
        )
        print(json.dumps(figures))
        return
    tables = {}
    for part in [options.part] if options.part else PARTS:
        if part == "runs":
            tables[part] = by_runs(options.runs)
        else:
            tables[part] = {"devices": by_devices, "processes": by_processes}[part](options.seconds)
        table(part, tables[part])
    shared.write(options.json, tables)


if __name__ == "__main__":
    main()

"""The CPU seconds of commands that compute no runs: how long a person waits for them on a quiet machine, or longer.

    uv run python benchmarks/commands.py                                        # on three recorded worlds
    uv run python benchmarks/commands.py --results tests/recorded/gap-classification-100-115

User and system time of the command's process, medians over repeats, in a cache directory of its own; "first" is a
command's first use, before anything is kept there. ``report`` works on a copy of the results. Bytecode is compiled
beforehand, as an installation does.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import shared

RECORDED = Path(__file__).parents[1] / "tests" / "recorded" / "gap-three-worlds"


def seconds(words: list[str], **environment: str) -> float:
    """CPU seconds of a command; ends this process if the command fails."""
    inherited = {k: x for k, x in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "sweeps.cli.main", *words],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    # `status` ends with 1 where runs are lacking.
    if done.returncode and words[0] != "status":
        sys.exit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print a table."""
    options = shared.arguments(
        __doc__,
        results=(str(RECORDED), "directory of results (default: three recorded worlds)"),
        repeats=(3, "(default 3)"),
        only=("", "measure only commands whose words contain this"),
    )
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        shutil.copytree(options.results, results, ignore=shutil.ignore_patterns("report"))
        out = str(Path(folder) / "none")
        commands = {
            "--help": ["--help"],
            "list": ["list"],
            "status": ["status", str(results)],
            "completion bash": ["completion", "bash"],
            "run gap --dry-run": ["run", "gap", "--dry-run", "--out", out],
            "report": ["report", str(results)],
        }
        environment = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
        measured: dict[str, list[float]] = {}
        for name, words in commands.items():
            if options.only not in name:
                continue
            # Bytecode is written in a cache directory that is thrown away.
            seconds(words, **environment, TESTBED_CACHE=f"{folder}/thrown away")
            cache = f"{folder}/{name}"
            times = [
                seconds(words, **environment, TESTBED_CACHE=cache)
                for _ in range(1 + options.repeats)
            ]
            measured[f"{name}, first"], measured[name] = times[:1], times[1:]
        figures = {name: statistics.median(times) for name, times in measured.items()}
    shared.show(figures)
    shared.write(options.json, {"cpu_seconds": figures, "repeats": measured})


if __name__ == "__main__":
    main()

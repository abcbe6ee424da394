"""Where the time of a first answer goes: `testbed run` in a new process, from an empty cache, and once more.

    uv run python benchmarks/answer.py                      # testbed run gap --preset smoke
    uv run python benchmarks/answer.py --preset laptop      # the first command of the README
    uv run python benchmarks/answer.py --study tandem --repeats 3

A repeat runs the command with an empty cache (cold), and then again with the cache that the first has left, but without
the worlds and the results (warm): all programs are compiled then, and all else is done again. The table has medians of
wall seconds and of CPU seconds by part, as `testbed run --profile` measures them.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import shared

Profile = dict[str, Any]


def profiled(options: argparse.Namespace, cache: Path, out: Path) -> Profile:
    """The profile of the command in a process of its own. Raises `SystemExit` if the command fails."""
    command = [sys.executable, "-m", "sweeps.cli.main", "run", options.study]
    command += ["--preset", options.preset, "--out", str(out), "--profile"]
    environment = {"TESTBED_CACHE": str(cache), "OPENBLAS_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        sys.exit(ended.stderr or ended.stdout)
    profile: Profile = json.loads((out / "profile.json").read_text(encoding="utf-8"))
    shutil.rmtree(out)
    return profile


def seconds(profile: Profile) -> dict[str, tuple[float, float]]:
    """Wall and CPU seconds by part, and of the whole."""
    rows: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for one in profile["parts"]:
        stage = one["part"] == "stages"
        row = rows[f"{one['part']}: {one['what']}" if stage else one["part"]]
        row[0] += one["seconds"]
        row[1] += one["cpu_seconds"]
    rows["all"] = [profile["wall_seconds"], profile["cpu_seconds"]]
    rows["of this, nothing but programs"] = [profile["unhidden_seconds"], 0.0]
    return {name: (wall, cpu) for name, (wall, cpu) in rows.items()}


def main() -> None:
    """Measure and print a table."""
    options = shared.arguments(
        __doc__,
        study=("gap", "(default gap)"),
        preset=("smoke", "(default smoke)"),
        repeats=(1, "(default 1)"),
    )
    found: dict[str, list[Profile]] = {"cold": [], "warm": []}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as directory:
            cache, out = Path(directory) / "cache", Path(directory) / "results"
            for profiles in found.values():
                profiles.append(profiled(options, cache, out))
                shutil.rmtree(cache / "stages")
    medians = {kind: middle(list(map(seconds, profiles))) for kind, profiles in found.items()}
    print(f"testbed run {options.study} --preset {options.preset}, seconds")
    print(f"{'':38s}{'cold':>10s}{'CPU':>10s}{'warm':>10s}{'CPU':>10s}")
    for name in dict.fromkeys([*medians["cold"], *medians["warm"]]):
        values = (value for kind in found for value in medians[kind].get(name, (0.0, 0.0)))
        print(f"{name:38s}" + "".join(f"{value:10.1f}" for value in values))
    shared.write(options.json, {"medians": medians, "repeats": found})


def middle(repeats: list[dict[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """Medians of wall and CPU seconds by part."""
    found = {}
    for name in dict.fromkeys(name for one in repeats for name in one):
        wall, cpu = zip(*(one[name] for one in repeats if name in one), strict=True)
        found[name] = statistics.median(wall), statistics.median(cpu)
    return found


if __name__ == "__main__":
    main()

"""What real processes leave behind when they are killed, run out of disk, or meet each other: whole results only, and
the same command finishes the work."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_study import BASE

from sweeps.store.store import Store

pytestmark = pytest.mark.slow

KILLS, RUNS = 20, 24
STUDY = (
    BASE
    + """
import dataclasses

base = dataclasses.replace(base, steps=200)
rates = [1e-4 * (1 + k) for k in range(RUNS // 2)]
study = Study(
    "faults", "Faults", "What is left?", base, (Arm("offline", {}),),
    Axis("optimiser.learning_rate", rates), (), {"all": Preset(seeds=2)}, "all",
)
"""
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the study, and the results of a process that nothing has happened to."""
    directory = tmp_path_factory.mktemp("faults")
    (directory / "faults.py").write_text(STUDY.replace("RUNS", str(RUNS)))
    (directory / "driver.py").write_text(DRIVER)
    ended = begin(directory, "undisturbed").communicate(timeout=600)
    assert "Wall time" in ended[0], ended
    return directory


#: `testbed run faults.py --out OUT` without analysis and figures, whose imports take longer than the runs; it says
#: which runs are stored as soon as they are.
DRIVER = """
import sys
import types
import sweeps.cli.main
from sweeps.api import runner
report = types.ModuleType("analysis.report")
report.build = lambda directory, *_: directory
report.preview = lambda directory, *_: []
sys.modules[report.__name__] = report
put = runner.Book.put

def told(book, rows):
    put(book, rows)
    print("stored", *sorted(set(rows["run"])), flush=True)

runner.Book.put = told
sys.exit(sweeps.cli.main.main(["run", "faults.py", "--out", sys.argv[1]]))
"""


def command(out: str) -> list[str]:
    return [sys.executable, "driver.py", out]


def environment(directory: Path) -> dict[str, str]:
    """Chunks as small as can be; the tests' cache of compiled programs is in the environment already."""
    chosen = {"TESTBED_CACHE": str(directory / "cache"), "TESTBED_CHUNK_SECONDS": "0"}
    return os.environ | chosen


def begin(directory: Path, out: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        command(out), cwd=directory, env=environment(directory), text=True, **pipes
    )


def expect_undisturbed(directory: Path, out: str) -> None:
    """The results are those of the process that nothing has happened to: other runs may have been beside each other."""
    found, expected = (Store.open(directory / name).read() for name in (out, "undisturbed"))
    assert len(expected) == 3 * RUNS
    key = ["run", "evaluation"]
    found, expected = (table.sort_values(key, ignore_index=True) for table in (found, expected))
    numbers = [name for name in expected if pd.api.types.is_numeric_dtype(expected[name])]
    # What depends on the runs beside a run in its chunk, which the plan may have put elsewhere.
    varying = ("policy_checksum", "stack", "answers")
    texts = [name for name in expected if name not in (*numbers, *varying)]
    assert {"run", "config", "code"} <= set(texts)
    assert np.all(found[texts].astype(str) == expected[texts].astype(str))
    numbers = [name for name in numbers if name not in varying]
    np.testing.assert_allclose(
        found[numbers].astype(float), expected[numbers].astype(float), rtol=1e-4, atol=1e-5
    )


def heard(process: subprocess.Popen[str], chunks: int) -> list[tuple[float, str]]:
    """When a process has said of so many chunks that they are stored, and what it said; or at its end."""
    assert process.stdout is not None
    lines = []
    while sum(line.startswith("stored ") for _, line in lines) < chunks:
        line = process.stdout.readline()
        if not line:
            break
        lines.append((time.monotonic(), line))
    return lines


def test_a_driver_killed_at_any_moment_loses_no_chunk_that_was_done(place: Path) -> None:
    """Twenty times SIGKILL at a random moment: in its beginning, or so long after so many chunks; after each, what is
    stored can be read and has all that the process said it had done; then the same command finishes."""
    moments = random.Random(0)
    saved: set[str] = set()
    kills = 0
    clock = time.monotonic()
    process = begin(place, "timed")
    told = [moment for moment, line in heard(process, RUNS) if line.startswith("stored ")]
    process.communicate(timeout=600)
    beginning, chunk = told[0] - clock, (told[-1] - told[0]) / (len(told) - 1)
    for _ in range(KILLS):
        process = begin(place, "killed")
        left = (RUNS - len(saved)) * len(told) // RUNS
        chunks = moments.randrange(left)
        lines = [line for _, line in heard(process, chunks)]
        time.sleep(moments.uniform(0, chunk if chunks else beginning))
        process.send_signal(signal.SIGKILL)
        lines += process.communicate(timeout=60)[0].splitlines(keepends=True)
        if not (place / "killed" / "study.json").is_file():
            continue
        finished = Store.open(place / "killed").finished()
        stored = re.findall(r"^stored (.*)$", "".join(lines), re.MULTILINE)
        assert finished >= saved.union(*(line.split() for line in stored))
        table = Store.open(place / "killed").read()
        assert table.empty or set(table.groupby("run")["evaluation"].nunique()) == {3}
        kills += 0 < len(finished) < RUNS
        saved = finished
        if len(saved) == RUNS:
            # Nothing is left to lose: from the beginning.
            shutil.rmtree(place / "killed")
            saved = set()
    process = begin(place, "killed")
    _, wrong = process.communicate(timeout=600)
    assert process.returncode == 0, wrong
    assert kills > KILLS / 2
    expect_undisturbed(place, "killed")


def test_two_drivers_do_not_share_a_directory(place: Path) -> None:
    first = begin(place, "shared")
    while not (place / "shared" / "study.json").is_file():
        assert first.poll() is None
        time.sleep(0.05)
    # The first is made to wait where it is.
    first.send_signal(signal.SIGSTOP)
    second = begin(place, "shared")
    _, wrong = second.communicate(timeout=600)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert "is in use by another `testbed run`" in wrong
    first.communicate(timeout=600)
    assert first.returncode == 0
    expect_undisturbed(place, "shared")


FULL = """
set -u
mount -t tmpfs -o size={small} none small || exit 77
{command} small/out; echo "status $?"
mount -o remount,size=64m small
{command} small/out; echo "status $?"
cp -r small/out full
"""


def test_a_full_disk_is_told_and_the_same_command_goes_on(place: Path) -> None:
    """A file system of 40 kB in a namespace of its own, made larger after the first process has given up."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    (place / "small").mkdir()
    words = " ".join(command("")[:-1])
    ended = subprocess.run(
        [
            "unshare",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            FULL.format(small="40k", command=words),
        ],
        cwd=place,
        env=environment(place),
        text=True,
        capture_output=True,
        check=False,
        timeout=600,
    )
    if ended.returncode in (1, 77) and "status" not in ended.stdout:
        pytest.skip(f"no file system can be mounted here: {ended.stderr.strip()}")
    assert re.findall(r"status (\d+)", ended.stdout) == ["2", "0"], ended.stderr
    assert "small/out cannot be written (No space left on device)" in ended.stderr
    expect_undisturbed(place, "full")


def test_a_file_that_may_not_grow_is_told_too(place: Path) -> None:
    """What a quota does: no file of more than 8 kB."""
    words = " ".join(command("limited"))
    ended = subprocess.run(
        ["bash", "-c", f"trap '' XFSZ; ulimit -f 8; {words}"],
        cwd=place,
        env=environment(place),
        text=True,
        capture_output=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == 2, ended.stderr
    assert "limited cannot be written (File too large)" in ended.stderr
    process = begin(place, "limited")
    process.communicate(timeout=600)
    assert process.returncode == 0
    expect_undisturbed(place, "limited")

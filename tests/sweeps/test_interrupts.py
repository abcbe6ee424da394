"""Ctrl-C, output that nobody takes, and silence, with real processes."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import results as stored

#: Main thread busy for many seconds in C, which neither lets Python run nor ends at a signal, as XLA when it compiles.
BUSY = """
import hashlib, sys
from sweeps.console import activity, interrupts, terminal
activity.begin("compiling the world")
with terminal.streams(), interrupts.answered(activity.doing, "Interrupted. To go on: again"):
    with activity.told(float(sys.argv[1])):
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


def busy(silence: float = 100.0) -> subprocess.Popen:
    """A process that has begun to be busy."""
    words = [sys.executable, "-c", BUSY, str(silence)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)  # It is on its way into C.
    return process


def test_an_interrupt_is_answered_where_python_does_not_run() -> None:
    """The first with what is waited for, within two seconds; the second and the third by the end, without traceback."""
    with busy() as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        line = process.stderr.readline()
        assert time.monotonic() - start < 2
        assert "cannot be left half done: compiling the world." in line
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert time.monotonic() - start < 2
        assert process.stderr.read() == "Interrupted. To go on: again\n"


def test_nothing_is_silent() -> None:
    """What goes on is told again and again, although the main thread does not return to Python."""
    with busy(silence=0.5) as process:
        assert process.stderr is not None
        start = time.monotonic()
        lines = [process.stderr.readline() for _ in range(3)]
        assert time.monotonic() - start < 10
        process.kill()
    assert all(line.endswith("elapsed, compiling the world\n") for line in lines)


PROGRAM = "import sys\nsys.argv[0] = 'testbed'\nfrom sweeps.cli.main import main\nsys.exit(main())"


def command_line(*words: str, **options) -> subprocess.Popen:
    """The program, in a process of its own."""
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *words], **options)


def test_one_interrupt_ends_a_run(tmp_path: Path) -> None:
    """In a command that begins to run; the exit status and the sentence are those that are documented."""
    out = str(tmp_path / "out")
    words = ["run", "gap", "--preset", "smoke", "--out", out, "--verbose"]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with command_line(*words, **piped) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "building" in line:
                break
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert f"Interrupted. To go on: testbed run gap --preset smoke --out {out}" in error
    assert "Traceback" not in error


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("results") / "out")


@pytest.mark.parametrize("command", [["list"], ["status", "OUT", "--json"], ["--help"]], ids=str)
def test_closed_and_full_outputs(command: list[str], results: Path) -> None:
    """Closed streams and readers that have gone leave the command its status; lost output is told of."""
    words = [str(results) if word == "OUT" else word for word in command]

    closed = ["sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-c", PROGRAM, *words]
    with subprocess.Popen(closed, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0
    with command_line(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    with (
        open("/dev/full", "w") as full,
        command_line(*words, stdout=full, stderr=subprocess.PIPE) as p,
    ):
        assert p.stderr is not None
        said = "testbed: standard output cannot be written (No space left on device)\n"
        assert p.stderr.read() == said.encode()
    assert p.returncode == 1


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_narrow_encodings(encoding: str, tmp_path: Path) -> None:
    """Text is spelt out where the encoding lacks a character; JSON stays JSON."""
    out = stored(tmp_path / "é–")
    for words in (["status", str(out), "--json"], ["status", str(out)], ["list", "losses"]):
        done = command_line(
            *words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        )
        printed, error = done.communicate(timeout=100)
        assert done.returncode == 0, error
        assert error == b""
        if "--json" in words:
            assert Path(json.loads(printed.decode(encoding))["directory"]).name == "é–"
        elif "status" in words:
            spelt = {"latin-1": "é\\u2013", "ascii": "\\xe9\\u2013", "utf-8": "é–"}
            assert spelt[encoding] in printed.decode(encoding)


@pytest.mark.parametrize("columns", ["0", "-3", "²", "00"])
def test_a_width_that_is_none_is_passed_over(columns: str, results: Path) -> None:
    env = {**os.environ, "COLUMNS": columns, "LINES": columns}
    done = command_line("status", str(results), stdout=subprocess.PIPE, env=env)
    assert b"online" in done.communicate(timeout=100)[0]
    assert done.returncode == 0


def test_what_a_study_prints_is_none_of_the_data(tmp_path: Path) -> None:
    file = tmp_path / "noisy.py"
    file.write_text("print('hello')\nfrom sweeps.studies.gap import study\n", encoding="utf-8")
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    done = command_line("run", str(file), "--preset=smoke", "--dry-run", "--json", **piped)
    printed, error = done.communicate(timeout=300)
    assert json.loads(printed)["runs"] > 0
    assert "hello\n" in error


@pytest.mark.parametrize("end", ["sys.exit(3)", "exit()", "raise SystemExit('x')", "quit(0)"])
def test_a_study_that_ends_the_program_is_refused(end: str, tmp_path: Path) -> None:
    file = tmp_path / "ends.py"
    file.write_text(f"import sys\n{end}\n", encoding="utf-8")
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    done = command_line("run", str(file), **piped)
    printed, error = done.communicate(timeout=300)
    assert (done.returncode, printed) == (2, "")
    assert f"study file {file} ends the program while it is loaded, with exit status" in error
    assert error.count("\n") == 1


#: A bar that is redrawn, and a logger that has kept the standard error of before.
BAR = """
import logging, sys, time, warnings
from sweeps.console import terminal
with terminal.streams():
    logging.basicConfig(format="%(message)s")
    from sweeps.console.progress import TerminalDisplay, display
    with display(4, 400, terminal.console()) as bar:
        assert isinstance(bar, TerminalDisplay)
        for number in range(3):
            time.sleep(0.4)
            logging.warning(f"logged {number}")
            print(f"printed {number}", file=sys.stderr)
            warnings.warn(f"warned {number}")
"""


def test_warnings_come_above_a_bar_as_whole_lines() -> None:
    above, below = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([sys.executable, "-c", BAR], stdout=below, stderr=below, env=env):
        os.close(below)
        shown = b""
        while True:
            try:
                shown += os.read(above, 65536)
            except OSError:
                break
    os.close(above)
    lines = [line.rpartition("\x1b[2K")[2] for line in shown.decode().split("\n")]
    for number in range(3):
        assert f"logged {number}" in [line.strip("\r") for line in lines]
        assert f"printed {number}" in [line.strip("\r") for line in lines]

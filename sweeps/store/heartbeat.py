"""The driver's progress for other processes: `progress.json` in its results directory, renewed every few seconds.

The store says which runs are done; this file says what the command is doing, how fast, and how the last command ended.
After a driver was killed, the file has its last state, and the directory is not locked.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeps.console.progress import Meter
from sweeps.store import json_files
from sweeps.store.file_names import file_name
from testbed.errors import InvalidInput, Unfinished

FILE = "progress.json"
#: Seconds from one renewal to the next.
INTERVAL = 5.0
_SHAPE: json_files.Shape = {
    "state": str,
    "studies": [str],
    "begun": float,
    "written": float,
    "stage": str,
    "problem?": str,
    "failed?": [str],
    **dict.fromkeys(("runs?", "runs_done?", "run_steps?", "run_steps_done?"), int),
    **dict.fromkeys(("rate?", "left?"), (float, None)),
}


class Heartbeat:
    """The present command's `progress.json`; a context manager, which records at the end how the command ended."""

    def __init__(self, directory: Path, studies: Sequence[str], interval: float = INTERVAL) -> None:
        self._path = directory / FILE
        self._studies, self._interval = list(studies), interval
        self._stage, self._meter = "planning", None
        self._start = time.time()
        self._over, self._writing = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._write("running")
        self._thread.start()
        return self

    def __exit__(self, kind: Any, problem: BaseException | None, _: object) -> None:
        self._over.set()
        self._thread.join()
        if problem is None:
            self._write("finished")
        elif isinstance(problem, KeyboardInterrupt):
            self._write("interrupted")
        else:
            failed = list(problem.runs) if isinstance(problem, Unfinished) else []
            self._write("failed", problem=str(problem) or kind.__name__, failed=failed)

    def watch(self, meter: Meter) -> None:
        """Report this meter's counts from now on."""
        self._meter = meter

    def say(self, stage: str) -> None:
        """Report the work after the runs."""
        self._stage = stage
        if self._meter is not None:
            self._meter.text = stage
        self._write("running")

    def _beat(self) -> None:
        while not self._over.wait(self._interval):
            self._write("running")

    def _write(self, state: str, **more: Any) -> None:
        said = {
            "state": state,
            "studies": self._studies,
            "begun": self._start,
            "written": time.time(),
            "stage": self._stage,
            **more,
        }
        if self._meter is not None:
            said |= told(self._meter)
        temporary = self._path.with_name(f".{FILE}.tmp")
        # A full disk must not end the runs; readers of the file see its age.
        with self._writing, contextlib.suppress(OSError):
            temporary.write_text(json.dumps(said) + "\n", encoding="utf-8")
            os.replace(temporary, self._path)


def told(meter: Meter) -> dict[str, Any]:
    """A meter's counts: runs and run-steps of this command, run-steps a second, seconds left."""
    return {
        "stage": meter.text,
        "runs": meter.runs,
        "runs_done": meter.runs_done,
        "run_steps": meter.run_steps,
        "run_steps_done": meter.steps_done,
        "rate": meter.rate,
        "left": meter.left,
    }


def read(directory: Path) -> dict[str, Any] | None:
    """The last command's report in this directory, or in the parent directory if the command ran several studies; None
    if no file can be read, or the file does not have the form that `Heartbeat` writes."""
    for place in (directory, directory.absolute().parent):
        with contextlib.suppress(InvalidInput):
            said = json_files.read(place / FILE, _SHAPE, "")
            names = map(file_name, said["studies"])
            if place == directory or directory.absolute().name in names:
                return said
    return None

"""TensorBoard's logs of a large study: the time to write and to open them, and their size.

    uv run --extra tensorboard python benchmarks/boards.py

The study is synthetic: two arms over learning rate and beta, 1000 runs of 50 evaluations. "Opens" is the time from the
start of the `tensorboard` command until it answers with all curves, and with every run in HPARAMS if HPARAMS is shown.
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shared

from sweeps.tensorboard import writer
from sweeps.tensorboard.writer import TAGS

SEEDS = 8


def table(runs: int, evaluations: int) -> Any:
    """A long table of random walks, with every metric that TensorBoard shows; a fiftieth of the runs diverge."""

    rng = np.random.default_rng(0)
    run = np.arange(runs)
    setting = run // SEEDS
    rates = 10.0 ** rng.uniform(-4, -2, setting.max() + 1)
    betas = 10.0 ** rng.uniform(-2, 0, setting.max() + 1)
    diverged = np.where(rng.random(runs) < 0.02, 10 * evaluations // 2, -1)
    each: dict[str, Any] = {
        "run": [f"{i:016x}" for i in run],
        "arm": np.where(setting % 2, "offline", "online"),
        "task": np.full(runs, "Neural"),
        "seed": run % SEEDS,
        "optimiser.learning_rate": rates[setting],
        "loss.beta": betas[setting],
        "diverged_step": diverged,
    }
    long = {name: np.repeat(own, evaluations) for name, own in each.items()}
    long["evaluation"] = np.tile(np.arange(evaluations), runs)
    long["step"] = 10 * long["evaluation"]
    for column in TAGS.values():
        if column != "diverged":
            walk = rng.normal(0, 0.02, (runs, evaluations)).cumsum(axis=1)
            long[column] = (0.5 + walk).astype(np.float32).ravel()
    return pd.DataFrame(long)


def served(logs: Path, curves: int, sessions: int) -> float:
    """Seconds from the start of TensorBoard until it shows ``curves`` logs with curves, and ``sessions`` sessions."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    start = time.monotonic()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--port", str(port)]
    board = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        while time.monotonic() - start < 300:
            time.sleep(0.1)
            shown = _ask(port, "scalars/tags")
            if shown is None or len(shown) < curves:
                continue
            groups = _ask(port, "hparams/session_groups", _QUERY)
            if groups is not None and groups.get("totalSize", 0) >= sessions:
                return time.monotonic() - start
        raise TimeoutError(f"TensorBoard did not show {curves} logs and {sessions} sessions")
    finally:
        board.terminate()
        board.wait()


_STATUSES = ("SUCCESS", "FAILURE", "UNKNOWN", "RUNNING")
_QUERY = {
    "experimentName": "",
    "allowedStatuses": [f"STATUS_{name}" for name in _STATUSES],
    "colParams": [],
    "startIndex": 0,
    "sliceSize": 100_000,
}


def _ask(port: int, what: str, query: Any = None) -> Any:
    """An answer of TensorBoard; None if there is no answer yet."""
    url = f"http://localhost:{port}/data/plugin/{what}"
    data = None if query is None else json.dumps(query).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except (urllib.error.URLError, ConnectionError):
        return None


def main() -> None:
    """Measure three kinds of logs: the summary, the summary with single runs, and every run's outcomes."""
    options = shared.arguments(
        __doc__, runs=(1000, "(default 1000)"), evaluations=(50, "of a run (default 50)")
    )

    results = table(options.runs, options.evaluations)
    axes = {"optimiser.learning_rate": [], "loss.beta": []}
    study = writer.Logged(results, {"study": "synthetic", "axes": axes})
    shapes = {
        "summary": writer.More(),
        "--runs": writer.More(runs=True),
        "--where arm=online": writer.More(runs=True, where={"arm": "online"}),
        "--hparams": writer.More(hparams=True),
    }
    figures = {}
    print(f"{'shown':20s} {'logs':>6s} {'MB':>7s} {'written s':>10s} {'opens s':>8s}")
    for name, more in shapes.items():
        with tempfile.TemporaryDirectory() as place:
            start = time.monotonic()
            logs = writer.write([study], Path(place), more)
            written = time.monotonic() - start
            files = list(logs.rglob("events*"))
            size = sum(file.stat().st_size for file in files)
            sessions = options.runs if more.hparams else 0
            took = served(logs, len({file.parent for file in files}) - 1, sessions)
            row = {"logs": len(files), "mb": size / 1e6, "written_seconds": written}
            figures[name] = row | {"opens_seconds": took}
            print(f"{name:20s} {len(files):6d} {size / 1e6:7.1f} {written:10.1f} {took:8.1f}")
    shared.write(options.json, figures)


if __name__ == "__main__":
    main()

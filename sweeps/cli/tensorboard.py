"""Show results in TensorBoard.

examples:
  testbed tensorboard results/gap-laptop
  testbed tensorboard results/gap-laptop --runs --port 6007
  testbed tensorboard results/gap-laptop --where arm=online --where loss.beta=0.1
  testbed tensorboard results/gap-laptop --hparams

TIME SERIES shows the median over seeds of every arm and setting, CUSTOM SCALARS the same with quartiles and
the arms side by side, HPARAMS what came out, IMAGES the figures, TEXT the claims with their verdicts.
"""

import argparse
import importlib.util
import shlex
import socket
import subprocess
import sys

from sweeps import api
from sweeps.cli import options as shared
from sweeps.console import activity
from testbed import paths
from testbed.errors import InvalidInput


def add_options(command: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    shared.add_results(command)
    shared.add_number(command, "--port", default=6006)
    shared.add_flag(command, "--runs", "show each arm's best, worst and diverged runs too")
    shared.add_repeated(
        command,
        "--where",
        "PATH=VALUE",
        "show the single runs that have this value instead (at most 500). Repeatable",
    )
    shared.add_flag(
        command, "--hparams", "show in HPARAMS what came out of every run, not only of settings"
    )
    command.set_defaults(waits=True)


def execute(options: argparse.Namespace) -> int:
    """Write TensorBoard's logs, and start it if it is installed."""
    from sweeps.study import split

    where = dict(split(text, "--where", "PATH=VALUE") for text in options.where)
    with activity.told():
        logs = api.write_logs(options.directory, options.runs, where, options.hparams)
    if importlib.util.find_spec("tensorboard") is None:
        command = ["uv", "run", "--extra", "tensorboard", "testbed", "tensorboard"]
        command.append(paths.shown(options.directory))
        print(
            f"testbed: TensorBoard is not installed: run `{shlex.join(command)}`; the logs are in {paths.shown(logs)}",
            file=sys.stderr,
        )
        return 1
    _require_free(options.port)
    # By default it smooths curves, at the first evaluation of a run too.
    print(f"Unsmoothed: http://localhost:{options.port}/?smoothing=0#timeseries", flush=True)
    board = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs)]
    try:
        return subprocess.run([*board, "--port", str(options.port)], check=False).returncode
    except KeyboardInterrupt:
        return 0


def _require_free(port: int) -> None:
    if not 0 <= port < 2**16:
        raise InvalidInput(f"--port must be from 0 to 65535, got {port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("localhost", port))
        except OSError as problem:
            raise InvalidInput(
                f"--port {port} is in use or not allowed: choose another"
            ) from problem

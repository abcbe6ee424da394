"""The results of four devices against those of one, run by run: each in a process of its own, whose devices XLA makes
when it starts."""

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeps.store import parquet

PROGRAM = textwrap.dedent("""
    import pickle, sys
    from sweeps import runtime
    runtime.configure(int(sys.argv[1]))
    import jax
    from helpers import Silence, experiment
    from sweeps.population import host as population
    from sweeps.population import plan
    from sweeps.study import Point
    from testbed import config

    assert jax.device_count() == int(sys.argv[1])
    # Seven runs in three worlds, two lengths of training, and one that diverges.
    settings = [
        {"seed": seed, "optimiser__learning_rate": rate, "steps": steps}
        for seed, rate, steps in (
            (0, 3e-3, 6), (0, 1e-2, 6), (0, 1e30, 6), (1, 3e-3, 6), (2, 3e-3, 6), (2, 1e-2, 6),
            (2, 3e-3, 4),
        )
    ]
    runs = [experiment(**chosen) for chosen in settings]
    points = [Point(config.fingerprint(run), "online", run.seed, {}, run) for run in runs]
    found = []
    population.execute(plan.plan(points), found.append, Silence())
    with open(sys.argv[2], "wb") as file:
        pickle.dump(found, file)
""")


def results(directory: Path, devices: int) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows by run and evaluation."""
    path = directory / f"{devices}.pickle"
    inherited = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", PROGRAM, str(devices), str(path)]
    subprocess.run(words, check=True, env=inherited, capture_output=True)
    rows = {}
    for columns in pickle.loads(path.read_bytes()):
        for row in zip(*columns.values(), strict=True):
            named = dict(zip(columns, row, strict=True))
            rows[named["run"], int(named["evaluation"])] = named
    return rows


@pytest.mark.slow
def test_four_devices_give_the_results_of_one(tmp_path: Path) -> None:
    one, four = (results(tmp_path, devices) for devices in (1, 4))
    assert one.keys() == four.keys()
    assert len(one) == 7 * 3
    assert sum(row["diverged_step"] >= 0 for row in one.values()) == 3
    assert {int(row["devices"]) for row in four.values()} == {4}
    varying = {"run", "devices", "stack", "policy_checksum", "answers", *parquet.VECTORS}
    for key, row in four.items():
        for name in row.keys() - varying:
            wanted = one[key][name]
            np.testing.assert_allclose(row[name], wanted, rtol=1e-4, atol=1e-5, err_msg=name)

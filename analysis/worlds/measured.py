"""The checkpoints of a task's results in the form of `analysis.worlds.smoother`, world by world and arm by arm."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.load import Table, lost, trajectories
from analysis.worlds.smoother import Checkpoints
from sweeps.estimands import Unanswerable

World = int
"""A world of a task is named by its seed."""


def checkpoints(
    rows: Table, arms: Sequence[str], axes: Sequence[str], outcome: str = "golden_reward"
) -> Mapping[tuple[World, str], Checkpoints]:
    """The trained checkpoints of every arm in every world of one task, as changes of ``outcome`` since SFT.

    Rows from a run's divergence on and rows without a finite KL or outcome are left out; so is an arm in a world where
    it has no row left. A setting is a combination of the values of ``axes`` other than the number of steps: runs that
    differ in their length only have one curve. Raises `Unanswerable` for results without the outcome, or without an
    evaluation before training.
    """
    if outcome not in rows:
        raise Unanswerable(f"the results have no metric {outcome}")
    table = rows.assign(trajectory=trajectories(rows, tuple(axes)))
    usable = np.isfinite(table["kl"].astype(float)) & np.isfinite(table[outcome].astype(float))
    table = table[~lost(table) & usable]
    start = table[table["evaluation"] == 0].groupby("seed")[outcome].mean()
    found: dict[tuple[World, str], Checkpoints] = {}
    trained = table[(table["evaluation"] > 0) & table["arm"].isin(list(arms))]
    for (seed, arm), points in trained.groupby(["seed", "arm"]):
        if seed not in start.index:
            raise Unanswerable(f"world {seed} has no evaluation of SFT")
        setting, _ = pd.factorize(points["trajectory"])
        run, _ = pd.factorize(points["run"])
        change = points[outcome].to_numpy(dtype=float) - float(start[seed])
        d = np.sqrt(np.clip(points["kl"].to_numpy(dtype=float), 0.0, None))
        found[int(seed), str(arm)] = Checkpoints(d, change, setting, run)
    return found

"""The checkpoints of a task's results in the form of `analysis.worlds.smoother`, world by world and arm by arm."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.load import Table, lost, trajectories, units
from analysis.worlds.smoother import Checkpoints
from sweeps.estimands import Seed, Unanswerable


def usable(rows: Table, outcome: str) -> Table:
    """The rows that enter curves: those before a run's divergence, with a finite KL and outcome, every measurement once
    (a shorter run is often the beginning of a longer one, and is evaluated on the same samples). Raises `Unanswerable`
    for results without the outcome."""
    if outcome not in rows or rows[outcome].isna().all():
        raise Unanswerable(f"the results have no metric {outcome}")
    finite = np.isfinite(rows["kl"].astype(float)) & np.isfinite(rows[outcome].astype(float))
    rows = rows[~lost(rows) & finite]
    same = rows.assign(kl=rows["kl"].round(6)).duplicated(["arm", "seed", "step", outcome, "kl"])
    return rows[~(same & (rows["evaluation"] > 0))]


def starts(rows: Table, column: str) -> Mapping[Seed, float]:
    """Mean of a column over the evaluations of SFT, by world."""
    start = rows[rows["evaluation"] == 0].groupby("seed")[column].mean()
    return {int(seed): float(value) for seed, value in start.items()}


def checkpoints(
    rows: Table, arms: Sequence[str], axes: Sequence[str], outcome: str = "golden_reward"
) -> Mapping[tuple[Seed, str], Checkpoints]:
    """The trained checkpoints of every arm in every world of one task, as changes of ``outcome`` since the run's SFT
    policy.

    An arm without usable rows in a world is left out there, and so is a world without an evaluation of SFT. A setting
    is a combination of the values of ``axes`` other than the number of steps: runs that differ in their length only
    have one curve. Raises `Unanswerable` for results without the outcome, or without any evaluation before training.
    """
    table = usable(rows, outcome)
    table = table.assign(trajectory=trajectories(table, tuple(axes)))
    # Runs of other strata, such as policies of another size, begin at another SFT policy in the same world.
    begins = table["evaluation"] == 0
    start, own = starts(table, outcome), table[begins].groupby("run")[outcome].mean()
    if not start and len(table):
        raise Unanswerable("there is no evaluation of SFT")
    found: dict[tuple[Seed, str], Checkpoints] = {}
    trained = table[(table["evaluation"] > 0) & table["arm"].isin(list(arms))]
    others = tuple(axis for axis in axes if axis != "steps")
    for (seed, arm), points in trained.groupby(["seed", "arm"]):
        if seed not in start:
            continue
        # Both number the settings in the order of their first rows.
        setting, _ = pd.factorize(points["trajectory"])
        of_setting = points.drop_duplicates("trajectory")
        names = tuple(settings for _, settings in units(of_setting, others))
        run, _ = pd.factorize(points["run"])
        begin = points["run"].map(own).fillna(start[seed]).to_numpy(dtype=float)
        change = points[outcome].to_numpy(dtype=float) - begin
        d = np.sqrt(np.clip(points["kl"].to_numpy(dtype=float), 0.0, None))
        found[int(seed), str(arm)] = Checkpoints(d, change, setting, run, names)
    return found

"""The checkpoints of a task's results in the form of `analysis.worlds.smoother`, world by world and arm by arm."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.load import Table, lost, trajectories, units
from analysis.worlds.smoother import Checkpoints
from sweeps.estimands import Seed, Unanswerable

NEEDED = ("seed", "arm", "run", "step", "evaluation", "kl", "diverged_step")
"""The columns that curves are made of, besides the axes and the outcome."""


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
    # Results have a hundred columns, and every selection of rows copies all that are there.
    needed = dict.fromkeys((*NEEDED, *axes, outcome))
    table = usable(rows[[name for name in needed if name in rows]], outcome)
    table = table.assign(trajectory=trajectories(table, tuple(axes)))
    # Runs of other strata, such as policies of another size, begin at another SFT policy in the same world.
    begins = table["evaluation"] == 0
    start, own = starts(table, outcome), table[begins].groupby("run")[outcome].mean()
    if not start and len(table):
        raise Unanswerable("there is no evaluation of SFT")
    trained = table[(table["evaluation"] > 0) & table["arm"].isin(list(arms))]
    of_setting = trained.drop_duplicates("trajectory")
    settings = units(of_setting, tuple(axis for axis in axes if axis != "steps"))
    names = dict(zip(of_setting["trajectory"], (setting for _, setting in settings), strict=True))
    trained = trained.assign(
        d=np.sqrt(np.clip(trained["kl"].to_numpy(dtype=float), 0.0, None)),
        outcome=trained[outcome].to_numpy(dtype=float),
    )[["seed", "arm", "trajectory", "run", "d", "outcome"]]
    found: dict[tuple[Seed, str], Checkpoints] = {}
    for (seed, arm), points in trained.groupby(["seed", "arm"]):
        if seed not in start:
            continue
        # Settings are numbered in the order of their first rows.
        setting, trajectory = pd.factorize(points["trajectory"].to_numpy(dtype=object))
        run, _ = pd.factorize(points["run"].to_numpy(dtype=object))
        begin = points["run"].map(own).fillna(start[seed]).to_numpy(dtype=float)
        change = points["outcome"].to_numpy() - begin
        named = tuple(names[one] for one in trajectory)
        found[int(seed), str(arm)] = Checkpoints(
            points["d"].to_numpy(), change, setting, run, named
        )
    return found

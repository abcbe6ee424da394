"""Select the checkpoints of a study that enter its curves, and convert their win rates to measurements."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.curves import hierarchy
from analysis.load import Column, Table, lost

MIN_CHECKPOINTS = 6
"""Fewest trained checkpoints (at three or more distinct KL) that an arm needs for a curve."""


@dataclasses.dataclass(frozen=True)
class Span:
    """The range in which an arm was observed, in d = sqrt(KL).

    `low` and `high` are the 5% and 95% quantiles of the trained checkpoints; comparisons at matched KL stay between
    them. `start` is 0 if SFT itself was evaluated, else the smallest d; `end` is the largest d that most of the arm's
    seeds reached. Peaks are searched between `start` and `end`. `nearest` is the smallest d of a trained checkpoint:
    the position of a peak is not resolved below it.
    """

    start: float
    end: float
    low: float
    high: float
    nearest: float


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """Usable checkpoints of one task (a `d` column added), and how many rows were left out, by reason."""

    rows: Table
    left_out: Mapping[str, int]

    @property
    def trained(self) -> Table:
        """Checkpoints after the first step."""
        return self.rows[self.rows["evaluation"] > 0]

    @property
    def sft(self) -> Table:
        """Evaluations before training."""
        return self.rows[self.rows["evaluation"] == 0]


def clean(table: Table) -> Cleaned:
    """Select the checkpoints of one task that can enter a fit, and count the rows that are left out.

    Left out: rows from a run's divergence on, rows without a finite KL and a win rate in [0, 1], and repeated
    measurements (a shorter run is often the beginning of a longer one, and is evaluated on the same samples).
    """
    left_out: Counter[str] = Counter()
    diverged = lost(table)
    left_out["after divergence"] = int(diverged.sum())
    rows = table[~diverged]
    rate, prompts = rows["win_rate"].astype(float), rows["prompts"].astype(float)
    usable = np.isfinite(rows["kl"].astype(float)) & rate.between(0, 1) & (prompts > 0)
    left_out["without KL, win rate or prompts"] = int((~usable).sum())
    # A sum of exact divergences is negative only through rounding.
    rows = rows[usable].assign(d=lambda kept: np.sqrt(kept["kl"].clip(lower=0.0)))
    same = rows.assign(kl=rows["kl"].round(6)).duplicated(["arm", "seed", "step", "win_rate", "kl"])
    repeated = same & (rows["evaluation"] > 0)
    left_out["repeats of the same measurement"] = int(repeated.sum())
    return Cleaned(rows[~repeated], {reason: n for reason, n in left_out.items() if n})


Key = tuple[Any, ...]
"""A group: its task, then its level in each stratum."""


def measurements(
    cells: Mapping[Key, Cleaned], arms: Sequence[str], units: Mapping[Any, float]
) -> tuple[hierarchy.Points, list[tuple[Key, int]]]:
    """Padded arrays for the model, and the seeds of all groups in order.

    All runs of a seed start from the same SFT policy. Their evaluations before training therefore count as one
    measurement per seed: their mean, with the noise of a single evaluation, because they may share the samples as well
    as the prompts. Sizes are rounded up, so that similar studies share one compiled program.
    """
    groups = list(cells)
    seeds = [(key, int(s)) for key, own in cells.items() for s in sorted(own.rows["seed"].unique())]
    runs = [
        (key, arm, int(seed), rows)
        for key, own in cells.items()
        for (arm, seed, _), rows in own.trained.groupby(["arm", "seed", "trajectory"], sort=True)
    ]
    shape = rounded(len(runs), 24), rounded(max(len(rows) for *_, rows in runs), 8)
    x, mask, logit, variance = np.ones(shape), np.zeros(shape), np.zeros(shape), np.ones(shape)
    count = rounded(len(seeds), 4)
    arm, seed = np.zeros((shape[0], len(arms))), np.zeros((shape[0], count))
    for index, (key, name, number, rows) in enumerate(runs):
        row = index, slice(0, len(rows))
        x[row], mask[row] = rows["d"] / units[key[0]], 1.0
        logit[row], variance[row] = empirical_logit(rows["win_rate"], rows["prompts"])
        arm[index, list(arms).index(name)] = 1.0
        seed[index, seeds.index((key, number))] = 1.0
    group = np.zeros((count, len(groups)))
    sft_logit, sft_variance, known = np.zeros(count), np.ones(count), np.zeros(count)
    for index, (key, number) in enumerate(seeds):
        group[index, groups.index(key)] = 1.0
        own = cells[key].sft
        start = own[own["seed"] == number][["win_rate", "prompts"]].mean().to_frame().T
        if start["win_rate"].notna().all():
            (sft_logit[index],), (sft_variance[index],) = empirical_logit(
                start["win_rate"], start["prompts"]
            )
            known[index] = 1.0
    arrays: list[Any] = [x, logit, variance, mask, arm, seed, group, sft_logit, sft_variance, known]
    return hierarchy.Points(*arrays), seeds


def rounded(count: int, least: int = 1) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is at least `count` and `least`: at most half as much
    again."""
    size = 1
    while size < count:
        size *= 2
    return max(least, size * 3 // 4 if size >= 4 and count <= size * 3 // 4 else size)


def empirical_logit(rate: Column, trials: Column) -> tuple[np.ndarray, np.ndarray]:
    """log((k + 1/2) / (n - k + 1/2)) for k = rate * trials, and its delta-method variance.

    Adding 1/2 keeps the logits of the rates 0 and 1 finite and removes the leading bias (Haldane 1956; Gart and Zweifel
    1967).
    """
    n = trials.to_numpy(dtype=float)
    wins = rate.to_numpy(dtype=float) * n + 0.5
    losses = n + 1 - wins
    return np.log(wins / losses), 1 / wins + 1 / losses


def lack_of(cleaned: Cleaned, arm: str) -> str:
    """The reason why an arm cannot have a curve, or ""."""
    d = cleaned.trained.loc[cleaned.trained["arm"] == arm, "d"]
    if d.empty:
        return f"arm {arm} has no usable checkpoints"
    if len(d) < MIN_CHECKPOINTS or d[d > 0].nunique() < 3:
        return (
            f"arm {arm} has {len(d)} usable checkpoints at {d[d > 0].nunique()} KL above 0, "
            f"needed are {MIN_CHECKPOINTS} at 3 or more"
        )
    return ""


def span_of(cleaned: Cleaned, arm: str) -> Span:
    """The range of distances that an arm has reached; its curve may be read only inside this range."""
    trained = cleaned.trained[cleaned.trained["arm"] == arm]
    reached = np.sort(trained.groupby("seed")["d"].max().to_numpy())[::-1]
    low, high = np.quantile(trained["d"], [0.05, 0.95])
    start = 0.0 if len(cleaned.sft) else float(trained["d"].min())
    nearest = float(max(trained["d"].min(), 1e-6))
    end = float(reached[len(reached) // 2])
    return Span(start, end, float(low), float(high), nearest)

"""What common random numbers buy: how much less the difference of two arms varies if both train with the same ones.

The training seed decides the minibatches, the sampled answers and the evaluations' samples of a run; the arms of a
world share it by default. A study that sweeps ``seeds.training_shift`` has every arm with several seeds in one world,
so that runs can be paired with the same seed and with another. ``python -m analysis.worlds.common_numbers DIR`` prints
this for a study with that axis, and what pairing by prompt buys (`analysis.worlds.by_prompt`).
"""

import itertools
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from analysis.load import Table, load
from analysis.worlds import by_prompt
from analysis.worlds.measured import usable
from sweeps.estimands import Unanswerable

#: The swept field that gives the arms of a world further training seeds.
SHIFT = "seeds.training_shift"


class CommonNumbers(NamedTuple):
    """Variances of the difference of two runs in one world that are due to training and evaluation seeds.

    Attributes:
        shared, other: variance if both runs have the same seed, and if each has its own.
        over_worlds, other_over_worlds: the same over worlds, mean over the pairs of seeds: these hold the differences
            between worlds too. NaN for a single world.
        correlation: within worlds, of two runs with the same seed.
        worlds, seeds: numbers of worlds and of seeds in each.
    """

    shared: float
    other: float
    over_worlds: float
    other_over_worlds: float
    correlation: float
    worlds: int
    seeds: int


def compare(
    first: Float[np.ndarray, "world seed"], second: Float[np.ndarray, "world seed"]
) -> CommonNumbers:
    """What the seeds, at least two, that two arms share in every world buy."""
    worlds, seeds = first.shape
    one, other = (np.var(x, axis=1, ddof=1).mean() for x in (first, second))
    shared = np.var(first - second, axis=1, ddof=1).mean()
    each = first[:, :, None] - second[:, None, :]
    over = np.var(each, axis=0, ddof=1) if worlds > 1 else np.full((seeds, seeds), np.nan)
    same = np.eye(seeds, dtype=bool)
    return CommonNumbers(
        shared=float(shared),
        other=float(one + other),
        over_worlds=float(over[same].mean()),
        other_over_worlds=float(over[~same].mean()),
        correlation=float((one + other - shared) / (2 * np.sqrt(one * other))),
        worlds=worlds,
        seeds=seeds,
    )


def in_results(rows: Table, arms: tuple[str, str], kl: float | None = 1.0) -> CommonNumbers:
    """What common random numbers buy for the difference of two arms' golden reward at a KL, in nats, interpolated in
    sqrt(KL) between checkpoints; None: at the last checkpoint, whatever its KL. Only worlds count in which every run
    comes so far. Raises `Unanswerable` if there is none, or without at least two training seeds."""
    if SHIFT not in rows:
        raise Unanswerable(f"the study does not sweep {SHIFT}")
    rows = rows[rows["arm"].isin(arms)]
    rewards = {
        key: _reward(usable(run, "golden_reward"), kl)
        for key, run in rows.groupby(["seed", "arm", SHIFT], sort=False)
    }
    shifts = sorted(set(rows[SHIFT].dropna()))
    tables = [
        [[rewards.get((seed, arm, shift), math.nan) for shift in shifts] for arm in arms]
        for seed in sorted(set(rows["seed"]))
    ]
    found = np.array(tables, float).reshape(-1, 2, len(shifts))
    found = found[np.all(np.isfinite(found), axis=(1, 2))]
    if not len(found) or len(shifts) < 2:
        raise Unanswerable("no world has both arms with two training seeds that come so far")
    return compare(found[:, 0], found[:, 1])


def _reward(run: Table, kl: float | None) -> float:
    """The golden reward of one run at a KL; NaN if it did not come so far."""
    run = run.sort_values("kl" if kl else "evaluation")
    reward = run["golden_reward"].to_numpy(dtype=float)
    if kl is None:
        return float(reward[-1])
    distance = np.sqrt(np.maximum(run["kl"].to_numpy(dtype=float), 0.0))
    return float(np.interp(math.sqrt(kl), distance, reward, right=math.nan))


def main(directory: str) -> None:
    """Print both tables of a study, for every pair of its arms."""
    results = load(Path(directory))
    for task in results.tasks:
        for arms in itertools.combinations(results.arms, 2):
            print(f"{task}, {arms[0]} − {arms[1]}")
            for world, one in by_prompt.in_worlds(results, task, arms).items():
                print(f"  world {world}, by prompt: ratio {one.ratio:.2f}, {one}")
            for where, kl in (("at 1 nat", 1.0), ("at the last checkpoint", None)):
                try:
                    print(f"  {where}: {in_results(results.task(task), arms, kl)}")
                except Unanswerable as problem:
                    print(f"  {where}: {problem}")


if __name__ == "__main__":
    main(sys.argv[1])

"""Is the inference honest? Frontiers with known truth, fitted as real results are.

`python -m analysis.calibration 200` prints how often 90% intervals of the matched gap and of the
peak difference contain the truth, and how often a true null is called "reproduced".
"""

import dataclasses
import sys
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import pandas as pd

from analysis import frontier, hierarchy
from analysis.frontier import expit, maximum, rise
from analysis.load import Table
from sweeps.claims import Draws, Rule


@dataclasses.dataclass(frozen=True)
class Truth:
    """A hierarchical process like the model's: coefficients per arm and standard deviations.

    Coefficients are per unit of d. `reach` is the largest d of an arm's runs; `seed_arm` and the
    others are logits at d = 1, as in `hierarchy.PRIORS`.
    """

    start: float = -1.6
    a: tuple[float, ...] = (1.9, 1.5)
    b: tuple[float, ...] = (1.5, 1.4)
    reach: tuple[float, ...] = (3.0, 3.0)
    seed_start: float = 0.3
    seed_shared: float = 0.2
    seed_arm: float = 0.1
    run: float = 0.2
    checkpoint: float = 0.1
    arms: tuple[str, ...] = ("online", "offline")

    def win_rate(self, arm: int, d: np.ndarray) -> np.ndarray:
        """The typical seed's win rate."""
        return expit(self.start + rise(self.a[arm], self.b[arm], d))

    def peak(self, arm: int, end: float) -> float:
        """The typical seed's best win rate on [0, end]."""
        a, b = np.array([self.a[arm]]), np.array([self.b[arm]])
        return float(self.win_rate(arm, maximum(a, b, 0.0, end)[0])[0])


def simulate(
    truth: Truth,
    rng: np.random.Generator,
    seeds: int = 3,
    settings: int = 9,
    evaluations: int = 12,
    prompts: int = 512,
) -> Table:
    """Rows of one task's results drawn from `truth`: every setting of every arm in every seed.

    Runs move away from SFT at a speed of their own and are evaluated before training and
    `evaluations` times after it.
    """
    rows = []
    for seed in range(seeds):
        start = truth.start + truth.seed_start * rng.normal()
        shared = truth.seed_shared * rng.normal(size=2)
        for arm, name in enumerate(truth.arms):
            own = shared + truth.seed_arm * rng.normal(size=2)
            for setting in range(settings):
                a, b = np.array([truth.a[arm], truth.b[arm]]) + own
                speed = truth.reach[arm] * (setting + 1) / settings * np.exp(0.1 * rng.normal())
                d = speed * np.linspace(0, 1, evaluations + 1) ** 0.6
                noise = truth.checkpoint * rng.normal(size=d.shape) * (d > 0)
                noise += truth.run * rng.normal() * np.asarray(hierarchy.shift(jnp.asarray(d)))
                rate = expit(start + rise(a, b, d) + noise)
                rows.append(
                    pd.DataFrame(
                        {
                            "run": f"{name}-{seed}-{setting}",
                            "arm": name,
                            "seed": seed,
                            "setting": setting,
                            "step": np.arange(evaluations + 1) * 50,
                            "evaluation": np.arange(evaluations + 1),
                            "diverged_step": -1,
                            "prompts": prompts,
                            "kl": d**2,
                            "win_rate": rng.binomial(prompts, rate) / prompts,
                        }
                    )
                )
    return pd.concat(rows, ignore_index=True)


def replicate(
    truth: Truth,
    replications: int,
    seed: int = 0,
    sampler: Mapping[str, int] | None = None,
    **design: int,
) -> Table:
    """Simulate and fit; one row per replication and quantity ("gap", "peak").

    `sampler` goes to `hierarchy.sample`, `design` to `simulate`.

    Columns: quantity, truth, low and high (90% interval), covered, trouble (why the fit is unfit
    for use, or ""), null_reproduced (the draws shifted so that the truth is exactly no effect are
    called "reproduced" at a rope of 0).
    """
    rng = np.random.default_rng(seed)
    rows = []
    for replication in range(replications):
        table = simulate(truth, rng, **design)
        fit = frontier.fit(table, truth.arms, replication, **(sampler or {}))
        first, second = truth.arms[:2]
        d = np.linspace(*fit.shared(first, second), 65)
        gap = np.trapezoid(truth.win_rate(0, d) - truth.win_rate(1, d), d) / (d[-1] - d[0])
        peak = truth.peak(0, fit.spans[first].end) - truth.peak(1, fit.spans[second].end)
        difference = fit.peak(first).value - fit.peak(second).value
        for quantity, true, draws in (
            ("gap", gap, fit.gap(first, second)),
            ("peak", peak, difference),
        ):
            low, high = np.quantile(draws, [0.05, 0.95])
            null = Rule(rope=0.0).judge(Draws(quantity, "probability", draws - true))
            rows.append(
                {
                    "quantity": quantity,
                    "truth": true,
                    "low": low,
                    "high": high,
                    "covered": low <= true <= high,
                    "trouble": fit.diagnostics.trouble(),
                    "null_reproduced": null.verdict == "reproduced",
                }
            )
    return pd.DataFrame(rows)


def summary(rows: Table) -> Table:
    """Coverage, false "reproduced" of a null, mean width and unfit fits, by quantity."""
    rows = rows.assign(width=rows["high"] - rows["low"], unfit=rows["trouble"] != "")
    return rows.groupby("quantity")[["covered", "null_reproduced", "width", "unfit"]].mean()


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    print(summary(replicate(Truth(), count)).to_string())

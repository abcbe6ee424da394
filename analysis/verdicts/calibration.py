"""Test the inference on simulated frontiers with known truth, which are fitted as real results are.

`python -m analysis.verdicts.calibration 200` prints, for one task and for two tasks fitted together, two rates: how
often 90% intervals of the matched gap, the peak difference, the difference of log KL at the peaks and the share of the
gap contain the truth; and how often each kind of rule says "reproduced" when the true effect lies exactly on its edge.
The second should be at most one time in twenty.

Every replication is a world drawn around a scenario's. A posterior promises rates on average over worlds; rates at one
given effect may differ, for two reasons. First, win rates level off: where the true gap is about the largest that two
such curves can have, every error in their common height makes the gap smaller. Second, a task's effect is drawn towards
the other tasks' effects: a task with a larger effect than the others is called small too often, and a task with a
smaller effect too rarely.
"""

import dataclasses
import sys
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import pandas as pd

from analysis.curves import frontier, hierarchy
from analysis.curves.frontier import Frontier, expit, maximum, rise
from analysis.load import Table
from analysis.verdicts.evidence import ALL_TASKS
from sweeps.rules import Draws, More, NoMore, Same


@dataclasses.dataclass(frozen=True)
class Truth:
    """A hierarchical process like the model's: coefficients per arm and standard deviations.

    Coefficients are per unit of d. `reach` is the largest d of an arm's runs; `seed_arm` and the other standard
    deviations are logits at d = 1, as in `hierarchy.PRIORS`. Standard deviations of groups matter only if several tasks
    are drawn (`simulate_tasks`).
    """

    start: float = -1.6
    a: tuple[float, ...] = (1.9, 1.5)
    b: tuple[float, ...] = (0.85, 0.8)
    reach: tuple[float, ...] = (3.0, 3.0)
    seed_start: float = 0.3
    seed_shared: float = 0.1
    seed_arm: float = 0.1
    run: float = 0.2
    checkpoint: float = 0.1
    arms: tuple[str, ...] = ("online", "offline")
    group_start: float = 0.4
    group_shared: float = 0.25
    group_arm: float = 0.15

    def win_rate(self, arm: int, d: np.ndarray) -> np.ndarray:
        """The typical seed's win rate."""
        return expit(self.start + rise(self.a[arm], self.b[arm], d))

    def peak(self, arm: int, end: float) -> tuple[float, float]:
        """The typical seed's best win rate on [0, end], and its d."""
        a, b = np.array([self.a[arm]]), np.array([self.b[arm]])
        place = maximum(a, b, 0.0, end)[0]
        return float(self.win_rate(arm, place)[0]), float(place[0])

    def task(self, rng: np.random.Generator) -> "Truth":
        """A task drawn around this typical task."""
        shared = self.group_shared * rng.normal(size=2)
        moves = shared[:, None] + self.group_arm * rng.normal(size=(2, len(self.arms)))
        return self._moved(self.group_start * rng.normal(), moves)

    def world(self, rng: np.random.Generator) -> "Truth":
        """A typical task of another world, in which the curves of all arms are shifted alike."""
        return self._moved(0.4 * rng.normal(), np.array([[0.3], [0.2]]) * rng.normal(size=(2, 1)))

    def _moved(self, start: float, coefficients: np.ndarray) -> "Truth":
        a, b = np.array([self.a, self.b]) + coefficients
        moved = {"a": tuple(a.tolist()), "b": tuple(b.tolist())}
        return dataclasses.replace(self, start=self.start + start, **moved)


def simulate(
    truth: Truth,
    rng: np.random.Generator,
    seeds: int = 3,
    settings: int = 9,
    evaluations: int = 12,
    prompts: int = 512,
) -> Table:
    """Rows of one task's results drawn from `truth`: every setting of every arm in every seed.

    Each run moves away from SFT at its own speed and is evaluated before training and `evaluations` times after it.
    """
    rows = []
    for seed in range(seeds):
        start = truth.start + truth.seed_start * rng.normal()
        shared = truth.seed_shared * rng.normal(size=2)
        for arm, name in enumerate(truth.arms):
            seed_moves = shared + truth.seed_arm * rng.normal(size=2)
            for setting in range(settings):
                a, b = np.array([truth.a[arm], truth.b[arm]]) + seed_moves
                speed = truth.reach[arm] * (setting + 1) / settings * np.exp(0.1 * rng.normal())
                d = speed * np.linspace(0, 1, evaluations + 1) ** 0.6
                noise = truth.checkpoint * rng.normal(size=d.shape) * (d > 0)
                noise += truth.run * rng.normal() * np.asarray(hierarchy.growth(jnp.asarray(d)))
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


SCENARIOS: Mapping[str, Truth] = {
    "a clear gap": Truth(
        a=(2.0, 1.4, 1.7),
        b=(0.8, 0.75, 0.78),
        reach=(3.0, 3.0, 3.0),
        arms=("online", "offline", "between"),
    ),
    "a slight gap": Truth(a=(1.9, 1.8), b=(0.8, 0.8)),
}
"""The third arm of the first scenario closes about half of the gap; the gap of the second is three or four points."""


def replicate(
    truth: Truth,
    replications: int,
    seed: int = 0,
    tasks: int = 1,
    sampler: Mapping[str, int] | None = None,
    **design: int,
) -> Table:
    """Simulate and fit; one row per replication, task (and the typical task) and quantity.

    `sampler` goes to `posterior.sample`, `design` to `simulate`. Each replication is a world around `truth`; with more
    than one task each task is a draw around the world's typical one.

    Columns: quantity, task ("a task" or "all tasks"), truth, low and high (90% interval), covered, trouble (why the fit
    is unfit for use, or ""), and `more`, `no_more` and `same`: whether the rule of this kind, with the true effect on
    its edge, says "reproduced".
    """
    rng = np.random.default_rng(seed)
    rows = []
    for replication in range(replications):
        world = truth.world(rng)
        drawn = {f"task {i}": world.task(rng) if tasks > 1 else world for i in range(tasks)}
        parts = [
            simulate(process, rng, **design).assign(task=name) for name, process in drawn.items()
        ]
        table = pd.concat(parts, ignore_index=True)
        fits = frontier.fit_all(table, truth.arms, (), replication, **(sampler or {}))
        for (name, *_), fit in fits.groups.items():
            rows += _rows(fit, drawn[name], "a task")
        if fits.typical is not None:
            rows += _rows(fits.typical, world, ALL_TASKS)
    return pd.DataFrame(rows)


def _rows(fit: Frontier, truth: Truth, task: str) -> list[dict[str, object]]:
    rows = []
    for quantity, (true, draws) in quantities(fit, truth).items():
        low, high = np.quantile(draws, [0.05, 0.95])
        row = {"quantity": quantity, "task": task, "truth": true, "low": low, "high": high}
        row |= {"covered": low <= true <= high, "trouble": fit.diagnostics.trouble()}
        row |= _edges(true, draws)
        rows.append(row)
    return rows


def _edges(true: float, draws: np.ndarray) -> dict[str, bool]:
    """The rules that say "reproduced" for a true effect on their edge. Ropes are at least 0, so a negative effect is
    mirrored."""
    size, draws = abs(true), draws if true >= 0 else -draws
    rules = {"more": More(size), "no_more": NoMore(size), "same": Same(size)}
    given = Draws("", "", draws)
    return {name: rule.judge(given).verdict == "reproduced" for name, rule in rules.items()}


def quantities(fit: Frontier, truth: Truth) -> dict[str, tuple[float, np.ndarray]]:
    """True value and draws of the quantities that claims test, on the ranges of the fit.

    The share of the gap needs a third arm.
    """
    first, second, *others = truth.arms
    peaks = [fit.peak(arm) for arm in (first, second)]
    ends = [fit.spans[arm].end for arm in (first, second)]
    (high, far), (low, near) = (truth.peak(index, end) for index, end in enumerate(ends))
    places = [
        2 * np.log(max(place, fit.spans[arm].nearest))
        for place, arm in ((far, first), (near, second))
    ]
    pairs = {
        "gap": (_gap(truth, 0, 1, fit.shared(first, second)), fit.gap(first, second)),
        "peak": (high - low, peaks[0].value - peaks[1].value),
        "place": (float(places[0] - places[1]), peaks[0].log_kl - peaks[1].log_kl),
    }
    if others:
        span = fit.shared(*truth.arms)
        share = _gap(truth, 2, 1, span) / _gap(truth, 0, 1, span)
        part, whole = fit.gap(others[0], second, [first]), fit.gap(first, second, others)
        pairs["share"] = (share, part / whole)
    return pairs


def _gap(truth: Truth, first: int, second: int, span: tuple[float, float]) -> float:
    """Mean of the true difference of two arms over a range of d."""
    d = np.linspace(*span, 65)
    difference = truth.win_rate(first, d) - truth.win_rate(second, d)
    return float(np.trapezoid(difference, d) / (d[-1] - d[0]))


def summary(rows: Table) -> Table:
    """Share covered, edge effects called "reproduced", mean width and unfit fits."""
    rows = rows.assign(width=rows["high"] - rows["low"], unfit=rows["trouble"] != "")
    wanted = ["covered", "more", "no_more", "same", "width", "unfit"]
    return rows.groupby(["task", "quantity"])[wanted].mean()


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    for name, truth in SCENARIOS.items():
        for tasks in (1, 2):
            print(f"\n{name}, {count} replications of {tasks} task(s)")
            found = replicate(truth, count, tasks=tasks, settings=6, evaluations=8)
            print(summary(found).round(3).to_string(), flush=True)

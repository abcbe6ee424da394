"""One task's frontier from its results: which checkpoints count, the fit, peaks and gaps.

The curve shown and judged is that of a *typical seed*: the one at the population's coefficients
(see `analysis.hierarchy`). It is what a new draw of world, data and training would give in the
median, which is what a claim about a task means; an average over the seeds at hand would answer for
these seeds only and have too narrow an interval. No curve is read outside the range its arm was
observed in.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis import hierarchy
from analysis.load import Column, Table
from sweeps.claims import Peak, Unanswerable

MIN_CHECKPOINTS = 6
"""Fewest trained checkpoints (at three or more distinct KL) that an arm needs for a curve."""


@dataclasses.dataclass(frozen=True)
class Span:
    """Where an arm was observed, in d = sqrt(KL).

    `low` and `high` hold nine tenths of the trained checkpoints (5% and 95% quantiles) and bound
    comparisons at matched KL. `start` is 0 if SFT itself was evaluated, else the smallest d; `end`
    is the largest d that most of the arm's seeds reached. Peaks are looked for between these two.
    """

    start: float
    end: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """Usable checkpoints of one task (a `d` column added) and how many rows were left out, why."""

    rows: Table
    left_out: Mapping[str, int]

    @property
    def trained(self) -> Table:
        """Checkpoints after the first step, each policy once."""
        return self.rows[self.rows["evaluation"] > 0]

    @property
    def sft(self) -> Table:
        """Evaluations before training."""
        return self.rows[self.rows["evaluation"] == 0]


@dataclasses.dataclass(frozen=True)
class Frontier:
    """A fitted frontier. `effects` are draws (draw, 1 + 2 arms) of c, a per arm, b per arm.

    `seed_effects` (seed, 1 + 2 arms) are posterior means of each seed's own curve, in the order of
    `seeds`. `missing` maps arms without a curve to the reason.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    unit: float
    effects: np.ndarray
    seed_effects: np.ndarray
    scales: Mapping[str, Any]
    spans: Mapping[str, Span]
    diagnostics: hierarchy.Diagnostics
    cleaned: Cleaned
    missing: Mapping[str, str]

    def _coefficients(self, arm: str) -> np.ndarray:
        """Draws of (c, a, b) of an arm, shape (3, draw)."""
        if arm not in self.arms:
            raise Unanswerable(self.missing.get(arm, f"arm {arm} has no results"))
        index = self.arms.index(arm)
        return self.effects[:, [0, 1 + index, 1 + len(self.arms) + index]].T

    def win_rate(self, arm: str, d: np.ndarray) -> np.ndarray:
        """Draws (draw, d) of the typical seed's win rate at d = sqrt(KL)."""
        c, a, b = self._coefficients(arm)[..., None]
        return expit(c + rise(a, b, np.asarray(d)[None, :] / self.unit))

    def seed_win_rate(self, arm: str, d: np.ndarray) -> np.ndarray:
        """Posterior mean curve (seed, d) of every seed, on the logit scale, as win rates."""
        index = self.arms.index(arm)
        columns = [0, 1 + index, 1 + len(self.arms) + index]
        c, a, b = self.seed_effects[:, columns].T[..., None]
        return expit(c + rise(a, b, np.asarray(d)[None, :] / self.unit))

    def peak(self, arm: str) -> Peak:
        """Draws of the arm's best point inside its observed range."""
        c, a, b = self._coefficients(arm)
        span = self.spans[arm]
        start, end = span.start / self.unit, span.end / self.unit
        x, interior = maximum(a, b, start, end)
        ends = [expit(c + rise(a, b, np.full_like(a, edge))) for edge in (start, end)]
        return Peak(expit(c + rise(a, b, x)), x * self.unit, ends[0], ends[1], interior)

    def shared(self, first: str, second: str) -> tuple[float, float]:
        """The range of d in which both arms have checkpoints: overlap of their (low, high)."""
        for arm in (first, second):
            self._coefficients(arm)
        spans = self.spans[first], self.spans[second]
        low, high = max(s.low for s in spans), min(s.high for s in spans)
        if low >= high:
            raise Unanswerable(f"{first} and {second} share no range of KL")
        return low, high

    def gap(self, first: str, second: str, points: int = 65) -> np.ndarray:
        """Draws of the mean over the shared range of d of first minus second win rate."""
        d = np.linspace(*self.shared(first, second), points)
        return np.trapezoid(self.win_rate(first, d) - self.win_rate(second, d), d, axis=1) / (
            d[-1] - d[0]
        )

    def misfit(self, arm: str, bins: int = 5) -> tuple[float, float]:
        """Largest mean of observed minus fitted win rate over `bins` equal shares of the
        checkpoints ordered by d, with the mean d of that share: is the family able to follow?"""
        rows = self.cleaned.trained
        rows = rows[rows["arm"] == arm].sort_values("d")
        index = np.searchsorted(self.seeds, rows["seed"])
        fitted = self.seed_win_rate(arm, rows["d"].to_numpy())[index, np.arange(len(rows))]
        residual = rows["win_rate"].to_numpy() - fitted
        shares = [share for share in np.array_split(np.arange(len(rows)), bins) if share.size]
        worst = max(shares, key=lambda share: abs(residual[share].mean()))
        return float(residual[worst].mean()), float(rows["d"].to_numpy()[worst].mean())


Reals = np.ndarray | np.floating | float


def expit(x: Reals) -> np.ndarray:
    """Inverse of the logit."""
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -700, 700))))


def rise(a: Reals, b: Reals, x: Reals) -> np.ndarray:
    """x (a - b log x), which is 0 at x = 0. Gao et al. 2023, their RL form."""
    x = np.asarray(x)
    return np.asarray(x * (a - b * np.log(np.where(x > 0, x, 1.0))))


def maximum(
    a: np.ndarray, b: np.ndarray, start: float, end: float
) -> tuple[np.ndarray, np.ndarray]:
    """Argmax of `rise` on [start, end], and whether it lies strictly inside.

    For b > 0 the curve is concave with its top where log x = a/b - 1; for b <= 0 it has none, and
    the better end is the maximum.
    """
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        top = np.exp(np.where(b > 0, a / b - 1, 0.0))
    interior = (b > 0) & (top > start) & (top < end)
    ends = np.where(
        rise(a, b, np.full_like(a, start)) >= rise(a, b, np.full_like(a, end)), start, end
    )
    return np.where(interior, top, ends), interior


def clean(table: Table) -> Cleaned:
    """Checkpoints that can enter a fit, from one task's rows; what is left out is counted.

    Left out: rows from a run's divergence on, rows without a finite KL and a win rate in [0, 1],
    and repeats of one policy (a shorter run is often the beginning of a longer one).
    """
    left_out: Counter[str] = Counter()
    diverged = (table["diverged_step"] >= 0) & (table["step"] >= table["diverged_step"])
    left_out["after divergence"] = int(diverged.sum())
    rows = table[~diverged]
    rate, prompts = rows["win_rate"].astype(float), rows["prompts"].astype(float)
    usable = np.isfinite(rows["kl"].astype(float)) & rate.between(0, 1) & (prompts > 0)
    left_out["without KL, win rate or prompts"] = int((~usable).sum())
    # A sum of exact divergences can only be negative by rounding.
    rows = rows[usable].assign(d=lambda kept: np.sqrt(kept["kl"].clip(lower=0.0)))
    same = rows.assign(kl=rows["kl"].round(6)).duplicated(["arm", "seed", "step", "win_rate", "kl"])
    repeated = same & (rows["evaluation"] > 0)
    left_out["repeats of the same policy"] = int(repeated.sum())
    return Cleaned(rows[~repeated], {reason: n for reason, n in left_out.items() if n})


def fit(table: Table, arms: Sequence[str], seed: int = 0, **sampler: int) -> Frontier:
    """Fit one task's frontier to its rows of the results table; the same seed, the same numbers.

    Checkpoints are correlated within a `trajectory` (a column; without it, within a run).
    `sampler` overrides chains, warmup and draws of `hierarchy.sample`. Raises Unanswerable if no
    arm has enough usable checkpoints.
    """
    if "trajectory" not in table:
        table = table.assign(trajectory=table["run"])
    cleaned = clean(table)
    missing = {arm: _lack(cleaned, arm) for arm in arms}
    fitted = tuple(arm for arm in arms if not missing[arm])
    if not fitted:
        raise Unanswerable("; ".join(missing.values()))
    cleaned = dataclasses.replace(cleaned, rows=cleaned.rows[cleaned.rows["arm"].isin(fitted)])
    points, unit, seeds = measurements(cleaned, fitted)
    posterior, diagnostics = hierarchy.sample(points, seed, **sampler)
    return Frontier(
        arms=fitted,
        seeds=seeds,
        unit=unit,
        effects=np.asarray(posterior.effects).reshape(-1, 1 + 2 * len(fitted)),
        seed_effects=np.asarray(posterior.seeds),
        scales=posterior.scales._asdict(),
        spans={arm: _span(cleaned, arm) for arm in fitted},
        diagnostics=diagnostics,
        cleaned=cleaned,
        missing={arm: reason for arm, reason in missing.items() if reason},
    )


def measurements(
    cleaned: Cleaned, arms: Sequence[str]
) -> tuple[hierarchy.Points, float, tuple[int, ...]]:
    """Padded arrays for the model, the unit of d, and the seeds in order.

    All runs of a seed start from the same SFT policy, so their evaluations before training are one
    measurement a seed: their mean, with the noise of a single evaluation, because they may share
    the samples as well as the prompts.
    """
    trained = cleaned.trained
    seeds = tuple(sorted(int(seed) for seed in cleaned.rows["seed"].unique()))
    unit = float(trained["d"].mean())
    runs = list(trained.groupby(["arm", "seed", "trajectory"], sort=True))
    shape = (len(runs), max(len(rows) for _, rows in runs))
    x, mask, logit, variance = np.ones(shape), np.zeros(shape), np.zeros(shape), np.ones(shape)
    arm, seed = np.zeros((len(runs), len(arms))), np.zeros((len(runs), len(seeds)))
    for index, ((name, _, _), rows) in enumerate(runs):
        row = index, slice(0, len(rows))
        x[row], mask[row] = rows["d"] / unit, 1.0
        logit[row], variance[row] = empirical_logit(rows["win_rate"], rows["prompts"])
        arm[index, list(arms).index(name)] = 1.0
        seed[index, seeds.index(int(rows["seed"].iloc[0]))] = 1.0
    start = cleaned.sft.groupby("seed")[["win_rate", "prompts"]].mean().reindex(list(seeds))
    known = start["win_rate"].notna().to_numpy(dtype=float)
    sft_logit, sft_variance = empirical_logit(
        start["win_rate"].fillna(0.5), start["prompts"].fillna(1.0)
    )
    arrays: list[Any] = [x, logit, variance, mask, arm, seed, sft_logit, sft_variance, known]
    return hierarchy.Points(*arrays), unit, seeds


def empirical_logit(rate: Column, trials: Column) -> tuple[np.ndarray, np.ndarray]:
    """log((k + 1/2) / (n - k + 1/2)) for k = rate * trials, and its delta-method variance.

    The halves keep 0 and 1 finite and remove the leading bias (Haldane 1956; Gart and Zweifel
    1967).
    """
    n = trials.to_numpy(dtype=float)
    wins = rate.to_numpy(dtype=float) * n + 0.5
    losses = n + 1 - wins
    return np.log(wins / losses), 1 / wins + 1 / losses


def _lack(cleaned: Cleaned, arm: str) -> str:
    """Why an arm cannot have a curve, or ""."""
    d = cleaned.trained.loc[cleaned.trained["arm"] == arm, "d"]
    if d.empty:
        return f"arm {arm} has no usable checkpoints"
    if len(d) < MIN_CHECKPOINTS or d[d > 0].nunique() < 3:
        return (
            f"arm {arm} has {len(d)} usable checkpoints at {d[d > 0].nunique()} KL above 0, "
            f"needed are {MIN_CHECKPOINTS} at 3 or more"
        )
    return ""


def _span(cleaned: Cleaned, arm: str) -> Span:
    trained = cleaned.trained[cleaned.trained["arm"] == arm]
    reached = np.sort(trained.groupby("seed")["d"].max().to_numpy())[::-1]
    low, high = np.quantile(trained["d"], [0.05, 0.95])
    start = 0.0 if len(cleaned.sft) else float(trained["d"].min())
    return Span(start, float(reached[len(reached) // 2]), float(low), float(high))

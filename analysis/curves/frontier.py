"""Fit the frontiers of a study: select the checkpoints, fit win rate over KL, read off peaks and gaps between arms.

The curve that is shown and judged is that of a *typical seed*: the curve at the population's coefficients (see
`analysis.curves.hierarchy`). A new draw of world, data and training would give this curve in the median, and a claim
about a task is about this median. An average over the observed seeds would hold for these seeds only, and its interval
would be too narrow. No curve is read outside the range in which its arm was observed. All tasks of a study (and the
levels of its strata) are fitted together; the curve at the coefficients above all tasks is that of a *typical task*.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.curves import hierarchy, posterior
from analysis.curves.checkpoints import Cleaned, Key, Span, clean, lack_of, measurements, span_of
from analysis.load import Table
from sweeps.estimands import Peak, Unanswerable

MISFIT = 0.05
"""Largest mean distance between a fifth of an arm's checkpoints and its curve at which a verdict is still given."""


@dataclasses.dataclass(frozen=True)
class Frontier:
    """The fitted frontier of one group: of a task, or of a task at levels of the strata.

    `effects` are draws (draw, 1 + 2 arms) of c, a per arm, b per arm. `seed_effects` (seed, 1 + 2 arms) are posterior
    means of each seed's own curve, in the order of `seeds`. `scales` are draws of the model's scales for this group, by
    name. `missing` maps arms without a curve to the reason.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    unit: float
    effects: np.ndarray
    seed_effects: np.ndarray
    scales: Mapping[str, Any]
    spans: Mapping[str, Span]
    diagnostics: posterior.Diagnostics
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
        return Peak(
            expit(c + rise(a, b, x)), x * self.unit, ends[0], ends[1], interior, span.nearest
        )

    def shared(self, *arms: str) -> tuple[float, float]:
        """The range of d in which all these arms have checkpoints: the overlap of their (low, high)."""
        for arm in arms:
            self._coefficients(arm)
        spans = [self.spans[arm] for arm in arms]
        low, high = max(s.low for s in spans), min(s.high for s in spans)
        if low >= high:
            raise Unanswerable(f"{' and '.join(arms)} share no range of KL")
        return low, high

    def gap(
        self, first: str, second: str, also: Sequence[str] = (), points: int = 65
    ) -> np.ndarray:
        """Draws of the mean of first minus second win rate, over the range of d that these arms and those in `also`
        share."""
        d = np.linspace(*self.shared(first, second, *also), points)
        return np.trapezoid(self.win_rate(first, d) - self.win_rate(second, d), d, axis=1) / (
            d[-1] - d[0]
        )

    def misfit(self, arm: str, bins: int = 5) -> tuple[float, float]:
        """How well the curve follows the checkpoints: the largest mean of observed minus fitted win rate over `bins`
        equal shares of the checkpoints ordered by d, with the mean d of that share."""
        rows = self.cleaned.trained
        rows = rows[rows["arm"] == arm].sort_values("d")
        index = np.searchsorted(self.seeds, rows["seed"])
        fitted = self.seed_win_rate(arm, rows["d"].to_numpy())[index, np.arange(len(rows))]
        residual = rows["win_rate"].to_numpy() - fitted
        shares = [share for share in np.array_split(np.arange(len(rows)), bins) if share.size]
        worst = max(shares, key=lambda share: abs(residual[share].mean()))
        return float(residual[worst].mean()), float(rows["d"].to_numpy()[worst].mean())

    def trouble(self, arms: Sequence[str]) -> str:
        """The reason why no verdict may rest on the curves of these arms, in one clause, or ""."""
        problem = self.diagnostics.trouble()
        for arm in arms:
            if problem or arm not in self.arms:
                continue
            points, d = self.misfit(arm)
            if abs(points) > MISFIT:
                problem = (
                    f"the curve of arm {arm} misses a fifth of its checkpoints, around a KL of "
                    f"{d**2:.2g}, by {100 * abs(points):.0f} points on average, allowed are "
                    f"{100 * MISFIT:.0f}"
                )
        return problem


Reals = np.ndarray | np.floating | float


def expit(x: Reals) -> np.ndarray:
    """Inverse of the logit."""
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -700, 700))))


def rise(a: Reals, b: Reals, x: Reals) -> np.ndarray:
    """x (a - b (x - 1)), the change of log-odds at x; see `analysis.curves.hierarchy`."""
    x = np.asarray(x)
    return np.asarray(x * (a - b * (x - 1)))


def maximum(
    a: np.ndarray, b: np.ndarray, start: float, end: float
) -> tuple[np.ndarray, np.ndarray]:
    """Argmax of `rise` on [start, end], and whether it lies strictly inside.

    For b > 0 the curve is concave with its maximum at (1 + a / b) / 2; for b <= 0 the maximum is at the better end.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        top = np.where(b > 0, (1 + a / b) / 2, 0.0)
    interior = (b > 0) & (top > start) & (top < end)
    ends = np.where(
        rise(a, b, np.full_like(a, start)) >= rise(a, b, np.full_like(a, end)), start, end
    )
    return np.where(interior, top, ends), interior


@dataclasses.dataclass(frozen=True)
class Fits:
    """Frontiers of a study, fitted together.

    `groups` has one frontier per group with enough checkpoints, `without` the reasons why other groups have none.
    `typical` is the frontier of a typical task; None unless there are at least two tasks and no strata.
    """

    groups: Mapping[Key, Frontier]
    without: Mapping[Key, str]
    typical: Frontier | None


def fit_all(
    table: Table, arms: Sequence[str], strata: Sequence[str] = (), seed: int = 0, **sampler: int
) -> Fits:
    """Fit the frontiers of all groups of a results table. The same seed gives the same numbers.

    Checkpoints are correlated within a `trajectory` (a column; without it, within a run). `sampler` overrides chains,
    warmup and draws of `posterior.sample`. Raises Unanswerable if no arm has enough usable checkpoints in any group.
    """
    if "trajectory" not in table:
        table = table.assign(trajectory=table["run"])
    cells, missing, without = {}, {}, {}
    for key, rows in split(table, strata).items():
        cleaned = clean(rows)
        lacking = {arm: lack_of(cleaned, arm) for arm in arms}
        fitted = [arm for arm in arms if not lacking[arm]]
        if not fitted:
            without[key] = "; ".join(lacking.values())
            continue
        missing[key] = {arm: reason for arm, reason in lacking.items() if reason}
        kept = cleaned.rows[cleaned.rows["arm"].isin(fitted)]
        cells[key] = dataclasses.replace(cleaned, rows=kept)
    if not cells:
        raise Unanswerable("; ".join(dict.fromkeys(without.values())))
    known = tuple(arm for arm in arms if any(arm not in lacking for lacking in missing.values()))
    units = {task: _unit([c for k, c in cells.items() if k[0] == task]) for task, *_ in cells}
    points, seeds = measurements(cells, known, units)
    drawn, diagnostics = _sample(points, seed, **sampler)
    groups = {}
    for index, (key, cleaned) in enumerate(cells.items()):
        own = [place for place, arm in enumerate(known) if arm not in missing[key]]
        columns = [0, *(1 + i for i in own), *(1 + len(known) + i for i in own)]
        its = [place for place, (group, _) in enumerate(seeds) if group == key]
        groups[key] = Frontier(
            arms=tuple(known[place] for place in own),
            seeds=tuple(seeds[place][1] for place in its),
            unit=units[key[0]],
            effects=drawn.effects.groups[:, index, columns],
            seed_effects=drawn.effects.seeds[np.ix_(its, columns)],
            scales=_scales(drawn.scales, index, own, len(cells)),
            spans={known[place]: span_of(cleaned, known[place]) for place in own},
            diagnostics=diagnostics,
            cleaned=cleaned,
            missing=missing[key],
        )
    typical = None
    if len(groups) > 1 and not strata:
        typical = _typical(groups, known, drawn.effects.population, diagnostics)
    return Fits(groups, without, typical)


def _sample(
    points: hierarchy.Points, seed: int, warmup: int = 200, draws: int = 500, **sampler: int
) -> tuple[posterior.Posterior, posterior.Diagnostics]:
    """The posterior. A fit that fails its checks is repeated once with three times the warm-up and draws."""
    found = posterior.sample(points, seed, warmup=warmup, draws=draws, **sampler)
    if found[1].trouble():
        found = posterior.sample(points, seed, warmup=3 * warmup, draws=3 * draws, **sampler)
    return found


def split(table: Table, strata: Sequence[str]) -> dict[Key, Table]:
    """Rows by group. Rows without a value for a stratum's path belong to every level of that stratum."""
    parts: dict[Key, Table] = {
        (task,): table[table["task"] == task] for task in sorted(table["task"].unique())
    }
    for path in strata:
        parts = {
            (*key, level): at_level(rows, path, level)
            for key, rows in parts.items()
            for level in rows[path].dropna().unique()
        }
    return parts


def at_level(rows: Table, path: str, level: Any) -> Table:
    """Rows at one level of a swept path, and rows without a value for the path."""
    return rows[(rows[path] == level) | rows[path].isna()]


def _unit(cells: Sequence[Cleaned]) -> float:
    """Mean d of the trained checkpoints of one task."""
    return float(np.mean(np.concatenate([cell.trained["d"].to_numpy() for cell in cells])))


def _scales(scales: hierarchy.Scales, group: int, arms: list[int], groups: int) -> dict[str, Any]:
    """Draws of the scales for one group and its arms."""
    found = {name: draws for name, draws in scales._asdict().items() if name != "noise"}
    found["checkpoint"] = scales.checkpoint[:, arms] * scales.noise[:, [group]]
    return {name: own for name, own in found.items() if groups > 1 or not name.startswith("group_")}


def _typical(
    groups: Mapping[Key, Frontier],
    arms: Sequence[str],
    effects: np.ndarray,
    diagnostics: posterior.Diagnostics,
) -> Frontier:
    """The frontier of a typical task, for arms that at least two tasks have.

    Distances are relative to a task's unit; ranges are the medians over tasks, and the unit is the geometric mean of
    the tasks' units.
    """
    having = {arm: [fit for fit in groups.values() if arm in fit.arms] for arm in arms}
    own = [place for place, arm in enumerate(arms) if len(having[arm]) > 1]
    unit = float(np.exp(np.mean([np.log(fit.unit) for fit in groups.values()])))
    spans = {}
    for place in own:
        ranges = [
            np.array(dataclasses.astuple(fit.spans[arms[place]])) / fit.unit
            for fit in having[arms[place]]
        ]
        spans[arms[place]] = Span(*(unit * np.median(ranges, axis=0)).tolist())
    rows = next(iter(groups.values())).cleaned.rows.iloc[:0]
    return Frontier(
        arms=tuple(arms[place] for place in own),
        seeds=(),
        unit=unit,
        effects=effects[:, [0, *(1 + i for i in own), *(1 + len(arms) + i for i in own)]],
        seed_effects=np.empty((0, 1 + 2 * len(own))),
        scales={},
        spans=spans,
        diagnostics=diagnostics,
        cleaned=Cleaned(rows, {}),
        missing={
            arm: f"arm {arm} has a curve on fewer than two tasks"
            for place, arm in enumerate(arms)
            if place not in own
        },
    )

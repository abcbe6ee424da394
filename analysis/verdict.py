"""Verdicts: every claim of a study, on every task, by the rule written before the run."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis import frontier
from analysis.frontier import Frontier
from analysis.load import Results, Table, last_rows, trajectories, units
from sweeps.claims import Claim, Judgement, Peak, Unanswerable, Unit


@dataclasses.dataclass(frozen=True)
class TaskEvidence:
    """What one task's results say; implements `sweeps.claims.Evidence`.

    The frontier is fitted when first asked for, and at most once.
    """

    table: Table
    arms: tuple[str, ...]
    axes: tuple[str, ...]

    @functools.cached_property
    def _fit(self) -> Frontier | Unanswerable:
        try:
            named = self.table.assign(trajectory=trajectories(self.table, self.axes))
            return frontier.fit(named, self.arms)
        except Unanswerable as problem:
            return problem

    @property
    def frontier(self) -> Frontier:
        """The fitted frontier; raises Unanswerable if there cannot be one."""
        if isinstance(self._fit, Unanswerable):
            raise Unanswerable(str(self._fit))
        return self._fit

    def caveat(self) -> str:
        """Why no verdict may rest on the curves: too few seeds, or a fit that failed."""
        rows = self.frontier.cleaned.trained
        counts = {arm: rows.loc[rows["arm"] == arm, "seed"].nunique() for arm in self.frontier.arms}
        arm = min(counts, key=lambda name: counts[name])
        if counts[arm] < 2:
            return f"only one seed in arm {arm}: the seed is the unit of replication"
        return self.frontier.diagnostics.trouble()

    def peak(self, arm: str) -> Peak:
        """Peak of the arm's typical curve inside its observed range."""
        return self.frontier.peak(arm)

    def gap(self, first: str, second: str) -> np.ndarray:
        """Draws of the mean win-rate difference over the shared range of sqrt(KL)."""
        return self.frontier.gap(first, second)

    def describe_curves(self, arms: tuple[str, ...]) -> dict[str, Any]:
        """Peaks, observed ranges and counts of these arms; the shared range if there are two."""
        details = self.describe_runs(arms)
        for arm in arms:
            details["arms"][arm] |= describe_peak(self.frontier, arm)
        if len(arms) == 2:
            try:
                low, high = self.frontier.shared(*arms)
                details["shared_kl"] = [low**2, high**2]
            except Unanswerable:
                details["shared_kl"] = None
        return details

    def last(self, metric: str, arm: str) -> Mapping[Unit, float]:
        """The metric at the last checkpoint of the arm's runs, diverged ones left out.

        Keys are comparable between arms: settings that only one arm has are not part of them.
        """
        rows = last_rows(self.table)
        if metric not in rows:
            raise Unanswerable(f"the results have no metric {metric}")
        by_arm = [rows[rows["arm"] == name] for name in self.arms]
        axes = tuple(
            axis for axis in self.axes if all(own[axis].notna().any() for own in by_arm if len(own))
        )
        rows = rows[(rows["arm"] == arm) & (rows["diverged_step"] < 0)]
        if rows.empty:
            raise Unanswerable(f"arm {arm} has no run that finished without diverging")
        values: dict[Unit, list[float]] = {}
        for unit, value in zip(units(rows, axes), rows[metric].astype(float), strict=True):
            values.setdefault(unit, []).append(value)
        return {unit: float(np.mean(found)) for unit, found in values.items()}

    def describe_runs(self, arms: tuple[str, ...]) -> dict[str, Any]:
        """Seeds, runs and diverged runs of these arms."""
        rows = last_rows(self.table)
        counts = {}
        for arm in arms:
            own = rows[rows["arm"] == arm]
            counts[arm] = {
                "seeds": int(own["seed"].nunique()),
                "runs": len(own),
                "diverged": int((own["diverged_step"] >= 0).sum()),
            }
        return {"arms": counts}


def describe_peak(fit: Frontier, arm: str) -> dict[str, Any]:
    """An arm's peak with 90% intervals, and where in the observed range it lies.

    A `peak_place` of "end" says that the peak was not reached.
    """
    peak, span = fit.peak(arm), fit.spans[arm]
    reached = float(np.mean(peak.interior))
    kl = peak.root_kl**2
    return {
        "observed_kl": [span.start**2, span.end**2],
        "peak": float(np.median(peak.value)),
        "peak_interval": np.quantile(peak.value, [0.05, 0.95]).tolist(),
        "peak_kl": float(np.median(kl)),
        "peak_kl_interval": np.quantile(kl, [0.05, 0.95]).tolist(),
        "peak_inside": reached,
        "peak_place": peak.place,
    }


def gather(results: Results) -> dict[str, TaskEvidence]:
    """Evidence by task. Fits nothing yet."""
    return {
        task: TaskEvidence(results.task(task), results.arms, results.axes) for task in results.tasks
    }


def decide(
    results: Results, evidence: Mapping[str, TaskEvidence] | None = None
) -> list[dict[str, Any]]:
    """All verdicts as JSON-able entries, claim by claim and task by task.

    `evidence` may be given to reuse its fits. Raises InvalidInput if a stored claim cannot be read.
    """
    evidence = gather(results) if evidence is None else evidence
    return [
        entry(claim, task, claim.judge(evidence[task]))
        for claim in results.claims
        for task in results.tasks
    ]


def entry(claim: Claim, task: str, judgement: Judgement) -> dict[str, Any]:
    """One row of verdicts.json. Numbers that do not exist are null, never NaN."""
    details = dict(judgement.details)
    if judgement.parts:
        details["parts"] = [
            _numbers(part) | {"reason": part.reason, "details": dict(part.details)}
            for part in judgement.parts
        ]
    row = {
        "claim": claim.id,
        "task": task,
        "text": claim.text,
        **_numbers(judgement),
        "rule": claim.rule.describe() | {"words": claim.rule.sentence()},
        "against": claim.against,
        "reason": judgement.reason,
        "details": details,
    }
    return _plain(row)


def _numbers(judgement: Judgement) -> dict[str, Any]:
    return {
        "verdict": judgement.verdict,
        "effect": judgement.label,
        "unit": judgement.unit,
        "estimate": judgement.estimate,
        "interval": judgement.interval,
        "probability": judgement.probability,
    }


def _plain(value: Any) -> Any:
    """JSON-able copy: plain numbers, lists for tuples, null for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value

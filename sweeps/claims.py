"""What a study claims, how each claim is measured, and the rule that decides it: plain data.

A `Claim` names an estimand and a `Rule`. The estimand turns evidence into posterior draws of one
effect, signed so that the claim says "positive"; the rule turns draws into a verdict. Everything
here describes itself as JSON (`describe`) and is rebuilt from it (`from_dict`), so that the rule
stored before a run is the rule that judges it. The evidence itself (curve fits, the results
table) lives in `analysis`; this module only states what it must offer (`Evidence`).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from scipy import stats

from sweeps.rules import Draws, Judgement, Rule
from testbed.errors import InvalidInput

METRICS: Mapping[str, tuple[str, str]] = {
    "win_rate": ("win rate", "probability"),
    "data_accuracy": ("accuracy on D_golden", "probability"),
    "self_accuracy": ("accuracy on own samples", "probability"),
    "proxy_win_rate": ("win rate by the proxy", "probability"),
    "winner_logprob_change": ("log-probability of winners", "nats"),
    "loser_logprob_change": ("log-probability of losers", "nats"),
    "golden_reward": ("golden reward", "SFT standard deviations"),
    "kl": ("KL from SFT", "nats"),
    "entropy": ("entropy", "nats"),
}
"""Words and unit of the metrics that estimands speak of."""


class Unanswerable(Exception):
    """The evidence cannot speak to a question; the message says why, in one clause."""


@dataclasses.dataclass(frozen=True)
class Peak:
    """Draws of an arm's best point inside its observed range, each of shape (draws,).

    `value`, `start` and `end` are win rates (at the peak and at both ends of the range); `root_kl`
    is sqrt(KL) at the peak; `interior` says for each draw whether the maximum lies inside.
    """

    value: np.ndarray
    root_kl: np.ndarray
    start: np.ndarray
    end: np.ndarray
    interior: np.ndarray

    @property
    def place(self) -> Literal["inside", "start", "end"]:
        """Where most draws have the best point: "end" means that the peak was not reached."""
        if np.mean(self.interior) >= 0.5:
            return "inside"
        return "end" if np.mean(self.end >= self.start) >= 0.5 else "start"


Unit = tuple[int, tuple[Any, ...]]
"""One run without its arm: (seed, swept settings)."""


@runtime_checkable
class Evidence(Protocol):
    """What estimands may ask of one task's results. Methods raise `Unanswerable`."""

    def caveat(self) -> str:
        """Why no verdict may rest on the fitted curves ("" if one may)."""
        ...

    def peak(self, arm: str) -> Peak:
        """Peak of the arm's typical curve inside its observed range."""
        ...

    def gap(self, first: str, second: str) -> np.ndarray:
        """Draws (draws,) of the mean of first - second win rate over the shared range."""
        ...

    def describe_curves(self, arms: tuple[str, ...]) -> dict[str, Any]:
        """Peaks, ranges, seeds, runs and diverged runs of these arms, JSON-able."""
        ...

    def last(self, metric: str, arm: str) -> Mapping[Unit, float]:
        """The metric at the last checkpoint of every run of the arm that did not diverge."""
        ...

    def describe_runs(self, arms: tuple[str, ...]) -> dict[str, Any]:
        """Seeds, runs and diverged runs of these arms, JSON-able."""
        ...


@dataclasses.dataclass(frozen=True)
class Estimand:
    """Abstract: one effect, measured from evidence. Final subclasses are plain data."""

    def draws(self, evidence: Evidence) -> Draws:
        """Posterior draws of the effect, or the reason there are none. Never raises."""
        label, unit = self.words()
        try:
            return self._measure(evidence)
        except Unanswerable as problem:
            return Draws(label, unit, reason=str(problem))

    def words(self) -> tuple[str, str]:
        """Short label and unit of the effect."""
        raise NotImplementedError

    def _measure(self, evidence: Evidence) -> Draws:
        """Draws of the effect; may raise Unanswerable."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """The estimand as JSON-able data, its class named under "kind"."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"kind": type(self).__name__} | {k: _as_data(v) for k, v in fields.items()}


@dataclasses.dataclass(frozen=True)
class InteriorMaximum(Estimand):
    """Every arm's curve rises and then falls inside its observed range (C1).

    Effect: the smallest over arms of the peak win rate minus the larger of the win rates at the two
    ends of the range, taken draw by draw, so that it is positive only where every arm has a peak.
    A curve that still rises at the end of its range cannot contradict the claim: the fall may lie
    beyond what was observed.
    """

    arms: tuple[str, ...]

    def words(self) -> tuple[str, str]:
        return "peak above both ends of its range, weaker arm", "probability"

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        peaks = [evidence.peak(arm) for arm in self.arms]
        margins = [peak.value - np.maximum(peak.start, peak.end) for peak in peaks]
        details = evidence.describe_curves(self.arms)
        for arm, margin in zip(self.arms, margins, strict=True):
            details["arms"][arm]["margin"] = float(np.median(margin))
        unreached = [arm for arm, peak in zip(self.arms, peaks, strict=True) if peak.place == "end"]
        barred = {"contradicted": _unreached(unreached[0])} if unreached else {}
        values = np.min(margins, axis=0)
        return Draws(label, unit, values, evidence.caveat(), details, barred=barred)


@dataclasses.dataclass(frozen=True)
class MatchedGap(Estimand):
    """Mean difference of two arms' curves, first minus second, over their shared range (C2)."""

    first: str
    second: str

    def words(self) -> tuple[str, str]:
        return f"win rate at matched KL, {self.first} − {self.second}", "probability"

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        values = evidence.gap(self.first, self.second)
        details = evidence.describe_curves((self.first, self.second))
        return Draws(label, unit, values, evidence.caveat(), details)


@dataclasses.dataclass(frozen=True)
class PeakDifference(Estimand):
    """Peak win rate of the first arm minus the second's, each inside its own range (C3).

    Where an arm's peak was not reached its best observed win rate is a lower bound, and a verdict
    that a higher peak could overturn is not given.
    """

    first: str
    second: str

    def words(self) -> tuple[str, str]:
        return f"peak win rate, {self.first} − {self.second}", "probability"

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        first, second = evidence.peak(self.first), evidence.peak(self.second)
        details = evidence.describe_curves((self.first, self.second))
        barred = {}
        if first.place == "end":
            barred["contradicted"] = _unreached(self.first)
        if second.place == "end":
            barred["reproduced"] = _unreached(self.second)
        values = first.value - second.value
        return Draws(label, unit, values, evidence.caveat(), details, barred=barred)


def _unreached(arm: str) -> str:
    return f"peak not reached: {arm} still rises at the end of its observed range"


@dataclasses.dataclass(frozen=True)
class PairedDifference(Estimand):
    """First arm minus second in a metric at the last checkpoint, paired by setting and seed.

    Differences are averaged within a seed first; the seeds' means are then the sample.
    """

    metric: str
    first: str
    second: str

    def words(self) -> tuple[str, str]:
        name, unit = METRICS.get(self.metric, (self.metric, "units"))
        return f"{name}, {self.first} − {self.second}", unit

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        arms = (self.first, self.second)
        first, second = (evidence.last(self.metric, arm) for arm in arms)
        pairs = {run: first[run] - second[run] for run in first.keys() & second.keys()}
        if not pairs:
            raise Unanswerable(
                f"no setting and seed was completed under both {self.first} and {self.second}"
            )
        details = evidence.describe_runs(arms) | {"pairs": len(pairs)}
        return seed_draws(label, unit, pairs, details)


@dataclasses.dataclass(frozen=True)
class Change(Estimand):
    """A metric's change since SFT at the last checkpoint of one arm, in a stated direction.

    `sign` is +1 if the claim says that the metric rises, -1 if that it falls. For metrics that
    are already measured against SFT (the log-probability changes).
    """

    metric: str
    arm: str
    sign: int = 1

    def __post_init__(self) -> None:
        if self.sign not in (-1, 1):
            raise InvalidInput(f"sign is {self.sign}: allowed are 1 (rises) and -1 (falls)")

    def words(self) -> tuple[str, str]:
        name, unit = METRICS.get(self.metric, (self.metric, "units"))
        return f"{'rise' if self.sign > 0 else 'fall'} of {name}, {self.arm}", unit

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        values = {run: self.sign * v for run, v in evidence.last(self.metric, self.arm).items()}
        return seed_draws(label, unit, values, evidence.describe_runs((self.arm,)))


@dataclasses.dataclass(frozen=True)
class AllOf(Estimand):
    """A conjunction: the claim holds if every part does. One rule serves all parts."""

    parts: tuple[Estimand, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise InvalidInput("parts is empty: a conjunction needs at least one part")

    def words(self) -> tuple[str, str]:
        return "; ".join(part.words()[0] for part in self.parts), self.parts[0].words()[1]

    def _measure(self, evidence: Evidence) -> Draws:
        label, unit = self.words()
        return Draws(label, unit, parts=tuple(part.draws(evidence) for part in self.parts))


def seed_draws(
    label: str, unit: str, values: Mapping[Unit, float], details: Mapping[str, Any]
) -> Draws:
    """Draws of the mean over seeds of a quantity measured on runs; see `student_draws`.

    Runs are averaged within their seed, so a seed counts once however many settings it has.
    """
    finite = {run: v for run, v in values.items() if math.isfinite(v)}
    by_seed: dict[int, list[float]] = {}
    for (seed, _), value in finite.items():
        by_seed.setdefault(seed, []).append(value)
    means = np.array([np.mean(by_seed[seed]) for seed in sorted(by_seed)])
    details = {
        **details,
        "seed_means": {str(s): float(m) for s, m in zip(sorted(by_seed), means, strict=True)},
        "not_finite": len(values) - len(finite),
    }
    if means.size == 0:
        raise Unanswerable("no run has a finite value at its last checkpoint")
    reason = ""
    if means.size == 1:
        reason = "only one seed: the seed is the unit of replication, so there is no interval"
    elif np.ptp(means) == 0:
        reason = "the seeds do not differ at all, so there is no interval"
    draws = means[:1] if reason else student_draws(means)
    return Draws(label, unit, draws, reason, details)


def student_draws(sample: np.ndarray, count: int = 4000) -> np.ndarray:
    """Posterior of a normal mean under Jeffreys' prior, as `count` equally likely values.

    sample: shape (n,), n >= 2. The posterior is mean + s/sqrt(n) t_{n-1}, whose central intervals
    are the classical t intervals (Gelman et al., Bayesian Data Analysis, section 3.2). Mid-interval
    quantiles stand in for random draws: no key, no Monte Carlo error.
    """
    n = len(sample)
    grid = (np.arange(count) + 0.5) / count
    scale = np.std(sample, ddof=1) / math.sqrt(n)
    return np.mean(sample) + scale * stats.t.ppf(grid, n - 1)


@dataclasses.dataclass(frozen=True)
class Claim:
    """One row of the scoreboard: what is said, how it is measured, what decides.

    `against` says in words what outcome would count against the claim.
    """

    id: str
    text: str
    estimand: Estimand
    rule: Rule
    against: str

    def judge(self, evidence: Evidence) -> Judgement:
        """The verdict on this claim from one task's evidence. Never raises `Unanswerable`."""
        return self.rule.judge(self.estimand.draws(evidence))

    def describe(self) -> dict[str, Any]:
        """The claim as JSON-able data; `Claim.from_dict` is the inverse."""
        return {
            "id": self.id,
            "text": self.text,
            "estimand": self.estimand.describe(),
            "rule": self.rule.describe(),
            "against": self.against,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Claim":
        """The claim that `describe` wrote. Raises InvalidInput for missing or unknown parts."""
        try:
            return cls(
                id=str(data["id"]),
                text=str(data["text"]),
                estimand=estimand_from_dict(data["estimand"]),
                rule=Rule(**data["rule"]),
                against=str(data["against"]),
            )
        except (KeyError, TypeError) as problem:
            raise InvalidInput(
                f"claim {data.get('id', '?')} cannot be read ({problem}): it needs id, text, "
                "estimand, rule and against as Claim.describe writes them"
            ) from problem


def estimand_from_dict(data: Mapping[str, Any]) -> Estimand:
    """The estimand that `describe` wrote; "kind" is looked up among all subclasses of Estimand.

    Raises InvalidInput for a kind that no imported module defines.
    """
    kinds = {kind.__name__: kind for kind in _descendants(Estimand)}
    kind = kinds.get(data["kind"])
    if kind is None:
        raise InvalidInput(
            f"estimand kind is {data['kind']}: allowed are {', '.join(sorted(kinds))}"
        )
    return kind(**{name: _from_data(value) for name, value in data.items() if name != "kind"})


def _descendants(base: type) -> list[type]:
    children = base.__subclasses__()
    return children + [deeper for child in children for deeper in _descendants(child)]


def _as_data(value: Any) -> Any:
    if isinstance(value, Estimand):
        return value.describe()
    return [_as_data(item) for item in value] if isinstance(value, tuple) else value


def _from_data(value: Any) -> Any:
    if isinstance(value, Mapping):
        return estimand_from_dict(value)
    return tuple(_from_data(item) for item in value) if isinstance(value, list | tuple) else value

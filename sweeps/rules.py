"""The rule that turns posterior draws of an effect into a verdict."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from testbed.errors import InvalidInput

Verdict = Literal["reproduced", "contradicted", "undecided"]


@dataclasses.dataclass(frozen=True)
class Draws:
    """Posterior draws of one effect, or the reason there are none.

    `values` has shape (draws,): empty when nothing could be computed, a single value when there
    is an estimate without an interval. A non-empty `reason` forbids a verdict whatever the values;
    `barred` forbids single ones, for the reasons given (a bound can support one side only).
    `parts` holds the components of a conjunction, in which case `values` is empty.
    """

    label: str
    unit: str
    values: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    reason: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parts: tuple["Draws", ...] = ()
    barred: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A verdict with the numbers behind it; `interval` is the rule's central interval."""

    verdict: Verdict
    label: str
    unit: str
    estimate: float | None
    interval: tuple[float, float] | None
    probability: float | None
    reason: str
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parts: tuple["Judgement", ...] = ()


@dataclasses.dataclass(frozen=True)
class Rule:
    """Decides from posterior draws of an effect whether a claim of "positive" holds.

    `rope` is the largest effect that is practically nothing. The claim is reproduced when
    P(effect > rope) >= confidence, contradicted (negligible or reversed) when
    P(effect <= rope) >= confidence, and undecided otherwise. The interval shown is the central one
    of mass 2 confidence - 1 (90% at the default), so that "reproduced" means exactly that the
    whole interval lies above the rope, and "contradicted" that none of it does.

    Raises InvalidInput for a negative or non-finite rope, or a confidence outside (0.5, 1).
    """

    rope: float
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rope) and self.rope >= 0):
            raise InvalidInput(f"rope is {self.rope}: allowed are finite values of at least 0")
        if not 0.5 < self.confidence < 1:
            raise InvalidInput(
                f"confidence is {self.confidence}: allowed are values above 0.5 and below 1"
            )

    @property
    def mass(self) -> float:
        """Mass of the central interval that matches `confidence`."""
        return 2 * self.confidence - 1

    def judge(self, draws: Draws) -> Judgement:
        """Verdict on one effect, or on a conjunction of effects (see `AllOf`)."""
        if draws.parts:
            return self._judge_all(draws)
        values = np.asarray(draws.values, dtype=float)
        estimate = interval = probability = None
        verdict: Verdict = "undecided"
        reason = draws.reason
        if values.size and not np.all(np.isfinite(values)):
            values, reason = np.empty(0), reason or "the effect is not finite in every draw"
        if values.size:
            estimate = float(np.median(values))
        if values.size > 1:
            tail = (1 - self.mass) / 2
            low, high = np.quantile(values, [tail, 1 - tail])
            interval = (float(low), float(high))
            probability = float(np.mean(values > self.rope))
        if not reason and probability is None:
            reason = "there are no posterior draws"
        if not reason and probability is not None:
            verdict = self._verdict(probability)
            if verdict in draws.barred:
                verdict, reason = "undecided", draws.barred[verdict]
            elif verdict == "undecided":
                reason = (
                    f"P(effect > {self.rope:g}) = {probability:.2f} is neither at least "
                    f"{self.confidence:g} nor at most {1 - self.confidence:.3g}"
                )
        return Judgement(
            verdict, draws.label, draws.unit, estimate, interval, probability, reason, draws.details
        )

    def _verdict(self, probability: float) -> Verdict:
        """Verdict for P(effect > rope) = probability."""
        if probability >= self.confidence:
            return "reproduced"
        return "contradicted" if 1 - probability >= self.confidence else "undecided"

    def _judge_all(self, draws: Draws) -> Judgement:
        """A conjunction: reproduced if every part is, contradicted if any part is.

        An intersection-union rule: it needs no assumption about the dependence between parts, and
        calls a false conjunction reproduced no more often than its weakest part would be. Estimate,
        interval and probability are those of the weakest part.
        """
        parts = tuple(self.judge(part) for part in draws.parts)
        verdicts = [part.verdict for part in parts]
        if "contradicted" in verdicts:
            verdict: Verdict = "contradicted"
        else:
            verdict = "undecided" if "undecided" in verdicts else "reproduced"
        weakest = min(
            (part for part in parts if part.verdict == verdict),
            key=lambda part: -1.0 if part.probability is None else part.probability,
        )
        reason = f"{weakest.label}: {weakest.reason}" if weakest.reason else ""
        if verdict == "contradicted":
            reason = f"the part “{weakest.label}” does not hold"
        return Judgement(
            verdict,
            weakest.label,
            weakest.unit,
            weakest.estimate,
            weakest.interval,
            weakest.probability,
            reason,
            {**draws.details, "weakest": weakest.label},
            parts,
        )

    def sentence(self) -> str:
        """The rule in words."""
        return (
            f"reproduced if P(effect > {self.rope:g}) ≥ {self.confidence:g}, contradicted if "
            f"P(effect ≤ {self.rope:g}) ≥ {self.confidence:g}, otherwise undecided"
        )

    def describe(self) -> dict[str, Any]:
        """The rule as JSON-able data."""
        return dataclasses.asdict(self)

"""The base class of the rules that turn posterior draws of an effect into a verdict."""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np

from testbed.config import ranges
from testbed.config.ranges import hyper
from testbed.errors import InvalidInput

Verdict = Literal["reproduced", "contradicted", "undecided"]


Side = Literal["higher", "lower"]


@dataclasses.dataclass(frozen=True)
class Described:
    """Plain data that is stored with its class's name: the base of rules and estimands. A subclass is found by its
    name as soon as its module is imported."""

    def describe(self) -> dict[str, Any]:
        """The fields as JSON-able data, with the class's name under "kind"; `from_dict` is the inverse."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"kind": type(self).__name__} | {k: _as_data(v) for k, v in fields.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild an object from the output of `describe`; "kind" is looked up among the subclasses of this class.

        Raises InvalidInput for a kind that no imported module defines.
        """
        kinds = {kind.__name__: kind for kind in cls.descendants()}
        if data["kind"] not in kinds:
            raise InvalidInput(
                f"{cls.__name__.lower()} kind is {data['kind']}: allowed are {', '.join(sorted(kinds))}"
            )
        fields = {name: cls._from_data(value) for name, value in data.items() if name != "kind"}
        return kinds[data["kind"]](**fields)

    @classmethod
    def descendants(cls) -> list[type[Self]]:
        """All subclasses, including subclasses of subclasses."""
        children = cls.__subclasses__()
        return children + [kind for child in children for kind in child.descendants()]

    @classmethod
    def _from_data(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return cls.from_dict(value)
        return tuple(map(cls._from_data, value)) if isinstance(value, list | tuple) else value


def _as_data(value: Any) -> Any:
    if isinstance(value, Described):
        return value.describe()
    return [_as_data(item) for item in value] if isinstance(value, tuple) else value


@dataclasses.dataclass(frozen=True)
class Draws:
    """Posterior draws of one effect, or the reason why there are none.

    `values` has shape (draws,): empty if nothing could be computed, a single value for an estimate without an interval.
    `exact` says that a single value is known without error, so that it decides. A non-empty `reason` forbids a verdict
    whatever the values are. `open` says that the true effect may be higher or lower than the draws (which are then a
    bound), with the reason: no verdict is given that such an effect could overturn.
    """

    label: str
    unit: str
    values: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    reason: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    exact: bool = False
    open: Mapping[Side, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A verdict with its numbers.

    `estimate` is the median, `interval` the rule's central interval if it has a width, and `probability` the
    probability of the rule's condition.
    """

    verdict: Verdict
    label: str
    unit: str
    estimate: float | None
    interval: tuple[float, float] | None
    probability: float | None
    reason: str
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Rule(Described, abc.ABC):
    """Abstract: decides from posterior draws of an effect whether a condition on the effect holds.

    The verdict is reproduced if P(condition) >= confidence, contradicted if P(not condition) >= confidence, undecided
    otherwise. The displayed interval is the central one of mass 2 confidence - 1 (90% at the default); for one-sided
    conditions there is a verdict exactly if this interval lies on one side.

    Raises InvalidInput for a negative or non-finite rope, or a confidence outside (0.5, 1).

    Attributes:
        rope: the largest effect that is practically nothing.
        confidence: the probability that a verdict needs.
    """

    rope: float = hyper(least=0)
    confidence: float = hyper(0.95, above=0.5, below=1)

    def __post_init__(self) -> None:
        ranges.check(self)

    @property
    def mass(self) -> float:
        """Mass of the central interval that matches `confidence`."""
        return 2 * self.confidence - 1

    @property
    @abc.abstractmethod
    def limits(self) -> tuple[float, float]:
        """The range of effects for which the condition holds; infinite on a side without a limit."""

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Whether the condition holds, for each value: unless a rule says otherwise, also at the `limits`."""
        low, high = self.limits
        return (values >= low) & (values <= high)

    @abc.abstractmethod
    def words(self) -> tuple[str, str]:
        """The condition, and its opposite, as formulas."""

    def sentence(self) -> str:
        """The rule in words."""
        condition, opposite = self.words()
        return (
            f"reproduced if P({condition}) ≥ {self.confidence:g}, contradicted if "
            f"P({opposite}) ≥ {self.confidence:g}, otherwise undecided"
        )

    def judge(self, draws: Draws) -> Judgement:
        """The verdict on one effect."""
        values = np.asarray(draws.values, dtype=float)
        estimate = interval = probability = None
        reason = draws.reason
        if values.size and not np.all(np.isfinite(values)):
            values, reason = np.empty(0), reason or "the effect is not finite in every draw"
        if values.size:
            estimate = float(np.median(values))
        if values.size > 1 and not draws.exact:
            tail = (1 - self.mass) / 2
            low, high = np.quantile(values, [tail, 1 - tail])
            # Equal draws are a bound, for example of a peak beyond the last checkpoint.
            interval = (float(low), float(high)) if low < high else None
        if values.size > 1 or (values.size and draws.exact):
            probability = float(np.mean(self.holds(values)))
        verdict: Verdict = "undecided"
        if not reason:
            verdict, reason = self._verdict(values, probability, draws)
        return Judgement(
            verdict, draws.label, draws.unit, estimate, interval, probability, reason, draws.details
        )

    def _verdict(
        self, values: np.ndarray, probability: float | None, draws: Draws
    ) -> tuple[Verdict, str]:
        """The verdict, and the reason if it is "undecided"."""
        if probability is None:
            return "undecided", "there are no posterior draws"
        if self.limits[0] == self.limits[1] and not draws.exact:
            return "undecided", f"an estimate with an error is never exactly {self.limits[1]:g}"
        verdict: Verdict = "undecided"
        if probability >= self.confidence:
            verdict = "reproduced"
        elif 1 - probability >= self.confidence:
            verdict = "contradicted"
        for side, why in draws.open.items():
            if verdict != "undecided" and not self._stands(verdict, side, values):
                return "undecided", why
        if verdict == "undecided":
            return verdict, (
                f"P({self.words()[0]}) = {probability:.2f} is neither at least "
                f"{self.confidence:g} nor at most {1 - self.confidence:.3g}"
            )
        return verdict, ""

    def _stands(self, verdict: Verdict, side: Side, values: np.ndarray) -> bool:
        """Whether a verdict stays true however far the true effect lies to one side of the draws."""
        low, high = self.limits
        if verdict == "reproduced":
            return math.isinf(high if side == "higher" else low)
        beyond = values > high if side == "higher" else values < low
        return bool(np.mean(beyond) >= self.confidence)

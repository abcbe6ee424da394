"""The claims of a study, how each claim is measured, and the rules that decide it: plain data.

A `Claim` is a conjunction of tests. A `Test` names an estimand (`sweeps.estimands`), which turns evidence into
posterior draws of one effect, and a rule (`sweeps.rules.base`), which turns draws into a verdict. Every object of this
module describes itself as JSON (`describe`) and is rebuilt from this JSON (`from_dict`). A run can therefore be judged
by the rules that were stored before the run, and by the present rules of its study.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar, get_type_hints

from sweeps.estimands import AtEvery, Estimand, Evidence
from sweeps.rules import Judgement, More, Rule, Verdict
from testbed.config.canonical_form import coerce
from testbed.errors import InvalidInput

T = TypeVar("T", Estimand, Rule)
#: Verdicts of tests; the first that occurs is the verdict of their claim.
_PRECEDENCE = ("contradicted", "undecided", "reproduced")


@dataclasses.dataclass(frozen=True)
class Test:
    """One condition of a claim: an effect, and the rule that decides about the effect."""

    __test__: ClassVar[bool] = False  # pytest must not collect this class
    estimand: Estimand
    rule: Rule

    def __post_init__(self) -> None:
        if isinstance(self.estimand, AtEvery) and not isinstance(self.rule, More):
            raise InvalidInput(
                f"rule of AtEvery is {type(self.rule).__name__}: allowed is More, because the "
                "smallest effect bounds the others from below only"
            )
        name = type(self.estimand).__name__
        for field in dataclasses.fields(self.estimand):
            value = getattr(self.estimand, field.name)
            if field.name in self.estimand.ARMS and value == ():
                raise InvalidInput(f"{field.name} of {name} is empty: at least one is needed")
            if isinstance(value, float) and not math.isfinite(value):
                raise InvalidInput(f"{field.name} of {name} must be a finite number, got {value}")

    def judge(self, evidence: Evidence) -> Judgement:
        """The verdict on this effect. Never raises `Unanswerable`."""
        return self.rule.judge(self.estimand.draws(evidence, self.rule.rope))

    def describe(self) -> dict[str, Any]:
        """The test as JSON-able data."""
        return {"estimand": self.estimand.describe(), "rule": self.rule.describe()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Test":
        """Rebuild the test from the output of `describe`."""
        estimand, rule = Estimand.from_dict(data["estimand"]), Rule.from_dict(data["rule"])
        return cls(_of_types(estimand), _of_types(rule))


@dataclasses.dataclass(frozen=True)
class Ruling:
    """The verdict on a claim; `parts` are the judgements of its tests, in order.

    `deciding` is the index of the weakest test: of those with the claim's verdict, the one whose
    condition is least probable.
    """

    verdict: Verdict
    reason: str
    deciding: int
    parts: tuple[Judgement, ...]


@dataclasses.dataclass(frozen=True)
class Claim:
    """One row of the scoreboard: the statement, its measurement, and the rules that decide.

    All tests must hold. `against` says in words which outcome would count against the claim, `note` which checks of the
    setup were made. `beside` are effects that are shown with their intervals beside the tests, and decide nothing. Ids
    that start with "C" are the paper's claims, ids that start with "B" questions beyond the paper. Raises InvalidInput
    if there is no test.
    """

    id: str
    text: str
    tests: tuple[Test, ...]
    against: str
    note: str = ""
    beside: tuple[Estimand, ...] = ()

    def __post_init__(self) -> None:
        if not self.tests:
            raise InvalidInput(f"tests of claim {self.id} is empty: at least one is needed")

    @property
    def of_worlds(self) -> bool:
        """Whether every test is about an effect of worlds, so that a typical task can be judged."""
        return all(test.estimand.of_worlds for test in self.tests)

    def arms_used(self) -> tuple[str, ...]:
        """The arms that the tests need."""
        return tuple(dict.fromkeys(arm for test in self.tests for arm in test.estimand.arms_used()))

    def judge(self, evidence: Evidence) -> Ruling:
        """The verdict from one task's evidence. Never raises `Unanswerable`.

        The claim is reproduced if all tests are, and contradicted if any test is. This is an intersection-union rule:
        the rule needs no assumption about the dependence between tests, and calls a false conjunction reproduced no
        more often than its weakest test would be.
        """
        parts = tuple(test.judge(evidence) for test in self.tests)

        def weakness(index: int) -> tuple[int, float]:
            chance = parts[index].probability
            return _PRECEDENCE.index(parts[index].verdict), -1.0 if chance is None else chance

        deciding = min(range(len(parts)), key=weakness)
        weakest = parts[deciding]
        reason = weakest.reason
        if len(parts) > 1 and weakest.verdict == "contradicted":
            reason = f"“{weakest.label}” does not hold"
        elif len(parts) > 1 and reason:
            reason = f"{weakest.label}: {reason}"
        return Ruling(weakest.verdict, reason, deciding, parts)

    def judge_beside(self, evidence: Evidence) -> tuple[Judgement, ...]:
        """The effects beside the tests, with 90% intervals: what a rule without a region of its own says of them."""
        rule, parts = More(0.0), []
        for estimand in self.beside:
            draws = estimand.draws(evidence)
            parts.append(dataclasses.replace(rule.judge(draws), reason=draws.reason))
        return tuple(parts)

    def describe(self) -> dict[str, Any]:
        """The claim as JSON-able data; `Claim.from_dict` is the inverse."""
        tests = [test.describe() for test in self.tests]
        return {**vars(self), "tests": tests, "beside": [one.describe() for one in self.beside]}

    def decides_like(self, other: "Claim") -> bool:
        """Whether both claims have the same tests; texts may differ."""
        return [test.describe() for test in self.tests] == [test.describe() for test in other.tests]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Claim":
        """Rebuild the claim from the output of `describe`. Raises InvalidInput for missing or unknown parts."""
        try:
            texts = {name: str(data[name]) for name in ("id", "text", "against")}
            tests = tuple(map(Test.from_dict, data["tests"]))
            beside = tuple(_of_types(Estimand.from_dict(one)) for one in data.get("beside", ()))
            return cls(**texts, tests=tests, note=str(data.get("note", "")), beside=beside)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as problem:
            if isinstance(problem, InvalidInput):
                raise
            raise InvalidInput(
                f"claim {data.get('id', '?')} cannot be read ({problem}): it needs id, text, "
                "tests and against as Claim.describe writes them"
            ) from problem


def _of_types(part: T) -> T:
    """Return a rule or an estimand unchanged. Raises `TypeError` if a field holds another type than declared: data may
    come from a damaged file."""
    hints = get_type_hints(type(part))
    for field in dataclasses.fields(part):
        try:
            coerce(hints[field.name], getattr(part, field.name), field.name)
        except InvalidInput as problem:
            raise TypeError(f"{problem}, in {type(part).__name__}") from problem
    return part

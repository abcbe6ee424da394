"""Rules that every estimand and every rule keeps, found by walking their packages, as studies use them and by
themselves."""

import dataclasses
import functools
from typing import Any

import pytest

from sweeps import contracts
from sweeps.contracts.samples import MadeUpEvidence
from sweeps.estimands import Estimand
from sweeps.rules import Rule
from sweeps.selection import Selection
from sweeps.study import list_studies
from testbed.config import members

ESTIMANDS = members(Estimand, "sweeps.estimands")
RULES = members(Rule, "sweeps.rules")
#: Of the example of an estimand that no study uses: its metric, its swept path, and its arms.
METRIC, PATH = "kl", "loss.beta"


@functools.cache
def used() -> tuple[tuple[Selection, Estimand, Rule], ...]:
    """All pairs of estimand and rule that decide a claim of a study that comes with the testbed."""
    return tuple(
        (study.select(), test.estimand, test.rule)
        for study in list_studies()
        for claim in study.claims
        for test in claim.tests
    )


def inside(estimand: Estimand) -> list[Estimand]:
    """An estimand and those inside it."""
    values = vars(estimand).values()
    return [estimand, *(one for v in values if isinstance(v, Estimand) for one in inside(v))]


def an_example(kind: type) -> Estimand:
    """An estimand of a kind, built from the names of its fields, which say what they hold."""
    arms = [arm.name for arm in gap().study.arms]
    given: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name in kind.ARMS:
            given[field.name] = tuple(arms) if field.name == "arms" else arms[len(given) % 2]
        elif field.name in ("metric", "path"):
            given[field.name] = {"metric": METRIC, "path": PATH}[field.name]
        elif field.default is dataclasses.MISSING:
            pytest.fail(
                f"{kind.__name__} is used by no study and has a field {field.name} without a default: use it in a "
                f"study, give the default, or name the field metric, path or {', '.join(kind.ARMS)}"
            )
    return kind(**given)


@functools.cache
def gap() -> Selection:
    """The opening study."""
    return next(study for study in list_studies() if study.name == "gap").select()


@pytest.mark.parametrize("kind", ESTIMANDS.values(), ids=ESTIMANDS)
def test_estimands_pass_what_users_are_held_to(kind: type) -> None:
    """Documented; as every study uses them, or as their fields' names say."""
    assert kind.__doc__
    found = [
        (selection, one)
        for selection, estimand, _ in used()
        for one in inside(estimand)
        if type(one) is kind
    ]
    for selection, estimand in found or [(gap(), an_example(kind))]:
        contracts.check_estimand(estimand, MadeUpEvidence(selection))


@pytest.mark.parametrize("kind", RULES.values(), ids=RULES)
def test_rules_pass_what_users_are_held_to(kind: type) -> None:
    """Documented; with any rope, and as every study uses them."""
    assert kind.__doc__
    for rope in (0.0, 0.02, 1.0):
        contracts.check_rule(kind(rope))
    for _, _, rule in used():
        if type(rule) is kind:
            contracts.check_rule(rule)

"""Requirements on estimands and rules, and their checks."""

import dataclasses
import json
import math
from typing import Any, get_args

import numpy as np

from sweeps.contracts.samples import MadeUpEvidence
from sweeps.contracts.sentences import called, guarded, named, ours
from sweeps.estimands import Estimand
from sweeps.rules import Described, Draws, Judgement, Rule, Verdict
from testbed.errors import InvalidInput

#: Effects on which rules are tried; none of them equals the end of a usual rope.
_EFFECTS = np.concatenate([-(np.logspace(-4, 2, 24)), [0.0], np.logspace(-4, 2, 24)])


def check_estimand(estimand: Estimand, evidence: MadeUpEvidence) -> None:
    """An estimand must be plain data, with two texts for people (label and unit) and finite draws of one effect. Raises
    `InvalidInput`."""
    _check_data(estimand, Estimand)
    _check_words(estimand, "label and unit")
    draws = called(estimand, "draws", Draws, evidence)
    values = draws.values
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "fiu":
        shape = getattr(values, "shape", type(values).__name__)
        raise InvalidInput(
            f"{named(estimand)} returns draws of shape {shape}: needs a numpy array of numbers of shape (draws,)"
        )
    if not np.all(np.isfinite(values)):
        raise InvalidInput(
            f"{named(estimand)} returns {values[~np.isfinite(values)][0]} among its draws for finite results: needs "
            "finite numbers, or Unanswerable with the reason"
        )
    if not values.size and not draws.reason:
        raise InvalidInput(
            f"{named(estimand)} returns no draws and no reason: needs one of the two"
        )


def check_rule(rule: Rule) -> None:
    """A rule must be plain data, with a condition on effects on which `limits` and `holds` agree, and a verdict. Raises
    `InvalidInput`."""
    _check_data(rule, Rule)
    _check_words(rule, "the condition and its opposite")
    with guarded(rule, "limits"):
        low, high = map(float, rule.limits)
    if math.isnan(low) or math.isnan(high) or low > high:
        raise InvalidInput(
            f"{named(rule, 'limits')} returns {low} and {high}: needs a range from low to high"
        )
    effects = _EFFECTS
    holds: Any = called(rule, "holds", object, effects)
    if not isinstance(holds, np.ndarray) or holds.shape != effects.shape or holds.dtype != bool:
        given = f"{getattr(holds, 'dtype', type(holds).__name__)} of shape {np.shape(holds)}"
        raise InvalidInput(
            f"{named(rule, 'holds')} returns {given}: needs true or false for each of the effects it is given, shape "
            f"{effects.shape}"
        )
    inside, at_end = (effects > low) & (effects < high), (effects == low) | (effects == high)
    differ = effects[(inside != holds) & ~at_end]
    if differ.size:
        raise InvalidInput(
            f"{named(rule, 'holds')} and limits disagree on an effect of {differ[0]:.4g}: limits must be the range of "
            f"the effects for which the condition holds, got {low:g} to {high:g}"
        )
    verdict = called(rule, "judge", Judgement, Draws("effect", "units", effects)).verdict
    if verdict not in get_args(Verdict):
        needed = ", ".join(get_args(Verdict))
        raise InvalidInput(f"{named(rule, 'judge')} returns verdict {verdict!r}: needs {needed}")
    called(rule, "sentence", str)


def _place(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


def _check_data(thing: Any, base: type[Described]) -> None:
    """Check the data that is stored with the results before the run, and read back for the report."""
    if "__dataclass_params__" not in vars(type(thing)):
        raise InvalidInput(
            f"{named(thing)} is not decorated: needs @dataclasses.dataclass(frozen=True) above its class"
        )
    with guarded(thing, "describe"):
        again = base.from_dict(json.loads(json.dumps(thing.describe(), allow_nan=False)))
    # Results are judged by the class with the stored name; of several, by the one defined last.
    namesakes = [one for one in base.descendants() if one.__name__ == type(thing).__name__]
    others = [one for one in (type(again), *namesakes) if _place(one) != _place(type(thing))]
    if others and (others[0] is type(again) or any(map(ours, others))):
        raise InvalidInput(
            f"{named(thing)} has the name of another one in {others[-1].__module__}: choose a name that no other has"
        )
    fields = [field.name for field in dataclasses.fields(thing)]
    lost = [name for name in fields if getattr(again, name) != getattr(thing, name)]
    if lost:
        raise InvalidInput(
            f"{named(thing)} does not read back its field {lost[0]}: needs numbers, texts, tuples of these, or "
            "estimands"
        )


def _check_words(thing: Any, meaning: str) -> None:
    words: Any = called(thing, "words", object)
    texts = isinstance(words, tuple) and all(isinstance(word, str) for word in words)
    if not (texts and len(words) == 2):
        raise InvalidInput(f"{named(thing, 'words')} returns {words!r}: needs two texts, {meaning}")

"""What many verdicts say together: how many may be wrong, which nearly came out otherwise, how intervals narrow with
the number of worlds. Works on entries of verdicts.json (`analysis.verdicts.verdict.entry`)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.worlds.pooled import pool_worlds

Entry = Mapping[str, Any]
GUARD = 0.01
"""A verdict that an error of its probability of this size would change is close to the threshold: posteriors are
approximations, and best points are found by draws."""
_PREFIXES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_AGREE = 0.05


def expected_wrong(entries: Iterable[Entry]) -> float:
    """An upper bound of the expected number of wrong verdicts: the sum, over the decided ones, of the probability that
    the posterior leaves to the opposite.

    Expectations add whatever the dependence between verdicts. A claim with several tests is wrongly reproduced with at
    most the sum of its tests' probabilities, and wrongly contradicted with at most that of the test that fails.
    """
    total = 0.0
    for row in entries:
        chances = [test["probability"] for test in row["tests"]]
        if row["verdict"] == "reproduced":
            total += sum(1.0 - chance for chance in chances if chance is not None)
        elif row["verdict"] == "contradicted" and row["probability"] is not None:
            total += row["probability"]
    return total


def is_close(verdict: str, tests: Sequence[Entry]) -> bool:
    """Whether a claim would have another verdict if the probabilities of its tests were all higher, or all lower, by
    `GUARD`. Verdicts that are withheld for another reason than their probability are not close."""
    if _verdict(tests, 0.0) != verdict:
        return False
    return any(_verdict(tests, shift) != verdict for shift in (-GUARD, GUARD))


def _verdict(tests: Sequence[Entry], shift: float) -> str:
    """A claim's verdict if the probabilities of its tests are shifted."""
    found = {_of_test(test, shift) for test in tests}
    return next(name for name in ("contradicted", "undecided", "reproduced") if name in found)


def _of_test(test: Entry, shift: float) -> str:
    chance, needed = test["probability"], test["rule"]["confidence"]

    def at(value: float) -> str:
        # Probabilities are shares of 4000 draws.
        if value >= needed - 1e-9:
            return "reproduced"
        return "contradicted" if 1 - value >= needed - 1e-9 else "undecided"

    # An effect without an interval is known without error, or not at all.
    if chance is None or test["interval"] is None or at(chance) != test["verdict"]:
        return str(test["verdict"])
    return at(chance + shift)


def half_widths(test: Entry) -> list[tuple[int, float]]:
    """Pairs of a number of worlds and the half width of the 90% interval from so many, in the order of their seeds; the
    last is that of all worlds. Only this last pair if the model over worlds works on another scale than the effects
    are given in, and none without an interval.
    """
    worlds, interval = test["details"].get("worlds", ()), test["interval"]
    if not worlds or interval is None:
        return []
    last = (interval[1] - interval[0]) / 2
    seeds, values, errors = (
        [world[name] for world in worlds] for name in ("seed", "estimate", "error")
    )
    families = test["details"].get("families", 1)

    def of_first(count: int) -> float | None:
        first = seeds[:count], values[:count], errors[:count]
        found = pool_worlds(*first, test["rule"]["rope"], families)
        if found is None:
            return None
        low, high = found.quantile(np.array([0.05, 0.95]))
        return float(high - low) / 2

    whole = of_first(len(worlds))
    if whole is None or not math.isclose(whole, last, rel_tol=_AGREE):
        return [(len(worlds), last)]
    known = ((n, of_first(n)) for n in _PREFIXES if n < len(worlds))
    return [*((n, half) for n, half in known if half is not None), (len(worlds), last)]

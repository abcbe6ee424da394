"""What verdicts say together, against values worked out by hand."""

from typing import Any

import numpy as np
import pytest

from analysis.verdicts import many
from analysis.worlds.pooled import pool, pool_effects
from sweeps.estimands import InWorlds, WorldEstimate


def judged(probability: float | None, verdict: str, **more: Any) -> dict[str, Any]:
    rule = {"kind": "More", "rope": 0.07, "confidence": 0.95}
    known = {"probability": probability, "verdict": verdict, "rule": rule, "interval": [0.0, 1.0]}
    return {**known, "details": {}, **more}


def entry(verdict: str, *tests: dict[str, Any], deciding: int = 0) -> dict[str, Any]:
    return {"verdict": verdict, "probability": tests[deciding]["probability"], "tests": tests}


def test_chances_of_the_opposite_add_up() -> None:
    """Two tests that must both hold leave 0.01 + 0.03; a contradiction leaves what speaks for the failing test; an
    undecided verdict and an effect known without error cannot be wrong."""
    entries = [
        entry("reproduced", judged(0.99, "reproduced"), judged(0.97, "reproduced")),
        entry("contradicted", judged(0.99, "reproduced"), judged(0.02, "contradicted"), deciding=1),
        entry("undecided", judged(0.5, "undecided")),
        entry("reproduced", judged(1.0, "reproduced", interval=None)),
    ]
    assert many.expected_wrong(entries) == pytest.approx(0.01 + 0.03 + 0.02)
    assert many.expected_wrong([]) == 0


@pytest.mark.parametrize(
    ("verdict", "tests", "close"),
    [
        ("reproduced", [(0.955, "reproduced")], True),
        ("reproduced", [(0.965, "reproduced")], False),
        ("undecided", [(0.945, "undecided")], True),
        ("undecided", [(0.93, "undecided")], False),
        ("contradicted", [(0.045, "contradicted")], True),
        ("contradicted", [(0.03, "contradicted")], False),
        # The other test decides, whatever becomes of this one.
        ("contradicted", [(0.955, "reproduced"), (0.001, "contradicted")], False),
        ("undecided", [(0.945, "undecided"), (0.5, "undecided")], False),
        ("undecided", [(0.055, "undecided"), (0.5, "undecided")], True),
        ("reproduced", [(0.955, "reproduced"), (0.999, "reproduced")], True),
        # Withheld for another reason: runs are missing, or the effect may be larger.
        ("undecided", [(0.955, "reproduced")], False),
        ("undecided", [(0.96, "undecided")], False),
        ("undecided", [(None, "undecided")], False),
    ],
)
def test_verdicts_close_to_the_threshold(
    verdict: str, tests: list[tuple[float | None, str]], close: bool
) -> None:
    assert many.is_close(verdict, [judged(*one) for one in tests]) is close


def test_effects_known_without_error_are_never_close() -> None:
    assert not many.is_close("reproduced", [judged(1.0, "reproduced", interval=None)])


def test_half_widths_are_those_of_the_first_worlds() -> None:
    rng = np.random.default_rng(0)
    values, errors = rng.normal(size=9), np.full(9, 0.2)
    worlds = [{"seed": seed, "estimate": value, "error": 0.2} for seed, value in enumerate(values)]
    ends = pool(values, errors, 0.07).quantile(np.array([0.05, 0.95])).tolist()
    found = many.half_widths(judged(0.5, "undecided", details={"worlds": worlds}, interval=ends))
    assert [count for count, _ in found] == [2, 3, 4, 6, 8, 9]
    assert found[-1][1] == pytest.approx((ends[1] - ends[0]) / 2)
    low, high = pool(values[:6], errors[:6], 0.07).quantile(np.array([0.05, 0.95]))
    assert found[3][1] == pytest.approx((high - low) / 2)


def test_half_widths_of_another_scale_are_not_made_up() -> None:
    """The interval is not the one that these worlds give: only its own width is told."""
    worlds = [{"seed": seed, "estimate": 0.1 * seed, "error": 0.2} for seed in range(5)]
    given = {"details": {"worlds": worlds}, "interval": [0.0, 0.1]}
    assert many.half_widths(judged(0.5, "undecided", **given)) == [(5, pytest.approx(0.05))]
    assert (
        many.half_widths(judged(0.5, "undecided", details={"worlds": worlds}, interval=None)) == []
    )
    assert many.half_widths(judged(0.5, "undecided")) == []


def test_half_widths_without_a_rope_are_those_of_a_study_of_the_first_worlds() -> None:
    """The scale of what is practically nothing comes from the worlds that are pooled, as in verdicts."""
    rng = np.random.default_rng(1)
    values, seeds = [*rng.normal(size=8), 40.0], list(range(9))
    worlds = [{"seed": s, "estimate": v, "error": 0.2} for s, v in zip(seeds, values, strict=True)]
    rule = {"kind": "More", "rope": 0.0, "confidence": 0.95}

    def of(count: int) -> list[float]:
        known = {s: WorldEstimate(values[s], 0.2) for s in seeds[:count]}
        found = pool_effects(InWorlds(known), 0.0, families=2)
        assert found is not None
        return found.quantile(np.array([0.05, 0.95])).tolist()

    details = {"worlds": worlds, "families": 2}
    told = dict(
        many.half_widths(judged(0.5, "undecided", details=details, interval=of(9), rule=rule))
    )
    assert told[4] == pytest.approx(np.diff(of(4))[0] / 2, rel=1e-6)

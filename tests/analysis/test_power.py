"""The half width to expect, against the intervals of simulated worlds; where its components come from."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.worlds import power
from analysis.worlds.pooled import NU, pool
from analysis.worlds.power import Components, Key, expected, following, point, stored, widths
from sweeps.claims import Claim, Test
from sweeps.estimands import PairedDifference
from sweeps.rules import More
from testbed.errors import InvalidInput

GOLDEN = "SFT standard deviations"
EFFECT = PairedDifference("golden_reward", "online", "offline")
CLAIM = Claim("C2", "online beats offline", (Test(EFFECT, More(0.07)),), "it does not")


def posterior(rng: np.random.Generator, worlds: int, of: Components) -> Any:
    """The posterior of simulated worlds, whose standard errors differ by a third; consecutive worlds are a family."""
    members = (np.arange(worlds) // of.per_family).astype(int)
    effects = of.scatter * rng.standard_t(NU, size=worlds)
    effects += of.family * rng.normal(size=worlds)[members]
    errors = of.error * np.exp(0.3 * rng.normal(size=worlds) - 0.09)
    families = members.tolist() if of.per_family > 1 else None
    return pool(effects + errors * rng.normal(size=worlds), errors, 0.07, families)


def half(posterior: Any) -> float:
    low, high = posterior.quantile(np.array([0.05, 0.95]))
    return float(high - low) / 2


@pytest.mark.parametrize("worlds", [4, 8, 16, 32])
@pytest.mark.parametrize("parts", [(0.1, 0.0), (0.1, 0.05), (0.1, 0.1), (0.03, 0.1), (0.0, 0.1)])
def test_half_widths_are_those_of_simulated_worlds(worlds: int, parts: tuple[float, float]) -> None:
    """Within 15% of the mean over 80 simulations, whose own standard error is 2 to 5%."""
    of, rng = Components(*parts, worlds), np.random.default_rng(worlds)
    simulated = np.mean([half(posterior(rng, worlds, of)) for _ in range(80)])
    assert of.half_width(worlds) == pytest.approx(simulated, rel=0.15)


@pytest.mark.parametrize("worlds", [16, 32])
def test_families_widen_intervals(worlds: int) -> None:
    """Within 20% of simulations in which four worlds share a family, and much wider than without."""
    of, rng = Components(0.05, 0.05, worlds, 0.1, 4.0), np.random.default_rng(worlds)
    simulated = np.mean([half(posterior(rng, worlds, of)) for _ in range(40)])
    assert of.half_width(worlds) == pytest.approx(simulated, rel=0.2)
    assert of.half_width(worlds) > 2 * dataclasses.replace(of, family=0.0).half_width(worlds)


def test_half_widths_by_hand() -> None:
    """Scatter alone: t(0.95; 15) = 1.7531 times the root of 11/9 scatter^2 / 16."""
    assert Components(0.09, 0.0, 16).half_width(16) == pytest.approx(
        1.7531 * 0.09 * (11 / 9 / 16) ** 0.5, rel=1e-4
    )
    assert Components(0.0, 0.0, 16).half_width(16) == 0.0


def test_the_worlds_that_a_precision_needs_are_the_fewest() -> None:
    of = Components(0.1, 0.05, 16)
    needed = of.needed(0.04)
    assert needed is not None
    assert of.half_width(needed) <= 0.04 < of.half_width(needed - 1)
    assert of.needed(1e-6) is None
    assert of.needed(0.0) is None
    assert of.needed(10.0) == 2


def test_a_growing_design_ends_four_worlds_after_it_is_precise_and_at_its_largest_size() -> None:
    assert [following(8, False), following(8, True)] == [10, 12]
    assert [following(30, False), following(30, True), following(32, False)] == [32, 32, 32]
    assert following(9, True, most=10) == 10


def test_a_point_is_half_of_what_is_practically_nothing() -> None:
    assert point(GOLDEN, 0.07) == point(GOLDEN, 0.0) == power.POINT == 0.035
    assert point("probability", 0.02) == pytest.approx(0.01)
    assert point("nats", 0.0) is None


def entry(details: dict[str, Any], interval: Any = (-0.1, 0.1), **more: Any) -> dict[str, Any]:
    """The part of a verdict that plans read."""
    test = {"effect": EFFECT.words()[0], "unit": GOLDEN, "interval": interval, "details": details}
    test |= {"rule": {"rope": 0.07}} | more
    return {"study": "gap", "claim": "C2", "task": "Neural", "tests": [test]}


def written(directory: Path, entries: list[dict[str, Any]]) -> Path:
    (directory / "report").mkdir(parents=True)
    (directory / "report" / "verdicts.json").write_text(json.dumps(entries))
    return directory


WORLDS = [{"seed": seed, "estimate": 0.1 * seed, "error": 0.03 + 0.01 * seed} for seed in (0, 1)]
DETAILS = {"worlds": WORLDS, "scatter": 0.09}


def test_components_are_those_of_stored_verdicts_or_else_of_the_table(tmp_path: Path) -> None:
    table = {Key("gap", "C2", 0, EFFECT.words()[0], "Neural"): Components(0.2, 0.1, 16, source="t")}

    def read(study: str, tasks: list[str], directory: Path) -> list[power.Expected]:
        return expected(study, [CLAIM], tasks, 16, directory, lambda: table)

    out = written(tmp_path / "out", [entry(DETAILS), entry({"arms": {}})])
    [own, other] = read("gap", ["Neural", "Summarize"], out)
    assert own.components is not None
    assert (own.components.scatter, own.components.worlds) == (0.09, 2)
    assert own.components.error == pytest.approx((0.5 * (0.03**2 + 0.04**2)) ** 0.5)
    assert own.why() == f"scatter 0.09, error within a world 0.035, from {out}/report/verdicts.json"
    assert own.points == pytest.approx(own.components.half_width(16) / 0.035)
    assert other.components is other.half_width is other.points is other.needed(2.0) is None
    [tabled] = read("gap", ["Neural"], tmp_path / "none")
    assert tabled.components == table[tabled.key]
    [derived] = read("gap with another loss", ["Neural"], tmp_path / "none")
    assert derived.components == tabled.components
    renamed = {key._replace(effect="another"): of for key, of in table.items()}
    [moved] = expected("gap", [CLAIM], ["Neural"], 16, tmp_path, lambda: renamed)
    assert moved.components is None
    assert moved.describe(2.0)["worlds_needed"] is None


def test_verdicts_that_are_no_effects_over_worlds_have_no_components() -> None:
    for details in (
        {},
        {"worlds": WORLDS},
        {"worlds": WORLDS[:1], "scatter": 0.1},
        {"worlds": [{"seed": 0, "estimate": 0.1, "error": None}] * 2, "scatter": 0.1},
    ):
        assert power.components([entry(details)], "here") == {}


def test_the_scatter_between_families_explains_the_width_of_the_interval() -> None:
    """Sixteen worlds in four families, whose interval is wider than the scatter within families makes it."""
    worlds = [{"seed": 100 + k, "estimate": 0.0, "error": 0.05} for k in range(16)]
    details = {"worlds": worlds, "scatter": 0.1, "families": 4}
    [of] = power.components([entry(details, (-0.2, 0.2))], "here").values()
    assert of.per_family == 4.0
    assert of.half_width(16) == pytest.approx(0.2, rel=1e-6)
    assert 0.1 < of.family < 0.3
    [narrow] = power.components([entry(details, (-0.01, 0.01))], "here").values()
    assert narrow.family == 0.0
    [alone] = power.components([entry(details | {"families": 1}, (-0.2, 0.2))], "here").values()
    assert (alone.family, alone.per_family) == (0.0, 1.0)


@pytest.mark.parametrize("text", ['[{"study": "gap"}]', "not JSON", "{}"])
def test_damaged_verdicts_say_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "verdicts.json").write_text(text)
    assert stored(tmp_path) == {}


def test_the_table_is_written_from_results_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    first = entry(DETAILS) | {"study": "first"}
    path.write_text(power.tabled([written(tmp_path / "a", [first])], path))
    later = entry(DETAILS | {"scatter": 0.5}) | {"study": "first", "task": "Summarize"}
    both = [written(tmp_path / "b", [later]), written(tmp_path / "c", [entry(DETAILS)])]
    path.write_text(power.tabled(both, path))
    table = power.defaults(path)
    assert {(key.study, key.task): of.scatter for key, of in table.items()} == {
        ("first", "Summarize"): 0.5,
        ("gap", "Neural"): 0.09,
    }
    with pytest.raises(InvalidInput, match="no verdicts on effects over worlds"):
        power.tabled([tmp_path], path)


def test_the_table_of_the_package_is_in_order() -> None:
    """It is read without an error, and every row is a finite component of some worlds."""
    for of in power.defaults().values():
        assert of.worlds >= 2
        assert np.isfinite(of.half_width(of.worlds))
    assert power.tabled([]) == power.TABLE.read_text()


def test_widths_are_those_of_deciding_tests_on_the_tasks_that_ran() -> None:
    entries = [
        entry(DETAILS),
        entry(DETAILS, (-0.3, 0.3)) | {"task": "all tasks"},
        entry(DETAILS, (-0.2, 0.2)) | {"task": "Summarize"},
        entry(DETAILS, None) | {"claim": "C3"},
        entry(DETAILS, unit="nats", rule={"rope": 0.0}) | {"claim": "C4"},
        entry(DETAILS) | {"study": "other"},
    ]
    found = widths(entries, "gap", ["Neural", "Summarize"])
    assert [(width.claim, width.task) for width in found] == [("C2", "Summarize"), ("C2", "Neural")]
    assert [width.points for width in found] == pytest.approx([0.2 / 0.035, 0.1 / 0.035])

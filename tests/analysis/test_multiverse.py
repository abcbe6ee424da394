"""The multiverse of an effect: the specification of a claim is the claim's own, and the others are what they say."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated_multiverse import study_of_lines

from analysis.figures import multiverse as figure
from analysis.load import Results, load
from analysis.verdicts import verdict
from analysis.verdicts.evidence import Pool
from analysis.worlds import multiverse
from analysis.worlds.multiverse import EQUAL, USUAL, ByRun, parabola, straight, subsets
from analysis.worlds.smoother import Checkpoints
from sweeps.claims import Claim, Test
from sweeps.estimands import BestDifference, InWorlds, Unanswerable, WorldEstimate
from sweeps.rules import More

RECORDED = Path(__file__).parents[1] / "recorded" / "gap-three-worlds"


def specifications(results: Results) -> Any:
    return multiverse.specifications(results, Pool.of(results).hyperparameters)


@pytest.fixture(scope="module")
def results() -> Results:
    return load(RECORDED)


@pytest.fixture(scope="module")
def table(results: Results) -> Any:
    return specifications(results)


def test_the_claims_own_specification_is_their_verdict(results: Results, table: Any) -> None:
    """Estimate and interval of C2 and C3.8 agree with the verdicts, and what stands beside them is there as well."""
    entries = [entry for entry in verdict.decide(results) if entry["task"] in results.tasks]
    entries = [entry for entry in entries if entry["claim"] in ("C2", "C3.8")]
    windows = {"C2": "0.5 to 3 nats", "C3.8": "best within 8 nats"}
    own = table[table["claimed"]]
    for entry in entries:
        row = own[(own["task"] == entry["task"]) & (own["window"] == windows[entry["claim"]])]
        row = row[row["outcome"] == "golden_reward"].squeeze()
        assert entry["estimate"] == pytest.approx(row["estimate"], abs=1e-3)
        assert entry["interval"] == pytest.approx([row["low"], row["high"]], abs=2e-3)
        assert entry["verdict"] == row["verdict"]
    assert len(entries) == 4
    assert len(own) == 2 * (1 + 3 + 1 + 3)


def test_there_are_sixty_specifications_and_more(results: Results, table: Any) -> None:
    choices = ["task", "first", "second", *multiverse.CHOICES]
    assert not table[choices].duplicated().any()
    answered = table[table["estimate"].notna()]
    assert (answered.groupby("task").size() >= 60).all()
    assert (
        (answered["low"] < answered["estimate"]) & (answered["estimate"] < answered["high"])
    ).all()
    assert (table.loc[table["estimate"].isna(), "reason"] != "").all()
    one_at_a_time = (table["pooling"] != USUAL["pooling"]).astype(int) + (table["worlds"] != "all")
    assert one_at_a_time.max() == 1
    assert set(table["settings"]) >= {USUAL["settings"], EQUAL}


def test_every_smoother_finds_straight_curves() -> None:
    """Arms whose golden reward grows by 0.5 and 0.3 a unit of d: every window, smoother and choice of worlds gives the
    difference at the window's middle, or at the budget."""
    found: Any = specifications(study_of_lines((0.5, 0.3), worlds=6))
    assert set(found["outcome"]) == {"golden_reward"}
    assert set(found["worlds"]) == {"all", "first half", "second half", "without the extreme one"}
    near = found[found["window"] == "0.5 to 3 nats"]
    middle = (0.5**0.5 + 3**0.5) / 2
    np.testing.assert_allclose(near["estimate"], 0.2 * middle, atol=0.02)
    best = found[found["window"] == "best within 4 nats"]
    np.testing.assert_allclose(best["estimate"], 0.4, atol=0.03)
    assert (near["verdict"] == "reproduced").all()
    assert near["claimed"].sum() == 1


def test_claims_of_equal_settings_are_marked_where_arms_have_no_others() -> None:
    """Both arms ran the same two settings, so that "common, equal steps" would leave nothing out."""
    lines = study_of_lines((0.5, 0.3), worlds=4)
    best = BestDifference("first", "second", within=4.0, equal=True)
    claim = Claim("X2", "It goes further.", (Test(best, More(0.07)),), "It does not.")
    asked: Any = dataclasses.replace(lines, study={**lines.study, "claims": [claim.describe()]})
    marked = specifications(asked).query("claimed")
    assert EQUAL not in set(marked["settings"])
    assert marked[["window", "settings"]].to_numpy().tolist() == [["best within 4 nats", "all"]]


def test_smoothers_by_hand() -> None:
    d, change = np.array([2.0, 1.0]), np.array([0.0, 1.0])
    np.testing.assert_allclose(straight(d, change, np.array([0.5, 1.5])), [0.5, 0.5])
    np.testing.assert_allclose(parabola(d, change, np.array([1.0, 2.0])), [1.0, 0.0], atol=1e-12)
    runs = Checkpoints(
        np.array([1.0, 2.0, 1.0]),
        np.array([1.0, 0.0, 3.0]),
        np.array([0, 0, 1]),
        np.array([0, 0, 1]),
    )
    curve = ByRun(runs, 10.0, straight)
    # The second run ends at d = 1, before the middle of a window from 1 to 2.
    assert curve.window(1.0, 2.0).value == pytest.approx(0.5)
    assert curve.window(0.0, 1.0).value == pytest.approx((0.5 + 1.5) / 2)
    assert curve.best(2.0).value == pytest.approx(3.0)
    assert ByRun(runs, 10.0, lambda d, change, at: at - 9.0).best(2.0).value == 0.0
    with pytest.raises(Unanswerable, match="no checkpoint lies beyond"):
        curve.window(2.0, 3.0)


def test_subsets_of_worlds() -> None:
    effects = InWorlds({w: WorldEstimate(v) for w, v in enumerate([0.0, 0.1, 5.0, 0.2, 0.3])})
    chosen = {name: sorted(some.estimates) for name, some in subsets(effects).items()}
    assert chosen == {
        "first half": [0, 1],
        "second half": [2, 3, 4],
        "without the extreme one": [0, 1, 3, 4],
    }
    few = InWorlds({w: WorldEstimate(float(w)) for w in range(2)})
    assert subsets(few) == {}


def test_the_figure_shows_every_answered_specification(
    table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = figure.draw(table)
    upper = [axes for axes in drawn.axes if axes.get_title()]
    assert [axes.get_title() for axes in upper] == [
        "Neural: online − offline",
        "Summarize: online − offline",
    ]
    answered = table[table["estimate"].notna()].groupby("task").size()
    for axes, task in zip(upper, ("Neural", "Summarize"), strict=True):
        points: Any = axes.collections[-2].get_offsets()
        assert len(points) == answered[task]
        assert (np.diff(points[:, 1]) >= 0).all()
    monkeypatch.setattr(figure, "specifications", lambda results, smoothness, curve: table)
    figure.main([str(RECORDED), "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} >= {"multiverse.csv", "multiverse.png"}

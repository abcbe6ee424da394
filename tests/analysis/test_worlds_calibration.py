"""Simulated truths, and a part of the calibration of intervals over worlds."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.worlds import calibration, whole_calibration
from analysis.worlds.calibration import CELLS, Cell, across, summary
from analysis.worlds.truths import CONTRASTS, TRUTHS, D, checkpoints


def test_every_truth_is_judged_in_every_design() -> None:
    assert len(CELLS) == len(set(CELLS)) == 6 * 2 * 3
    assert {cell.worlds for cell in CELLS} == {6, 16, None}


def test_contrasts_by_hand() -> None:
    """Straight curves of slopes 1 and 1/2: near, the mean of d / 2 over the window; best, half of the budget's d."""
    curves = np.stack([D, D / 2])[None]
    inside = D[(D**2 >= 0.5) & (D**2 <= 3.0)]
    assert CONTRASTS["C2"](curves) == pytest.approx([inside.mean() / 2])
    assert CONTRASTS["C3.8"](curves) == pytest.approx([D[D**2 <= 8.0].max() / 2])


@pytest.mark.parametrize("name", TRUTHS)
def test_truths_are_what_they_say(name: str) -> None:
    """Curves begin at 0; the stated effect is the mean over worlds that were not used for it, within five standard
    errors of 2,000 worlds; simulated checkpoints lie on their curves up to their noise."""
    truth, rng = TRUTHS[name], np.random.default_rng(0)
    for task in (0, 1):
        curves = truth.curves(rng, 2000, task)
        assert np.abs(curves[..., 0]).max() < 1e-5
        for contrast, measure in CONTRASTS.items():
            effects = measure(curves)
            apart = effects.mean() - truth.effect(contrast, task, 20_000)
            assert abs(apart) < 5 * effects.std() / 2000**0.5 * 1.1
    measured = checkpoints(truth, curves[:5], rng, run=0.0, noise=1e-6)
    for world, arms in zip(curves[:5], measured, strict=True):
        for curve, points in zip(world, arms, strict=True):
            apart = points.change - np.interp(points.d, D, curve)
            # What is left is the setting's own deviation, which grows with d.
            assert np.abs(apart).max() < 1e-4 + 5 * truth.setting * points.d.max() / 2
            assert set(points.setting) == {0, 1}


def test_the_special_truths() -> None:
    rng = np.random.default_rng(1)
    quiet = CONTRASTS["C2"](TRUTHS["nothing on one task"].curves(rng, 500, 1))
    assert np.std(quiet) < 0.02
    assert abs(np.mean(quiet)) < 0.005
    odd = CONTRASTS["C2"](TRUTHS["one odd in ten"].curves(rng, 4000, 0))
    plain = CONTRASTS["C2"](TRUTHS["wandering"].curves(rng, 4000, 0))
    assert np.std(odd) > 1.5 * np.std(plain)
    unequal = TRUTHS["unequal"]
    scatter = [np.std(CONTRASTS["C2"](unequal.curves(rng, 2000, task))) for task in (0, 1)]
    assert scatter[1] > 3 * scatter[0]


@pytest.mark.parametrize("cell", [Cell("wandering", "C2", 16), Cell("one odd in ten", "C3.8", 6)])
def test_intervals_over_worlds_cover(cell: Cell) -> None:
    """200 simulations on each of two tasks: 0.9 within five standard errors (0.021 each), fixed keys."""
    rows: Any = across(cell, 200)
    assert len(rows) == 400
    assert (rows["covers"] == ~(rows["above"] | rows["below"])).all()
    covered: Any = summary(rows)["covers"]
    assert ((covered > 0.795) & (covered <= 1.0)).all()


def test_a_growing_design_stops_by_its_width_alone() -> None:
    """It stops at the precision or at its largest size, whatever the effect is."""
    rng = np.random.default_rng(2)
    values, errors = 0.15 * rng.normal(size=calibration.MOST), np.full(calibration.MOST, 0.02)
    widths = [
        np.diff(calibration.grown(values + by, errors, 0.07).quantile(np.array([0.05, 0.95])))[0]
        for by in (0.0, 5.0)
    ]
    assert widths[0] == pytest.approx(widths[1], rel=1e-6)
    assert widths[0] <= 0.14
    wide = calibration.grown(20 * values, errors, 0.07)
    assert np.diff(wide.quantile(np.array([0.05, 0.95])))[0] > 0.14


@pytest.mark.slow
def test_the_whole_way_from_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six studies of two truths, on each of two tasks, fixed keys: estimates are right on average, errors of worlds
    without effects of settings are of the stated size, and at most eleven of 48 intervals miss the truth (by chance
    once in 200 at 90%). A second call continues the file of the first."""
    monkeypatch.setattr(whole_calibration, "PART", 3)
    monkeypatch.setattr(
        whole_calibration, "TRUTHS", {name: TRUTHS[name] for name in ("wandering", "by setting")}
    )
    file = tmp_path / "rows.csv"
    first: Any = whole_calibration.complete(3, file)
    rows: Any = whole_calibration.complete(6, file)
    assert len(first) == 3 * 2 * 2 * 2
    assert len(rows) == 2 * len(first)
    pd.testing.assert_frame_equal(rows.iloc[: len(first)], first)
    assert not rows[["truth", "contrast", "task", "estimate"]].duplicated().any()
    assert (~rows["covers"]).sum() <= 11
    found: Any = whole_calibration.summary(rows)
    assert (found["studies"] == 6).all()
    assert (found["half_width"] < 0.2).all()
    # Worlds scatter by about 0.1: the mean over 16 of them, and over 6 studies, by 0.01.
    assert (found["off"].abs() < 0.06).all()
    assert (found.loc[found["truth"] == "wandering", "squared"] < 2.5).all()

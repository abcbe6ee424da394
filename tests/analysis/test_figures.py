"""Numbers of figures against curves that a test knows."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from simulated import Truth, simulate

from analysis.figures import curves, effects
from analysis.figures.curves import Outcome
from analysis.figures.style import WIDE, CaptionedFigure
from analysis.load import results
from analysis.verdicts import verdict


def test_numbers_that_a_reader_reads_are_whole_on_pages():
    """Coordinates are rounded to hundredths of a point, to keep pages small; labels are not."""

    def draw(width):
        figure = Figure(figsize=(width, 1))
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1])
        axes.set_xticks([0.3], ["learning_rate 0.0003"])
        return figure

    page = CaptionedFigure("one", "heading", "alt", "caption", draw).inline(WIDE)
    assert "learning_rate 0.0003" in page
    assert not re.search(r'd="[^"]*\d\.\d{3}', page)


ARMS = ("online", "offline", "third")
TRUTH = Truth((1.2, 0.6, 0.9), (2.0, 2.0, 4.0), (3.0, 3.0, 3.0), shared=0.05, own=0.02, arms=ARMS)


@pytest.fixture(scope="module")
def panels():
    rows = simulate(TRUTH, np.random.default_rng(0), seeds=4, settings=2).assign(task="Neural")
    header = {"study": "of this test", "arms": {arm: {} for arm in ARMS}, "claims": []}
    return verdict.gather(results(header, rows))


def test_bests_and_their_places_are_those_of_the_truth(panels):
    """The third arm is still rising at the end of its range, at d = 3, where it has 15/16 of its height."""
    table = effects.peaks_table(panels, ARMS, "golden_reward").set_index("arm")
    assert table["gain"].to_dict() == pytest.approx(
        {"online": 1.2, "offline": 0.6, "third": 0.9 * 15 / 16}, abs=0.12
    )
    assert (table["low"] < table["gain"]).all()
    assert (table["gain"] < table["high"]).all()
    assert table["kl"][["online", "offline"]].to_list() == pytest.approx([4.0, 4.0], rel=0.3)
    assert table["place"].to_dict() == {"online": "inside", "offline": "inside", "third": "end"}


def test_differences_are_within_worlds(panels):
    """The worlds' common part, which is in every curve, cancels in a difference."""
    outcome = Outcome("golden_reward", "reward", [("online", "offline")], [(0.5, 3.0)])
    shown = curves.panel(panels["Neural"], (*ARMS, "never ran"), outcome)
    assert set(shown.curves) == set(ARMS)
    assert shown.lacking == ["arm never ran has no checkpoints after the first step"]
    difference = shown.differences["online", "offline"]
    at = int(np.argmin(np.abs(difference.d - 2.0)))
    assert difference.mean[at] == pytest.approx(0.6, abs=0.08)
    table = curves.frontier_table({"Neural": shown}, "golden_reward")
    assert set(table["kind"]) == {"mean", "world"}
    lines = table[table["kind"] == "world"].groupby(["arm", "less"])["seed"].nunique()
    assert lines.to_dict() == {(arm, ""): 4 for arm in ARMS} | {("online", "offline"): 4}

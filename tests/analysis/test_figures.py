"""Numbers of figures against curves that a test knows."""

import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from simulated import Truth, simulate

from analysis.figures import curves, effects
from analysis.figures.curves import Outcome
from analysis.figures.inline import inlined
from analysis.figures.printing import laid_out
from analysis.figures.style import NARROW, WIDE, CaptionedFigure
from analysis.load import results
from analysis.verdicts import verdict


def test_numbers_that_a_reader_reads_are_whole_on_pages():
    """Coordinates are rounded, to keep pages small; labels are not."""

    def draw(width):
        figure = Figure(figsize=(width, 1))
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1])
        axes.set_xticks([0.3], ["learning_rate 0.0003"])
        return figure

    page = CaptionedFigure("one", "heading", "alt", "caption", draw).inline(WIDE)
    assert "learning_rate 0.0003" in page
    assert not re.search(r'd="[^"]*\d\.\d{3}', page)


SVG = """<?xml version="1.0"?>
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="99pt" viewBox="0 0 99 99" xmlns="http://www.w3.org/2000/svg">
 <metadata>made by hand</metadata>
 <defs><style type="text/css">*{stroke-linejoin: round}</style></defs>
 <g id="figure_1">
  <g id="patch_1"><path d="M 0 99 L 99 99 z" style="fill: none; opacity: 0"/></g>
  <g id="line_1"><path d="M 10.26 20 L 12.36 20 L 12.36 19.01 L 15.3 16.04 z" clip-path="url(#pa)"
   style="fill: none; stroke: #0072b2; opacity: 0.5"/></g>
  <g id="line_2"><path d="M 10 20 L 10.001 20" clip-path="url(#pa)"
   style="fill: none; stroke: #0072b2; opacity: 0.5"/></g>
  <defs><path id="m1" d="M 0 1.234567 C 2 3 4 5 -0.5 -6"/></defs>
  <g><use xlink:href="#m1" x="50.04" y="60" style="fill: #0072b2; opacity: 0.5"/></g>
  <text style="font-size: 9px; font-family: 'A', 'B'" transform="rotate(-0 1 2)" x="5" y="6">a &lt; 0.0003</text>
  <text transform="rotate(-90 1 2)" x="5" y="6">up</text>
 </g>
 <defs><clipPath id="pa"><rect x="1" y="2" width="90" height="90"/></clipPath></defs>
</svg>"""


def test_svg_of_matplotlib_in_short_form():
    """What nobody sees is gone, neighbours of one style share it, lines are steps in tenths of a point, marks keep
    hundredths, a dot stays a dot, and opacity is that of each line or area, not of their group."""
    assert inlined(SVG, "f-", 'words "here"') == (
        '<svg role="img" aria-label="words &quot;here&quot;" viewBox="0 0 99 99" '
        'style="stroke-linejoin:round;stroke-linecap:butt">'
        '<g style="fill:none;stroke:#0072b2;stroke-opacity:0.5" clip-path="url(#f-0)">'
        '<path d="M10.3 20h2.1v-1l2.9-3z"/><path d="M10 20h0"/></g>'
        '<defs><path id="f-1" d="M0 1.23C2 3 4 5 -.5 -6"/></defs>'
        '<use href="#f-1" x="50" y="60" style="fill:#0072b2;fill-opacity:0.5"/>'
        '<text style="font-size:9px" x="5" y="6">a &lt; 0.0003</text>'
        '<text transform="rotate(-90 1 2)" x="5" y="6">up</text>'
        '<defs><clipPath id="f-0"><rect x="1" y="2" width="90" height="90"/></clipPath></defs></svg>'
    )


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_words_of_effects_overlap_nothing(width):
    """The longest effects that studies have, with the longest verdict: no two words of a figure share a place, and none
    leaves the panel. All words stand there."""
    effect = (
        "the proxy's accuracy in window 1 to 2 − the proxy's accuracy in window 9 to 10, online"
    )
    rows = [
        {
            "claim": "C8", "task": task, "effect": words, "unit": "", "estimate": 0.1, "interval": [0.0, 0.2],
            "rule": {"rope": 0.02}, "verdict": "contradicted",
        }
        for task, words in [("Summarize", effect), ("Neural", "accuracy"), ("all tasks", effect)]
    ]  # fmt: skip
    figure = laid_out(effects.forest(rows, width))
    [axes] = figure.axes
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [words.get_window_extent(renderer) for words in axes.texts]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])
        assert axes.bbox.x0 - 1 <= box.x0
        assert box.x1 <= axes.bbox.x1 + 1
    said = [words.get_text() for words in axes.texts]
    assert said.count("contradicted") == 3
    assert " ".join(said).count(effect) == 2


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

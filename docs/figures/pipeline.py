"""Draws the figures of docs/concepts.md: `uv run python docs/figures/pipeline.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

INK, LINE = "#20242c", "#5b6472"
MADE, LEARNT, JUDGED = "#e3edf7", "#fdf0d8", "#e4f2e6"


class Box(NamedTuple):
    """A step of a pipeline: its centre, its name, a line that explains it, its colour."""

    x: float
    y: float
    name: str
    words: str
    colour: str


#: What a study goes through, from the seed to the verdict.
STUDY = {
    "world": Box(0, 1, "World", "a seed draws prompts,\nwriters, golden reward", MADE),
    "sft": Box(1, 1, "SFT policy", "learns both responses\nof every written pair", LEARNT),
    "data": Box(2, 1, "D_golden", "a labeler prefers one\nresponse of each pair", MADE),
    "proxy": Box(3, 1, "Proxy", "a preference model\nlearns D_golden", LEARNT),
    "baseline": Box(
        3, 0.1, "Golden baseline", "an online run on the\ngolden reward itself", LEARNT
    ),
    "runs": Box(4, 1, "Runs", "every arm, rate, beta\nand seed", LEARNT),
    "rows": Box(5, 1, "Measurements", "KL, win rate and more\nat fixed steps", JUDGED),
    "verdict": Box(6, 1, "Verdicts", "curves, intervals, the\nrules written before", JUDGED),
}
STUDY_ARROWS = (
    ("world", "sft"), ("sft", "data"), ("data", "proxy"), ("sft", "baseline"), ("proxy", "runs"),
    ("baseline", "rows"), ("runs", "rows"), ("rows", "verdict"),
)  # fmt: skip
#: One step of training, the same for every arm.
STEP = {
    "source": Box(0, 1, "Source", "the data, the policy,\nor an earlier policy", MADE),
    "teacher": Box(1, 1, "Teacher", "labeler, proxy or\ngolden reward", MADE),
    "score": Box(2, 1, "Scores", "log-likelihoods under\npolicy and reference", LEARNT),
    "loss": Box(3, 1, "Loss", "one number a pair,\na mean over the batch", LEARNT),
    "policy": Box(4, 1, "Policy", "one gradient step", LEARNT),
}
STEP_ARROWS = (("source", "teacher"), ("teacher", "score"), ("score", "loss"), ("loss", "policy"))


def draw(
    boxes: Mapping[str, Box], arrows: Sequence[tuple[str, str]], path: Path, loop: str = ""
) -> None:
    """Write a figure; with ``loop`` an arrow goes back from the last box to the first, labelled so."""
    right = max(box.x for box in boxes.values())
    low = min(box.y for box in boxes.values()) - (0.9 if loop else 0.4)
    figure, axes = plt.subplots(figsize=(1.8 * (right + 1), 1.7 * (1.4 - low)))
    axes.set_axis_off()
    axes.set_xlim(-0.5, right + 0.5)
    axes.set_ylim(low, 1.4)
    for start, end in arrows:
        (x, y), (u, v) = ((boxes[name].x, boxes[name].y) for name in (start, end))
        arrow = {"arrowstyle": "-|>", "color": LINE, "shrinkA": 0, "shrinkB": 0}
        if y == v:
            axes.annotate("", (u - 0.43, v), (x + 0.43, y), arrowprops=arrow)
        elif y > v:
            axes.annotate("", (u - 0.43, v), (x, y - 0.33), arrowprops=arrow)
        else:
            axes.annotate("", (u, v - 0.33), (x + 0.43, y), arrowprops=arrow)
    if loop:
        arrow = {"arrowstyle": "-|>", "color": LINE, "connectionstyle": "arc3,rad=-0.12"}
        axes.annotate("", (0, 0.62), (right, 0.62), arrowprops=arrow)
        axes.text(right / 2, 0.22, loop, ha="center", va="center", color=LINE, fontsize=8)
    for box in boxes.values():
        shape = FancyBboxPatch(
            (box.x - 0.4, box.y - 0.3), 0.8, 0.6, "round,pad=0.03,rounding_size=0.06",
            facecolor=box.colour, edgecolor=LINE, linewidth=0.8,
        )  # fmt: skip
        axes.add_patch(shape)
        axes.text(box.x, box.y + 0.17, box.name, ha="center", va="center", color=INK,
                  fontsize=8.5, fontweight="bold")  # fmt: skip
        axes.text(box.x, box.y - 0.1, box.words, ha="center", va="center", color=INK, fontsize=6.5)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    here = Path(__file__).parent
    with plt.rc_context(
        {"svg.hashsalt": "pipeline", "svg.fonttype": "none", "font.family": "DejaVu Sans"}
    ):
        draw(STUDY, STUDY_ARROWS, here / "pipeline.svg")
        draw(STEP, STEP_ARROWS, here / "step.svg", "online: the next texts are by the new policy")

"""A study page's table on sampling errors: what it buys that arms answer the same evaluation prompts."""

import math

import numpy as np

from analysis import html
from analysis.figures.inputs import estimands
from analysis.html import Html
from analysis.load import Results
from analysis.worlds import by_prompt
from sweeps.estimands import Unanswerable


def section(results: Results) -> Html:
    """The table for the pairs of arms that claims compare; empty if no run kept its outcomes by prompt."""
    rows = []
    for task in results.tasks:
        for first, second in _compared(results):
            try:
                worlds = list(by_prompt.in_worlds(results, task, (first, second)).values())
            except Unanswerable:
                continue
            if worlds:
                mean = by_prompt.Pairing.mean(worlds)
                errors = [math.sqrt(max(x, 0.0)) for x in (mean.paired, mean.unpaired)]
                rows.append(
                    (
                        task,
                        f"{first} − {second}",
                        len(worlds),
                        *(f"{error:.3f}" for error in errors),
                        f"{mean.ratio:.2f}",
                        f"{np.median([world.correlation for world in worlds]):.2f}",
                    )
                )
    if not rows:
        return Html("")
    words = html.paragraph(
        "Arms of a world answer the same prompts. The standard error of a difference of two arms’ golden reward at "
        "about the same KL (0.5 to 3 nats), in one world, from prompts and sampled answers alone: as measured, paired "
        "by prompt, and as it would be if each arm had prompts of its own. The ratio is of variances, the correlation "
        "between the arms’ rewards over prompts. Intervals do not use these numbers: the scatter of checkpoints around "
        "their curves holds them already."
    )
    header = ("task", "arms", "worlds", "paired", "unpaired", "ratio", "correlation")
    return html.section(
        "pairing", "What pairing by prompt buys", words, html.table(header, rows, 5)
    )


def _compared(results: Results) -> list[tuple[str, str]]:
    """The pairs of arms that claims compare, and that the study ran."""
    pairs = [(str(one.get("first")), str(one.get("second"))) for one in estimands(results)]
    return list(dict.fromkeys(pair for pair in pairs if set(pair) <= set(results.arms)))

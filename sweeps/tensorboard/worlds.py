"""Effects of worlds for TensorBoard: each effect's values in the worlds, and how its interval narrows with their
number."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tensorboardX import summary as summaries

from sweeps.tensorboard import events

WORLDS, HALF_WIDTH = "worlds", "half_width"
"""Groups of tags: a histogram of the worlds' estimates; half the width of the 90% interval, whose step is the number of
worlds."""


def effects(verdicts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Any, int]]:
    """Summaries with their steps, for every test of every verdict that is measured in worlds."""
    for row in verdicts:
        tests = row.get("tests", ())
        for index, test in enumerate(tests, 1):
            name = f"{row['claim']}/{row['task']}" + (f"/{index}" if len(tests) > 1 else "")
            details = test.get("details", {})
            estimates = [world["estimate"] for world in details.get("worlds", ())]
            known = np.array([one for one in estimates if one is not None], dtype=float)
            if len(known):
                histogram = summaries.histogram(WORLDS, known, "auto")
                # tensorboardX would change names of tasks.
                histogram.value[0].tag = f"{WORLDS}/{name}"
                yield histogram, len(known)
            for count, width in details.get("half_widths", ()):
                yield events.values({f"{HALF_WIDTH}/{name}": width}), int(count)

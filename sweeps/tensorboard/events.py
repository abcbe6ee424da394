"""TensorBoard's event files: logs and their summaries, as protocol buffers of tensorboardX."""

import contextlib
import itertools
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tensorboardX import summary as summaries
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import Summary  # pyright: ignore[reportAttributeAccessIssue]

from sweeps.tensorboard.log_names import NAMES

if TYPE_CHECKING:
    # pandas infers a union of a dozen types for every selection; see `analysis.load`.
    Table = Any
else:
    Table = pd.DataFrame
_events: Any = event_pb2
_SUFFIX = ".testbed"
_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST = float(np.finfo(np.float32).max)
LOWER, MIDDLE, UPPER = 0.25, 0.5, 0.75

Add = Callable[[Any, int], None]
"""Adds a summary to a log at a step."""
Margin = tuple[str, str, str]
"""A chart's series with a band: the tags of its middle, lower and upper values."""


@contextlib.contextmanager
def log(directory: Path) -> Iterator[Add]:
    """A new log in a directory; its name is unique, so that two logs do not overwrite each other. The log begins with a
    restart mark: a TensorBoard that shows an earlier log of the directory then forgets the earlier log.

    Records are written as they come. tensorboardX's own writer starts a thread per log and waits for it, which takes
    half a minute for a thousand logs.
    """
    directory.mkdir(parents=True, exist_ok=True)
    now = time.time()
    name = f"events.out.tfevents.{int(now)}.{uuid.uuid4().hex[:8]}{_SUFFIX}"
    writer = RecordWriter(str(directory / name))
    try:
        begin = _events.SessionLog(status=_events.SessionLog.START)
        for first in ({"file_version": "brain.Event:2"}, {"session_log": begin}):
            writer.write(_events.Event(wall_time=now, **first).SerializeToString())
        yield lambda value, step: writer.write(
            _events.Event(wall_time=now, step=step, summary=value).SerializeToString()
        )
    finally:
        writer.close()


def clear(root: Path) -> None:
    """Remove the event files of an earlier call, the files that describe them, and the directories that become
    empty."""
    for file in [*root.rglob(f"events.out.tfevents.*{_SUFFIX}"), *root.glob(f"*/{NAMES}")]:
        file.unlink()
    for directory in [*sorted(root.rglob("*"), reverse=True), root]:
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


def scalars(add: Add, table: Table) -> None:
    """Add one event per step with all its values; tags are columns, steps are rows. Non-finite values are left out."""
    tags = list(table.columns)
    for step, row in zip(table.index.tolist(), table.to_numpy(float).tolist(), strict=True):
        add(values(dict(zip(tags, row, strict=True))), step)


def values(numbers: Mapping[str, float]) -> Any:
    """Scalars of one step; values that are not finite, or too large for 32 bits, are left out."""
    return Summary(
        value=[
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in numbers.items()
            # TensorBoard stores numbers in 32 bits.
            if abs(value) <= _LARGEST
        ]
    )


def histogram(tag: str, quantiles: Sequence[float], limits: Sequence[float], count: float) -> Any:
    """A distribution of ``count`` values of which only ``quantiles`` are known: the shares between the quantiles, each
    spread evenly within its ``limits``. Values beyond the outermost quantiles are not shown."""
    shares = [b - a for a, b in itertools.pairwise(quantiles)]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(limits)]
    counts = [share * count for share in shares]
    total = math.fsum(n * x for n, x in zip(counts, middles, strict=True))
    squares = math.fsum(n * x * x for n, x in zip(counts, middles, strict=True))
    return summaries.histogram_raw(
        tag, limits[0], limits[-1], math.fsum(counts), total, squares, list(limits), [0.0, *counts]
    )


def is_png(path: Path) -> bool:
    """Whether `image` can show a file: the file must be readable and have a PNG's first chunk."""
    try:
        with path.open("rb") as file:
            first = file.read(24)
    except OSError:
        return False
    return len(first) == 24 and first.startswith(_PNG) and first[12:16] == b"IHDR"


def image(figure: Path) -> Any:
    """A PNG file, unchanged; its header holds the width and height (PNG specification, 11.2.2)."""
    data = figure.read_bytes()
    size = [int.from_bytes(data[start : start + 4], "big") for start in (16, 20)]
    shown = Summary.Image(width=size[0], height=size[1], colorspace=4, encoded_image_string=data)
    return Summary(value=[Summary.Value(tag=f"figures/{figure.stem}", image=shown)])


def layout(categories: Mapping[str, Mapping[str, Margin]]) -> Any:
    """The charts of CUSTOM SCALARS by category and title, each with one series; every log that has the series is
    drawn."""
    # The page shows a category's last chart first.
    charts = {
        title: {name: ["Margin", list(series)] for name, series in reversed(list(of.items()))}
        for title, of in categories.items()
    }
    return summaries.custom_scalars(charts)

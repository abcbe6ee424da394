"""What TensorBoard shows of a results directory: logs made anew from the stores, when runs are done and meanwhile."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from sweeps import tensorboard
from sweeps.pace import Pace
from sweeps.store import Store, read_stores

#: Seconds from one preview to the next, at least.
SECONDS = 60.0

Row = dict[str, Any]
#: A store and its table, as `read_stores` gives them.
Opened = tuple[Store, pd.DataFrame]
#: Draws figures of the results in a directory, whose stores have been read.
Draw = Callable[[Path, Sequence[Opened]], object]


def mirror(directory: Path, opened: Sequence[Opened], more: tensorboard.More | None = None) -> Path:
    """Write TensorBoard's logs of a results directory; the directory to give to TensorBoard."""
    verdicts = read_verdicts(directory)
    studies = [
        tensorboard.Logged(
            table,
            store.header,
            figures=sorted((directory / "report" / "figures").glob(f"{name}-*.png")),
            verdicts=[row for row in verdicts if row.get("study", name) == name],
        )
        for store, table in opened
        for name in [store.header["study"]]
    ]
    return tensorboard.write(studies, directory, more)


def read_verdicts(directory: Path) -> list[Row]:
    """The verdicts that the analysis wrote; none before it has run."""
    path = directory / "report" / "verdicts.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


class Preview:
    """Logs of what there is so far, renewed now and then; ``draw`` draws their figures."""

    def __init__(self, directory: Path, draw: Draw | None, console: Console) -> None:
        self._directory, self._draw, self._console = directory, draw, console
        self._pace = Pace(SECONDS)

    def renew(self) -> None:
        """Write them anew if it is time."""
        if self._draw is None or not self._pace.due():
            return
        with self._pace:
            try:
                opened = read_stores(self._directory)
                self._draw(self._directory, opened)
                mirror(self._directory, opened)
            # What is only looked at must not end the runs, whatever it is that went wrong.
            except Exception as problem:
                self._draw = None
                self._console.print(
                    f"Note: TensorBoard shows nothing new until the end ({problem})",
                    style="yellow",
                    markup=False,
                )

"""TensorBoard's logs of a results directory, made again from the stores when runs are done and while they go on.

What writes the logs is imported when they are written: it needs pandas and tensorboardX, a plan of runs does not.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sweeps.store import json_files
from sweeps.store.file_names import figure_prefix
from sweeps.store.store import Store, read_stores
from sweeps.throttle import Pace
from testbed import paths

if TYPE_CHECKING:
    from sweeps.tensorboard import writer

#: Seconds from one preview to the next, at least.
SECONDS = 60.0

#: The fields that a row of `verdicts.json` must have to be shown.
VERDICT: json_files.Shape = {
    "claim": str,
    "task": str,
    "verdict": str,
    "study?": str,
    "estimate?": (float, None),
    "interval?": ([float, float], None),
    "tests?": [
        {
            "details?": {
                "worlds?": [{"estimate": (float, None)}],
                "half_widths?": [[float, float]],
            }
        }
    ],
}

Row = dict[str, Any]
#: A store and its table, a `pandas.DataFrame`, as `read_stores` gives them.
Opened = tuple[Store, Any]
#: Draws what can be shown of the results in a directory, whose stores have been read, with the seconds that are left.
Draw = Callable[[Path, Sequence[Opened], float | None], object]


def mirror(directory: Path, opened: Sequence[Opened], more: "writer.More | None" = None) -> Path:
    """Write TensorBoard's logs of a results directory; return the directory to give to TensorBoard."""
    from sweeps.tensorboard import writer

    verdicts = read_verdicts(directory)
    shown = figures(directory, [store.header["study"] for store, _ in opened])
    studies = [
        writer.Logged(
            table,
            store.header,
            figures=shown[name],
            verdicts=[row for row in verdicts if row.get("study", name) == name],
        )
        for store, table in opened
        for name in [store.header["study"]]
    ]
    return writer.write(studies, directory, more)


def read_verdicts(directory: Path) -> list[Row]:
    """The verdicts that the analysis wrote; none before the first analysis. Raises `InvalidInput` if the file is
    damaged."""
    path = directory / "report" / "verdicts.json"
    if not path.is_file():
        return []
    return json_files.read(path, [VERDICT], "delete it, `testbed report` writes it again")


def figures(directory: Path, studies: Sequence[str]) -> dict[str, list[Path]]:
    """The report's PNG files of each study; if several studies' names fit a file, the longest name is used."""
    from sweeps.tensorboard import events

    figures_of: dict[str, list[Path]] = {name: [] for name in studies}
    by_length = sorted(figures_of, key=len, reverse=True)
    for path in sorted((directory / "report" / "figures").glob("*.png")):
        owners = (name for name in by_length if path.name.startswith(figure_prefix(name)))
        owner = next(owners, None)
        if owner is not None and events.is_png(path):
            figures_of[owner].append(path)
    return figures_of


class Preview:
    """What people can look at while runs go on, renewed from time to time: ``draw`` draws figures and a provisional
    page of the results so far, TensorBoard's logs show the rest."""

    def __init__(self, directory: Path, draw: Draw | None, console: Console) -> None:
        self._directory, self._draw, self._console = directory, draw, console
        self._pace, self._told = Pace(SECONDS), False

    def renew(self, compared: bool = False, left: float | None = None) -> None:
        """Renew it if it is due; also, once, as soon as there are worlds that can be ``compared``: the first answer.
        ``left``: seconds until the runs are done, if known."""
        first = compared and not self._told
        if self._draw is None or not (first or self._pace.due()):
            return
        with self._pace:
            try:
                opened = read_stores(self._directory)
                self._draw(self._directory, opened, left)
                mirror(self._directory, opened)
            # An error in a preview must not end the runs, whatever the error is.
            except Exception as problem:
                self._draw = None
                self._console.print(
                    f"Note: the report and TensorBoard show nothing new until the end ({problem})",
                    style="yellow",
                    markup=False,
                )
                return
        if first:
            self._told = True
            page = paths.shown(self._directory / "report" / "index.html")
            self._console.print(f"First figure (provisional) in {page}", markup=False)

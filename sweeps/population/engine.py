"""The interface of what computes runs: plans, their execution, and the cost of an execution."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from sweeps.console.progress import Progress
from sweeps.store.parquet import Rows
from sweeps.study import Point

if TYPE_CHECKING:
    from sweeps.population.plan import Plan


@dataclass
class Spent:
    """The cost of an execution: seconds for stages and for runs, and the seconds of the latter in which the devices
    computed; the most bytes that a program needs on all devices together; how often a chunk got fewer slots because
    memory was exhausted."""

    stage_seconds: float = 0.0
    run_seconds: float = 0.0
    busy_seconds: float = 0.0
    bytes: int = 0
    shrunk: int = 0


@runtime_checkable
class Engine(Protocol):
    """The interface that a runner needs of `sweeps.population.host`, or of any other module that computes runs."""

    def plan(self, points: list[Point]) -> "Plan":
        """Group points by compile key, and place them on devices."""
        ...

    def execute(self, plan: Any, on_rows: Callable[[Rows], None], progress: Progress) -> Spent:
        """Run a plan, and hand over the rows of each chunk when the chunk is finished. Return the cost.

        ``on_rows`` takes rows as columns: a mapping from a column's name to its values, with one entry per row (a run
        and an evaluation) in every column; numpy arrays are fastest, lists are allowed. The columns ``run`` (text),
        ``evaluation`` and ``step`` (whole numbers) are required. Further columns are the columns of
        `sweeps.store.parquet.MEASURED`, and any whose name begins with `testbed.metric_table.FACTS`. A missing
        measurement is NaN, or None in a list, or the whole column is absent. Runs may come in any order, each with all
        its rows in one call: a run with one stored row counts as complete. The runner adds the study, arm, seed,
        setting and config of each run. The rows of each call are on disk when ``on_rows`` returns; ``on_rows`` raises
        `InvalidInput` if the disk refuses. A run that no study lacks any more is ignored.
        """
        ...

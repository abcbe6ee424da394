"""What computes runs, as far as those who ask for runs look at it: plans, their execution, and what it took."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from sweeps.console.progress import Progress
from sweeps.store.parquet import Rows
from sweeps.study import Point


@dataclass
class Spent:
    """What an execution took: seconds for stages and for runs, and of these how many the devices were computing; the
    most bytes that a program needs on all devices together; how often a chunk was given fewer slots because memory ran
    out."""

    stage_seconds: float = 0.0
    run_seconds: float = 0.0
    busy_seconds: float = 0.0
    bytes: int = 0
    shrunk: int = 0


@runtime_checkable
class Chunk(Protocol):
    """Runs that are compiled and executed together, as far as the runner looks at them."""

    @property
    def steps(self) -> int:
        """Training steps, summed over runs."""
        ...

    @property
    def bytes(self) -> int:
        """Predicted peak memory."""
        ...

    @property
    def devices(self) -> int:
        """Devices that it is spread over."""
        ...

    @property
    def seconds(self) -> float | None:
        """Predicted time, if it can be told."""
        ...


@runtime_checkable
class Plan(Protocol):
    """What will be executed, in order."""

    @property
    def chunks(self) -> Sequence[Chunk]:
        """One after the other; rows arrive and are stored chunk by chunk."""
        ...

    @property
    def stages(self) -> int:
        """Long stages before training that are not made yet."""
        ...

    @property
    def stage_seconds(self) -> float:
        """Predicted time of these."""
        ...

    @property
    def compile_seconds(self) -> float:
        """Predicted time of compiling, where nothing is compiled yet."""
        ...

    def describe(self) -> list[dict[str, Any]]:
        """Rows of the table that ``--dry-run`` shows."""
        ...


@runtime_checkable
class Engine(Protocol):
    """What a runner needs of `sweeps.population.host`, or of whatever else computes runs."""

    def plan(self, points: list[Point]) -> Plan:
        """Group points by what they compile to, and place them on devices."""
        ...

    def execute(self, plan: Any, on_rows: Callable[[Rows], None], progress: Progress) -> Spent:
        """Run a plan; hand over the rows of each chunk as it finishes. Says what it took.

        ``on_rows`` takes rows as columns: a mapping from a column's name to its values, one entry a row (a run and an
        evaluation) and as many in every column; numpy arrays are cheapest, lists will do. ``run`` (text),
        ``evaluation`` and ``step`` (whole numbers) must be there; further columns are those of
        `sweeps.store.parquet.MEASURED` and any whose name begins with `testbed.metric_table.FACTS`. What was not
        measured is NaN, or None in a list, or no column at all. Runs come in any order, each with all its rows in one
        call: a run of which a row is stored counts as complete. Which study, arm, seed, setting and config a run
        belongs to is added here.
        Each call is stored as it comes, and is on disk when ``on_rows`` returns; it raises `InvalidInput` if the disk
        refuses. A run that no study lacks any more is passed over.
        """
        ...
